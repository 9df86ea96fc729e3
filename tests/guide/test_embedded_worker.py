"""A worker inside a running event loop: `async with app.worker()`; an app that is opened, closed and opened again."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import fastapi
import pytest

from aiotask import AioTask, AioTaskError, BrokerError, Worker, WorkerLost
from aiotask.message import QueueDepth
from aiotask.protocols import FusedFinish

Depth = Callable[..., Awaitable[QueueDepth]]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


class Program:
    """An app with a task that answers, and one that runs until it is let go."""

    def __init__(self, app: AioTask) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.ended: list[str] = []

        @app.task(name="proj.add")
        async def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="proj.work")
        async def work() -> str:
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            self.ended.append("well")
            return "done"

        self.add, self.work = add, work


@pytest.fixture
async def program(app: AioTask) -> Program:
    return Program(app)


# Its scope


async def test_worker_takes_nothing_of_the_program_around_it(app: AioTask, program: Program) -> None:
    root = logging.getLogger()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), sys.stdout, sys.stderr, root.handlers[:]
    levels = root.level, logging.getLogger("aiotask").level, logging.getLogger("aiotask").handlers[:]
    async with app.worker():
        assert await (await program.add.delay(2, 3)).get(timeout=10) == 5
        after = (
            signal.getsignal(signal.SIGINT),
            signal.getsignal(signal.SIGTERM),
            sys.stdout,
            sys.stderr,
            root.handlers[:],
        )
        assert after == before
        assert (root.level, logging.getLogger("aiotask").level, logging.getLogger("aiotask").handlers[:]) == levels


async def test_worker_opens_the_app_and_closes_it(app: AioTask) -> None:
    async with app.worker():
        assert app.broker.connected
        assert app.backend.connected
    assert not app.broker.connected
    assert not app.backend.connected


async def test_worker_leaves_nothing_running_when_it_has_stopped(app: AioTask, program: Program) -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())

    @app.task(name="proj.plain")
    def plain() -> None: ...

    async with app.worker():
        await (await program.add.delay(2, 3)).get(timeout=10)
        await (await plain.delay()).get(timeout=10)
    assert asyncio.all_tasks() == tasks
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("aiotask"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive()


async def test_worker_finishes_what_runs_when_its_scope_ends(app: AioTask, program: Program) -> None:
    async with app.worker():
        result = await program.work.delay()
        await program.started.wait()
        asyncio.get_running_loop().call_soon(program.release.set)
    assert program.ended == ["well"]
    async with app:
        assert await result.get(timeout=10) == "done"


async def test_worker_starts_nothing_after_its_scope_has_ended(app: AioTask, program: Program, depth: Depth) -> None:
    async with app.worker(concurrency=1):
        await program.work.delay()
        waiting = await program.add.delay(2, 3)
        await program.started.wait()
        asyncio.get_running_loop().call_soon(program.release.set)
    assert (await depth()).ready == 1
    assert not await waiting.ready()


async def test_worker_gives_up_waiting_after_its_shutdown_timeout(app: AioTask, program: Program) -> None:
    async with app.worker(shutdown_timeout=0.05):
        result = await program.work.delay()
        await program.started.wait()
    assert program.ended == ["cancelled"]
    async with app:
        with pytest.raises(WorkerLost):
            await result.get(timeout=10)


async def test_worker_stops_at_once_when_its_scope_is_cancelled_while_it_waits(app: AioTask, program: Program) -> None:
    async def scope() -> None:
        async with app.worker():
            await program.work.delay()
            await program.started.wait()

    running = asyncio.create_task(scope())
    await program.started.wait()
    while not running.done() and not program.ended:
        await asyncio.sleep(0.01)
        running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
    assert program.ended == ["cancelled"]
    assert not app.broker.connected


async def test_scope_that_is_cancelled_inside_stops_the_worker_in_order(app: AioTask, program: Program) -> None:
    inside = asyncio.Event()

    async def scope() -> None:
        async with app.worker():
            inside.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(scope())
    await inside.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 5)
    assert not app.broker.connected


async def test_error_of_the_scope_comes_through(app: AioTask) -> None:
    with pytest.raises(ValueError, match="the program's own"):
        async with app.worker():
            raise ValueError("the program's own")
    assert not app.broker.connected


async def test_worker_works_under_a_timeout_and_in_a_task_group(app: AioTask, program: Program) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1), app.worker():
            await asyncio.Event().wait()
    async with asyncio.TaskGroup() as group, app.worker():
        sending = group.create_task(program.add.delay(2, 3))
        assert await (await sending).get(timeout=10) == 5


# Stopping it by hand


async def test_stop_ends_the_wait_and_lets_what_runs_finish(app: AioTask, program: Program) -> None:
    async with app.worker() as worker:
        await program.work.delay()
        await program.started.wait()
        waiting = asyncio.create_task(worker.wait())
        await asyncio.sleep(0)
        assert not waiting.done()
        worker.stop()
        await asyncio.wait_for(waiting, 5)
        assert program.ended == []
        asyncio.get_running_loop().call_soon(program.release.set)
    assert program.ended == ["well"]


async def test_second_stop_cancels_what_runs(app: AioTask, program: Program) -> None:
    async with app.worker() as worker:
        await program.work.delay()
        await program.started.wait()
        worker.stop()
        worker.stop()
    assert program.ended == ["cancelled"]


async def test_second_stop_cancels_what_runs_while_the_scope_waits_for_it(app: AioTask, program: Program) -> None:
    async with app.worker() as worker:
        await program.work.delay()
        await program.started.wait()
        asyncio.get_running_loop().call_later(0.05, worker.stop)
    assert program.ended == ["cancelled"]


async def test_body_that_resists_its_cancellation_is_left_behind(app: AioTask) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    @app.task
    async def stubborn() -> None:
        started.set()
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    result = await stubborn.delay()
    async with asyncio.timeout(5), app.worker() as worker:
        await started.wait()
        worker.stop()
        worker.stop()
    async with app:
        with pytest.raises(WorkerLost):
            await result.get(timeout=10)
    release.set()


async def test_burst_ends_when_everything_that_was_due_has_run_retries_included(app: AioTask) -> None:
    runs: list[int] = []

    @app.task(bind=True)
    async def run(self) -> None:  # type: ignore[no-untyped-def]
        runs.append(self.request.retries)
        await asyncio.sleep(0.02)
        if self.request.retries < 2:
            raise self.retry(countdown=0)

    await run.send_many([()] * 5)
    async with app.worker(burst=True) as worker, asyncio.timeout(10):
        await worker.wait()
    assert sorted(runs) == [0] * 5 + [1] * 5 + [2] * 5


async def test_worker_stops_after_so_many_tasks(app: AioTask, program: Program, depth: Depth) -> None:
    results = await program.add.send_many([(number, 1) for number in range(5)])
    async with app.worker(max_tasks=3) as worker, asyncio.timeout(10):
        await worker.wait()
    async with app:
        assert [await result.ready() for result in results] == [True, True, True, False, False]
        assert (await depth()).ready == 2


# Failing


async def test_failure_of_the_worker_surfaces_in_its_scope(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scope() -> None:
        async with asyncio.timeout(10), app.worker():
            break_receiving(app, monkeypatch)
            await program.add.delay(2, 3)
            await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="the broker is broken"):
        await scope()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    assert not app.broker.connected


async def test_failure_of_the_worker_surfaces_where_its_scope_is_left_when_the_task_that_entered_it_has_ended(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    worker = app.worker()
    await asyncio.create_task(worker.__aenter__())
    running = await program.work.delay()
    await program.started.wait()
    break_receiving(app, monkeypatch)
    await program.add.delay(2, 3)
    await asyncio.wait_for(worker.wait(), 10)
    # At once, and not only where the scope is left: it is logged, and what runs is ended or handed back.
    await until(running.ready)
    [record] = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert (
        record.getMessage() == f"Worker {worker.hostname} has failed, and stops: RuntimeError('the broker is broken')"
    )
    assert app.broker.connected
    with pytest.raises(RuntimeError, match="the broker is broken"):
        await asyncio.create_task(worker.__aexit__(None, None, None))
    assert not app.broker.connected
    assert program.ended == ["cancelled"]


async def test_failure_of_the_worker_cancels_the_task_that_entered_it_though_another_one_leaves_it(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, entered = app.worker(), asyncio.Event()

    async def enter() -> None:
        await worker.__aenter__()
        entered.set()
        await asyncio.Event().wait()

    entering = asyncio.create_task(enter())
    await entered.wait()
    break_receiving(app, monkeypatch)
    await program.add.delay(2, 3)
    await asyncio.wait([entering], timeout=10)
    assert entering.cancelled()
    with pytest.raises(RuntimeError, match="the broker is broken"):
        await worker.__aexit__(None, None, None)
    assert entering.cancelling() == 1  # the cancellation is not taken back by another task


async def test_worker_that_can_not_store_its_outcomes_gives_up_after_a_while(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    async def finish(self: Any, batch: Any) -> Any:
        raise BrokerError("no answer")

    monkeypatch.setattr("aiotask.worker.worker._WRITE_GRACE_S", 0.05)
    program.release.set()
    before = asyncio.all_tasks()
    async with app.worker() as worker:
        broker: Any = app.broker
        [subscription] = broker._subscriptions
        step = "finish" if isinstance(subscription, FusedFinish) else "settle"
        monkeypatch.setattr(type(subscription), step, finish)
        await program.work.delay()
        await program.started.wait()
    assert program.ended == ["well"]
    assert worker.left_behind == 1
    assert "Stopped with 1 outcomes that could not be stored; their messages are left to their leases" in caplog.text

    async def nothing_goes_on_trying() -> bool:
        return asyncio.all_tasks() == before

    await until(nothing_goes_on_trying)  # a driver may end its own tasks a moment later


async def test_failure_of_the_worker_is_told_by_a_fastapi_lifespan(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with app.worker():
            yield

    to_web: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_web: asyncio.Queue[Any] = asyncio.Queue()
    web = fastapi.FastAPI(lifespan=lifespan)
    serving = asyncio.create_task(web({"type": "lifespan", "asgi": {"version": "3.0"}}, to_web.get, from_web.put))
    to_web.put_nowait({"type": "lifespan.startup"})
    async with asyncio.timeout(10):
        assert (await from_web.get())["type"] == "lifespan.startup.complete"
        break_receiving(app, monkeypatch)
        await program.add.delay(2, 3)
        failed = await from_web.get()
        assert failed["type"] == "lifespan.shutdown.failed"
        assert failed["message"].rstrip().endswith("RuntimeError: the broker is broken")
        with pytest.raises(RuntimeError, match="the broker is broken"):
            await serving
    assert not app.broker.connected


async def test_failure_of_the_worker_surfaces_though_the_scope_ends_at_the_same_moment(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scope() -> None:
        async with asyncio.timeout(10), app.worker() as worker:
            break_receiving(app, monkeypatch)
            await program.add.delay(2, 3)
            with contextlib.suppress(asyncio.CancelledError):
                await worker.wait()

    with pytest.raises(RuntimeError, match="the broker is broken"):
        await scope()


async def test_failure_of_the_worker_hides_no_error_of_the_program(
    app: AioTask, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scope() -> None:
        async with asyncio.timeout(10), app.worker():
            break_receiving(app, monkeypatch)
            try:
                await program.add.delay(2, 3)
                await asyncio.Event().wait()
            finally:
                raise ValueError("the program's own")

    with pytest.raises(RuntimeError, match="the broker is broken") as raised:
        await scope()
    assert repr(raised.value.__context__) == 'ValueError("the program\'s own")'


def break_receiving(app: AioTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the next look into the queues raise what no adapter should."""

    async def receive(self: Any, *_: Any) -> Any:
        raise RuntimeError("the broker is broken")

    broker: Any = app.broker
    [subscription] = broker._subscriptions
    monkeypatch.setattr(type(subscription), "receive", receive)
    monkeypatch.setattr(type(subscription), "receive_and_begin", receive, raising=False)  # where a broker has it


