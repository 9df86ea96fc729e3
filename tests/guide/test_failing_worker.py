"""A worker that fails by itself: where its scope is, whoever entered it and whatever else goes wrong, it is told."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import fastapi
import pytest
from tests.guide.conftest import Until
from tests.guide.program import Program

from aiotask import AioTask, BrokerError
from aiotask.protocols import FusedFinish


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
