"""A worker inside a running event loop: `async with app.worker()`."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import pytest
from tests.guide.conftest import Depth
from tests.guide.program import Program

from aiotask import AioTask, AioTaskError, Worker, WorkerLost

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