async def test_worker_says_why_and_closes_the_app_when_its_tasks_can_not_be_imported(url: str) -> None:
    app = AioTask("proj", broker=url, imports=["no_such_module_of_ours"])
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_ours"):
        async with app.worker():
            pytest.fail("it must not start")
    assert not app.broker.connected


async def test_worker_runs_once(app: AioTask) -> None:
    worker = app.worker()
    async with worker:
        pass
    with pytest.raises(AioTaskError, match=r"A worker runs once\. Ask the app for another: app\.worker\(\)\."):
        async with worker:
            pass


# Entered and left in different asyncio tasks


async def test_worker_can_be_entered_and_left_in_different_asyncio_tasks(app: AioTask, program: Program) -> None:
    worker = app.worker()
    assert await asyncio.create_task(worker.__aenter__()) is worker
    assert await (await program.add.delay(2, 3)).get(timeout=10) == 5
    await asyncio.create_task(worker.__aexit__(None, None, None))
    assert not app.broker.connected


@pytest.fixture
async def worker(app: AioTask) -> AsyncIterator[Worker]:
    async with app.worker(name="fixture") as running:
        yield running


async def test_worker_can_be_a_fixture(worker: Worker, program: Program) -> None:
    assert worker.hostname.startswith("fixture@")
    assert await (await program.add.delay(2, 3)).get(timeout=10) == 5


