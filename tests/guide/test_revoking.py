"""A task that was revoked never starts, on any worker; with `terminate` it ends where it runs."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotask import AioTask, AsyncResult, Task, TaskRevokedError
from aiotask.message import DeadLetter, QueueDepth
from aiotask.worker.worker import Worker

Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
Depth = Callable[..., Awaitable[QueueDepth]]
DeadLetters = Callable[[], Awaitable[list[DeadLetter]]]
Heard = Callable[[Worker], Awaitable[None]]

NEVER_S = 3600.0
TOLD_S = 10.0
"""Far beyond what a worker takes to answer: on a machine with much else to do it may be more than the usual second."""

# A process imports this module to find the app and its task, so both are defined here, not in a test.

processes = AioTask("proj", broker="memory://")


@processes.task(offload="process")
def wait_for_ever(pid_file: str) -> None:
    Path(pid_file).write_text(str(os.getpid()))
    time.sleep(NEVER_S)


@processes.task(offload="process")
def where() -> int:
    return os.getpid()


@pytest.fixture
def heard(app: AioTask, until: Until) -> Heard:
    """Wait until a worker answers: on RabbitMQ it listens a moment after it takes messages."""

    async def heard(worker: Worker) -> None:
        async def answers() -> bool:
            broker: Any = app.broker
            return bool(await broker.ask("ping", {}, destination=[worker.hostname], timeout=0.2))

        await until(answers)

    return heard


async def reason_of(result: AsyncResult[Any]) -> str:
    """Wait for the end of a revoked task; return why it has ended."""
    with pytest.raises(TaskRevokedError) as caught:
        await result.get(timeout=10)
    assert await result.state() == "REVOKED"
    assert await result.ready()
    assert not await result.failed()
    return str(caught.value)


# ---- it never starts ----


async def test_revoked_task_never_starts_when_its_worker_is_started_later(
    app: AioTask, depth: Depth, dead_letters: DeadLetters
) -> None:
    started = []

    @app.task
    async def run(name: str) -> str:
        started.append(name)
        return name

    revoked, other = await run.delay("revoked"), await run.delay("other")
    assert await app.control.revoke(revoked.id, timeout=0.2) == {}  # nobody is there to answer
    assert await revoked.state() == "PENDING"  # and nobody has met it
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert await reason_of(revoked) == "revoked"
        assert await other.get(timeout=10) == "other"
    assert started == ["other"]
    assert await dead_letters() == []
    found = await depth()
    assert (found.ready, found.delayed, found.reserved, found.dead) == (0, 0, 0, 0)


async def test_revoked_task_never_starts_when_it_is_delayed(app: AioTask, heard: Heard) -> None:
    started = []

    @app.task
    async def run() -> None:
        started.append(1)

    async with app.worker() as worker:
        await heard(worker)
        result = await run.apply_async(countdown=0.5)
        await app.control.revoke(result.id, destination=[worker.hostname], timeout=TOLD_S)
        assert await reason_of(result) == "revoked"
    assert started == []


async def test_revoked_task_never_starts_when_it_waits_behind_others(app: AioTask, heard: Heard) -> None:
    started, go_on = [], asyncio.Event()

    @app.task
    async def run(name: str) -> None:
        started.append(name)
        await go_on.wait()

    async with app.worker(concurrency=1) as worker:
        await heard(worker)
        first, second, third = [await run.delay(name) for name in ("first", "second", "third")]
        await app.control.revoke(second.id, destination=[worker.hostname], timeout=TOLD_S)
        go_on.set()
        await asyncio.gather(first, third)
        assert await reason_of(second) == "revoked"
    assert started == ["first", "third"]


async def test_revoked_task_never_starts_when_it_waits_for_a_place(app: AioTask, heard: Heard, until: Until) -> None:
    started, go_on = [], asyncio.Event()

    @app.task(concurrency=1)
    async def run(name: str) -> None:
        started.append(name)
        await go_on.wait()

    async with app.worker() as worker:
        await heard(worker)
        first = await run.delay("first")
        await until(lambda: truth(started == ["first"]))
        second = await run.delay("second")
        await app.control.revoke(second.id, destination=[worker.hostname], timeout=TOLD_S)
        go_on.set()
        await first
        assert await reason_of(second) == "revoked"
    assert started == ["first"]


async def test_task_never_starts_when_it_is_sent_after_it_was_revoked(app: AioTask) -> None:
    started = []

    @app.task
    async def run() -> None:
        started.append(1)

    await app.control.revoke("known-before", timeout=0.1)
    result = await run.apply_async(task_id="known-before")
    async with app.worker():
        assert await reason_of(result) == "revoked"
    assert started == []


async def test_task_is_not_retried_when_it_was_revoked(app: AioTask, heard: Heard) -> None:
    started = []

    @app.task(bind=True, max_retries=None)
    async def run(self: Task) -> None:
        started.append(self.request.retries)
        raise self.retry(countdown=0.5)

    async with app.worker() as worker:
        await heard(worker)
        result = await run.delay()
        async for meta in result.updates():
            if meta.state == "RETRY":
                await app.control.revoke(result.id, destination=[worker.hostname], timeout=TOLD_S)
        assert await reason_of(result) == "revoked"
    assert started == [0]


async def test_all_never_start_when_several_are_revoked_at_once(app: AioTask) -> None:
    started = []

    @app.task
    async def run(number: int) -> None:
        started.append(number)

    results = await run.send_many([(number,) for number in range(20)])
    await app.control.revoke([result.id for result in results[::2]], timeout=0.1)
    async with app.worker():
        await asyncio.gather(*results[1::2])
        assert [await reason_of(result) for result in results[::2]] == ["revoked"] * 10
    assert sorted(started) == list(range(1, 20, 2))


async def test_result_revokes_its_own_task(app: AioTask) -> None:
    started = []

    @app.task
    async def run() -> None:
        started.append(1)

    result = await run.delay()
    assert await result.revoke() == {}
    async with app.worker():
        assert await reason_of(result) == "revoked"
    assert started == []


async def test_code_without_a_loop_revokes_when_it_uses_sync(app: AioTask, heard: Heard) -> None:
    @app.task
    async def run() -> None: ...

    async with app.worker() as worker:
        await heard(worker)
        result = await run.apply_async(countdown=0.5)
        answers = await asyncio.to_thread(result.sync.revoke)
        assert answers == {worker.hostname: {"ok": f"tasks {{'{result.id}'}} flagged as revoked"}}
        assert await reason_of(result) == "revoked"


# ---- what runs ----


async def test_running_task_goes_on_when_it_is_revoked(app: AioTask, heard: Heard) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @app.task
    async def run() -> str:
        started.set()
        await go_on.wait()
        return "done"

    async with app.worker() as worker:
        await heard(worker)
        result = await run.delay()
        await started.wait()
        await app.control.revoke(result.id, destination=[worker.hostname], timeout=TOLD_S)
        go_on.set()
        assert await result.get(timeout=10) == "done"


@pytest.mark.parametrize("acks_late", [False, True])
async def test_running_coroutine_is_cancelled_when_it_is_terminated(
    app: AioTask, heard: Heard, depth: Depth, acks_late: bool
) -> None:
    started, ended = asyncio.Event(), []

    @app.task(acks_late=acks_late)
    async def run() -> None:
        started.set()
        try:
            await asyncio.sleep(NEVER_S)
        finally:
            ended.append("in order")

    async with app.worker() as worker:
        await heard(worker)
        result = await run.delay()
        await started.wait()
        answers = await app.control.revoke(result.id, terminate=True, destination=[worker.hostname], timeout=TOLD_S)
        assert answers == {worker.hostname: {"ok": f"terminate: {result.id}"}}
        assert await reason_of(result) == "terminated"
        assert ended == ["in order"]
    found = await depth()
    assert (found.ready, found.delayed, found.reserved, found.dead) == (0, 0, 0, 0)


async def test_result_terminates_its_own_task(app: AioTask, heard: Heard) -> None:
    started = asyncio.Event()

    @app.task
    async def run() -> None:
        started.set()
        await asyncio.sleep(NEVER_S)

    async with app.worker() as worker:
        await heard(worker)
        result = await run.delay()
        await started.wait()
        assert await result.revoke(terminate=True) == {worker.hostname: {"ok": f"terminate: {result.id}"}}
        assert await reason_of(result) == "terminated"


@pytest.mark.parametrize("makes_of_it", ["a value", "an error"])
async def test_terminated_task_is_revoked_when_it_makes_something_of_its_cancellation(
    app: AioTask, heard: Heard, dead_letters: DeadLetters, makes_of_it: str
) -> None:
    started = []

    @app.task(autoretry_for=(ValueError,), retry_backoff=0.01, acks_late=True)
    async def run() -> str:
        started.append(1)
        try:
            await asyncio.sleep(NEVER_S)
        except asyncio.CancelledError:
            if makes_of_it == "an error":
                raise ValueError("cut off") from None
        return "done all the same"

    async with app.worker() as worker:
        await heard(worker)
        result = await run.delay()
        while not started:
            await asyncio.sleep(0.005)
        answers = await app.control.revoke(result.id, terminate=True, destination=[worker.hostname], timeout=TOLD_S)
        assert answers == {worker.hostname: {"ok": f"terminate: {result.id}"}}
        assert await reason_of(result) == "terminated"
    assert started == [1]
    assert await dead_letters() == []


async def test_terminated_task_is_left_behind_when_it_ignores_its_cancellation(
    app: AioTask, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    started, let_go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @app.task
    async def resist() -> None:
        started.set()
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    @app.task
    async def run() -> str:
        return "has its slot"

    async with app.worker(concurrency=1) as worker:
        await heard(worker)
        result = await resist.delay()
        await started.wait()
        # All its slots are taken, and it hears it all the same.
        answers = await app.control.revoke(result.id, terminate=True, destination=[worker.hostname], timeout=TOLD_S)
        assert answers == {worker.hostname: {"ok": f"terminate: {result.id}"}}
        assert await reason_of(result) == "terminated"
        assert await (await run.delay()).get(timeout=10) == "has its slot"
        assert not ended.is_set()
        let_go.set()
        await ended.wait()
        assert await reason_of(app.result(result.id)) == "terminated"  # whatever it has returned since
    assert "ignores its cancellation" in caplog.text


async def test_thread_is_left_to_itself_when_its_task_is_terminated(app: AioTask, heard: Heard) -> None:
    started, let_go = threading.Event(), threading.Event()

    @app.task
    def block() -> None:
        started.set()
        let_go.wait()

    @app.task
    def run() -> str:
        return threading.current_thread().name

    try:
        async with app.worker(threads=1) as worker:
            await heard(worker)
            result = await block.delay()
            await asyncio.to_thread(started.wait, 10)
            waiting = await run.delay()  # there is one thread, and it is taken
            answers = await app.control.revoke(result.id, terminate=True, destination=[worker.hostname], timeout=TOLD_S)
            assert answers == {worker.hostname: {"ok": f"terminate: {result.id}"}}
            assert await reason_of(result) == "terminated"
            assert "aiotask-thread" in await waiting.get(timeout=10)  # another was made in its place
            let_go.set()
            assert "aiotask-thread" in await (await run.delay()).get(timeout=10)
    finally:
        let_go.set()


async def test_process_is_killed_when_its_task_is_terminated(tmp_path: Path, until: Until) -> None:
    pid_file = tmp_path / "pid"
    async with processes.worker() as worker:
        result = await wait_for_ever.delay(str(pid_file))
        await until(lambda: truth(pid_file.exists() and pid_file.read_text() != ""))
        pid = int(pid_file.read_text())
        answers = await processes.control.revoke(result.id, terminate=True, timeout=TOLD_S)
        assert answers == {worker.hostname: {"ok": f"terminate: {result.id}"}}
        assert await reason_of(result) == "terminated"
        await until(lambda: truth(not is_alive(pid)))
        assert await (await where.delay()).get(timeout=30) != pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def truth(value: object) -> bool:
    return bool(value)


# ---- who is told ----


async def test_answers_come_by_node_name_when_workers_are_told(app: AioTask, heard: Heard) -> None:
    async with app.worker(name="first@here") as first, app.worker(name="second@here") as second:
        await heard(first)
        await heard(second)
        answers = await app.control.revoke("a-task", destination=["first@here", "second@here"], timeout=TOLD_S)
        assert answers == {
            "first@here": {"ok": "tasks {'a-task'} flagged as revoked"},
            "second@here": {"ok": "tasks {'a-task'} flagged as revoked"},
        }
        answers = await app.control.revoke("a-task", terminate=True, destination=["second@here"], timeout=TOLD_S)
        assert answers == {"second@here": {"ok": "terminate: tasks unknown"}}


async def test_revoke_holds_everywhere_when_others_are_named(app: AioTask) -> None:
    started = []

    @app.task
    async def run() -> None:
        started.append(1)

    result = await run.delay()
    other = await run.delay()
    assert await app.control.revoke(result.id, destination=["nobody@here"], timeout=0.1) == {}
    assert await app.control.revoke(other.id, destination=[]) == {}
    async with app.worker():
        assert await reason_of(result) == "revoked"
        assert await reason_of(other) == "revoked"
    assert started == []


async def test_one_line_is_logged_when_a_revoked_task_is_met_or_ended(
    app: AioTask, heard: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    started = asyncio.Event()

    @app.task
    async def run() -> None:
        started.set()
        await asyncio.sleep(NEVER_S)

    caplog.set_level(logging.INFO, "aiotask.worker.tasks")
    async with app.worker() as worker:
        await heard(worker)
        running = await run.delay()
        await started.wait()
        revoked = await run.apply_async(countdown=0.3)
        ids = [revoked.id, running.id]
        await app.control.revoke(ids, terminate=True, destination=[worker.hostname], timeout=TOLD_S)
        await reason_of(running)
        await reason_of(revoked)
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name.endswith(".tasks")]
    assert [level for level, _ in lines] == ["INFO", "INFO"]
    assert f"[{running.id}] was terminated after " in lines[0][1]
    assert f"[{revoked.id}] was revoked after 0.000 s" in lines[1][1]


# ---- what is refused ----


async def test_call_says_what_is_wrong_when_it_is_no_id_or_no_list(app: AioTask) -> None:
    with pytest.raises(TypeError, match="destination"):
        await app.control.revoke("a", destination="worker@host")
    with pytest.raises(TypeError, match="task_id is 7"):
        await app.control.revoke([7])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="timeout"):
        await app.control.revoke("a", timeout=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="task_id"):
        await app.control.revoke("")
    assert await app.control.revoke([]) == {}


async def test_nothing_is_revoked_when_a_task_was_run_where_it_was_called(app: AioTask) -> None:
    @app.task
    async def run() -> str:
        return "done"

    result = await run.apply()
    assert await result.revoke() == {}
    assert await result.get() == "done"


def test_other_controls_say_that_they_are_not_there_yet(app: AioTask) -> None:
    for name in ("ping", "inspect", "rate_limit", "shutdown", "broadcast"):
        with pytest.raises(AttributeError, match="not available in this version"):
            getattr(app.control, name)
    with pytest.raises(AttributeError, match="no attribute 'revok'"):
        getattr(app.control, "revok")  # noqa: B009 - a type checker would see the mistake