async def test_worker_can_be_a_fastapi_lifespan(app: AioTask, program: Program) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(_: fastapi.FastAPI) -> AsyncIterator[None]:
        async with app.worker():
            yield

    web = fastapi.FastAPI(lifespan=lifespan)

    @web.get("/sum")
    async def total(x: int, y: int) -> int:
        return await (await program.add.delay(x, y)).get(timeout=10)

    to_web: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    from_web: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send(message: Any) -> None:
        from_web.put_nowait(message)

    async def request() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    serving = asyncio.create_task(web({"type": "lifespan", "asgi": {"version": "3.0"}}, to_web.get, send))
    to_web.put_nowait({"type": "lifespan.startup"})
    async with asyncio.timeout(10):
        assert (await from_web.get())["type"] == "lifespan.startup.complete"
        scope = {"type": "http", "method": "GET", "path": "/sum", "query_string": b"x=2&y=3", "headers": []}
        await web(scope, request, send)
        assert (await from_web.get())["status"] == 200
        assert (await from_web.get())["body"] == b"5"
        to_web.put_nowait({"type": "lifespan.shutdown"})
        while (await from_web.get())["type"] != "lifespan.shutdown.complete":
            pass
        await serving
    assert not app.broker.connected


# Several


async def test_two_workers_in_one_loop_share_the_work(app: AioTask) -> None:
    together = asyncio.Barrier(2)

    @app.task(bind=True)
    async def where(self) -> str:  # type: ignore[no-untyped-def]
        await together.wait()
        return str(self.request.hostname)

    results = await where.send_many([(), ()])
    async with app.worker(name="a", concurrency=1) as a, app.worker(name="b", concurrency=1) as b:
        assert {await result.get(timeout=10) for result in results} == {a.hostname, b.hostname}


async def test_second_worker_goes_on_when_the_first_has_stopped(app: AioTask, program: Program) -> None:
    async with app.worker(name="a"):
        async with app.worker(name="b"):
            assert await (await program.add.delay(2, 3)).get(timeout=10) == 5
        assert app.broker.connected
        assert await (await program.add.delay(3, 4)).get(timeout=10) == 7


async def test_worker_is_called_by_its_name_and_its_host(app: AioTask) -> None:
    host = socket.gethostname()
    assert app.worker().hostname == f"aiotask@{host}"
    assert app.worker(name="web").hostname == f"web@{host}"
    assert app.worker(name="web@rack-5").hostname == "web@rack-5"
    app.conf.worker_name = "mail"
    assert app.worker().hostname == f"mail@{host}"


async def test_as_many_plain_functions_run_at_once_as_executions_when_nothing_says_otherwise(app: AioTask) -> None:
    together = threading.Barrier(30)

    @app.task
    def meet() -> int:
        return together.wait(10)

    before = threading.active_count()
    async with app.worker(concurrency=30):
        assert threading.active_count() < before + 10  # threads are made on demand
        results = await meet.send_many([()] * 30)
        assert sorted([await result.get(timeout=10) for result in results]) == list(range(30))


async def test_no_more_plain_functions_run_at_once_than_there_are_threads(app: AioTask) -> None:
    together = threading.Barrier(3)

    @app.task
    def meet() -> str:
        together.wait(10)
        return threading.current_thread().name

    async with app.worker(concurrency=21, threads=3):
        names = {await result.get(timeout=10) for result in await meet.send_many([()] * 21)}
    assert len(names) == 3


# The app around it


async def test_app_may_be_opened_several_times_over_and_closes_with_the_last(app: AioTask) -> None:
    async with app as outer:
        assert outer is app
        async with app, app.worker():
            assert app.broker.connected
        assert app.broker.connected
    assert not app.broker.connected


async def test_app_connects_at_the_first_call_and_is_closed_by_hand(app: AioTask, program: Program) -> None:
    await program.add.delay(2, 3)
    assert app.broker.connected
    await app.close()
    await app.close()
    assert not app.broker.connected
    result = await program.add.delay(3, 4)
    async with app.worker():
        assert await result.get(timeout=10) == 7


async def test_first_calls_may_come_all_at_once(app: AioTask, program: Program) -> None:
    results = await asyncio.gather(*(program.add.delay(number, 1) for number in range(50)))
    async with app.worker():
        assert [await result.get(timeout=10) for result in results] == list(range(1, 51))


async def test_close_sends_what_waits_to_be_sent(app: AioTask, program: Program, depth: Depth) -> None:
    await app.connect()
    sending = [asyncio.create_task(program.add.delay(number, 1)) for number in range(10)]
    await asyncio.sleep(0)
    await app.close()
    await asyncio.gather(*sending)
    assert (await depth()).ready == 10


async def test_app_that_was_closed_inside_its_scope_is_opened_and_closed_again_later(app: AioTask) -> None:
    async with app:
        await app.close()
    for _ in range(2):
        async with app:
            assert app.broker.connected
        assert not app.broker.connected


def test_app_can_be_used_by_one_event_loop_after_another(url: str) -> None:
    app = AioTask("proj", broker=url)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def run_all(results: list[str]) -> list[int]:
        async with app.worker():
            return [await app.result(id_).get(timeout=10) for id_ in results]

    async def send(count: int) -> list[str]:
        results = await asyncio.gather(*(add.delay(number, 1) for number in range(count)))
        return [result.id for result in results]

    # Neither of the first two closes the app: the loop is gone with its connections.
    first, second = asyncio.run(send(3)), asyncio.run(send(20))
    assert asyncio.run(run_all(first + second)) == [1, 2, 3, *range(1, 21)]
    asyncio.run(app.close())


async def test_app_says_so_when_it_is_used_from_another_loop(app: AioTask, program: Program) -> None:
    def elsewhere(use: Callable[[], Any]) -> str:
        async def run() -> None:
            await use()

        with pytest.raises(AioTaskError) as raised:
            asyncio.run(run())
        return str(raised.value)

    async with app:
        result = await program.add.delay(2, 3)
        uses: list[Callable[[], Any]] = [
            lambda: program.add.delay(2, 3),
            lambda: program.add.send_many([(2, 3)]),
            result.get,
            result.state,
            app.connect,
            app.close,
            lambda: app.worker().__aenter__(),
        ]
        for use in uses:
            said = await asyncio.to_thread(elsewhere, use)
            assert said.startswith("This app is open on another event loop, and its connections belong to that one.")
        assert app.broker.connected
        assert await result.state() == "PENDING"


async def test_file_of_a_relative_url_is_found_from_everywhere_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "web").mkdir()
    monkeypatch.chdir(tmp_path)
    worker_app = AioTask("proj", broker="sqlite:///tasks.db")

    async def add(x: int, y: int) -> int:
        return x + y

    worker_app.task(name="proj.add")(add)
    async with worker_app.worker():
        monkeypatch.chdir(tmp_path / "web")
        web_app = AioTask("proj", broker="sqlite:///tasks.db")
        async with web_app:
            result = await web_app.task(name="proj.add")(add).delay(2, 3)
            assert await result.get(timeout=10) == 5
    assert (tmp_path / "tasks.db").exists()
