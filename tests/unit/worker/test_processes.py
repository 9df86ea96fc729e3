"""Processes are used again, replaced when they are lost, given out in order, and gone with their pool."""

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conditions import until

from aiotask.message import TaskMessage
from aiotask.worker import processes
from aiotask.worker.pipe import Call, Place, Raised, Reply, Returned, Setup, Unready, pack_value, unpack_value
from aiotask.worker.processes import ProcessLost, ProcessPool

MODULE = """
import contextvars, os, threading, time
from pathlib import Path
from aiotask import AioTask

app = AioTask("bodies", broker="memory://")

@app.task
def pid() -> int:
    return os.getpid()

@app.task
def length(text: str) -> int:
    return len(text)

@app.task
def repeat(text: str, times: int) -> str:
    return text * times

@app.task
def wait_for(path: str) -> None:
    Path(path).touch()
    while Path(path).exists():
        time.sleep(0.005)

@app.task(bind=True)
def leave_running(self, path: str) -> None:
    def report() -> None:
        while not Path(path).exists():
            time.sleep(0.005)
        self.update_state("LATE")
        Path(path).unlink()
    threading.Thread(target=contextvars.copy_context().run, args=(report,), daemon=True).start()

@app.task(bind=True)
def report_at_the_end(self, path: str) -> None:
    wait_for.run(path)
    self.update_state("OWN")

@app.task
def close_the_pipe() -> None:
    os.closerange(3, 100)
    time.sleep(3600)

@app.task(bind=True)
def talk_nonsense(self) -> None:
    for descriptor in range(3, 100):
        try:
            os.write(descriptor, b"\\0" * 7 + b"\\1nonsense")
        except OSError:
            pass
    time.sleep(3600)
"""


@pytest.fixture
def module(tmp_path: Path) -> Place:
    (tmp_path / "bodies_of_test.py").write_text(MODULE, encoding="utf-8")
    return Place("bodies_of_test", str(tmp_path / "bodies_of_test.py"), "app")


@pytest.fixture
async def pool(module: Place) -> AsyncIterator[ProcessPool]:
    made = ProcessPool(2, "web@host", lambda: setup(module))
    yield made
    await made.close()
    assert made._children == set()


def setup(module: Place) -> Setup:
    return Setup([], None, [module], {}, {}, None)


def call(name: str, *args: object) -> Call:
    message = TaskMessage(f"bodies_of_test.{name}", "id", b"")
    return Call(
        0, message, Place("bodies_of_test", None), "default", 1, 5, "web@host", False, pack_value((args, {}), "args")
    )


def ignore(state: str, meta: Any) -> None: ...


async def value(pool: ProcessPool, name: str, *args: object) -> Any:
    reply = await pool.run(call(name, *args), ignore)
    assert isinstance(reply, Returned), reply
    return unpack_value(reply.value, "it")


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_process_is_used_again(pool: ProcessPool) -> None:
    assert await value(pool, "pid") == await value(pool, "pid")


async def test_what_a_body_left_running_is_not_heard_as_the_next_ones(pool: ProcessPool, tmp_path: Path) -> None:
    states: list[str] = []
    path = tmp_path / "both look at it"
    first = await value(pool, "pid")
    await pool.run(call("leave_running", str(path)), ignore)
    # The next body makes the file; the one left running sees it, reports, and removes it; then the next one reports.
    await pool.run(call("report_at_the_end", str(path)), lambda state, _: states.append(state))
    assert states == ["OWN"]
    assert await value(pool, "pid") == first, "all of it was in one process"


async def test_process_is_replaced_when_it_was_lost_with_nothing_to_do(pool: ProcessPool) -> None:
    first = await value(pool, "pid")
    os.kill(first, signal.SIGKILL)
    await until(lambda: is_gone(first))
    assert await value(pool, "pid") != first


async def test_call_goes_to_another_process_when_its_own_dies_before_it_starts(pool: ProcessPool) -> None:
    first = await value(pool, "pid")
    os.kill(first, signal.SIGKILL)  # the loop has not seen the end of the pipe when it gives out the next call
    assert await value(pool, "pid") != first


async def test_call_is_lost_when_its_process_dies_before_it_has_ever_answered(pool: ProcessPool, module: Place) -> None:
    assert module.file is not None
    Path(module.file).write_text("import os; os._exit(5)", encoding="utf-8")
    with pytest.raises(ProcessLost, match="ended with exit code 5"):
        await pool.run(call("pid"), ignore)


async def test_call_and_reply_may_be_longer_than_the_pipe_holds(pool: ProcessPool) -> None:
    assert await value(pool, "length", "x" * 5_000_000) == 5_000_000
    assert await value(pool, "repeat", "ab", 2_500_000) == "ab" * 2_500_000


async def test_process_is_killed_when_its_call_is_cancelled(pool: ProcessPool, tmp_path: Path) -> None:
    first = await value(pool, "pid")
    gate = tmp_path / "gate"
    running = asyncio.ensure_future(pool.run(call("wait_for", str(gate)), ignore))
    await until(gate.exists)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: is_gone(first))
    assert await value(pool, "pid") != first


async def test_process_is_killed_when_its_call_is_cancelled_before_all_of_it_is_sent(pool: ProcessPool) -> None:
    first = await value(pool, "pid")
    running = asyncio.ensure_future(pool.run(call("length", "x" * 5_000_000), ignore))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: is_gone(first))
    assert await value(pool, "length", "abc") == 3


@pytest.mark.parametrize("body", ["close_the_pipe", "talk_nonsense"])
async def test_call_is_lost_when_its_process_can_not_be_understood(pool: ProcessPool, body: str) -> None:
    with pytest.raises(ProcessLost):
        await pool.run(call(body), ignore)
    assert isinstance(await value(pool, "pid"), int)


async def test_call_is_lost_when_no_process_can_be_started(pool: ProcessPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(processes.subprocess, "Popen", refuse)
        with pytest.raises(ProcessLost, match=r"could not be started: .*no room"):
            await pool.run(call("pid"), ignore)
    assert isinstance(await value(pool, "pid"), int)


async def test_process_ends_when_it_can_not_import_and_the_next_one_tries_again(
    pool: ProcessPool, module: Place
) -> None:
    assert module.file is not None
    file = Path(module.file)
    file.write_text("raise RuntimeError('not today')", encoding="utf-8")
    reply = await pool.run(call("pid"), ignore)
    assert isinstance(reply, Unready)
    assert "RuntimeError: not today" in reply.why
    assert "not today" in (reply.traceback or "")
    file.write_text(MODULE, encoding="utf-8")
    assert isinstance(await value(pool, "pid"), int)


async def test_body_fails_when_its_arguments_do_not_fit(pool: ProcessPool) -> None:
    reply = await pool.run(call("length"), ignore)
    assert isinstance(reply, Raised)


async def test_what_runs_is_killed_when_the_pool_is_closed(module: Place, tmp_path: Path) -> None:
    pool = ProcessPool(2, "web@host", lambda: setup(module))
    gate = tmp_path / "gate"
    running = asyncio.ensure_future(pool.run(call("wait_for", str(gate)), ignore))
    idle = await value(pool, "pid")
    await until(gate.exists)
    [busy] = [child._process.pid for child in pool._children if child._process.pid != idle]
    await pool.close()
    assert is_gone(busy)
    assert is_gone(idle)
    with pytest.raises(ProcessLost, match="SIGKILL"):
        await running


async def test_call_that_waits_is_told_when_the_pool_is_closed(fakes: list["FakeChild"], module: Place) -> None:
    pool = ProcessPool(1, "web@host", lambda: setup(module))
    running, waiting = start(pool, "a"), start(pool, "b")
    await settled()
    await pool.close()
    for each in (waiting, start(pool, "c")):
        with pytest.raises(ProcessLost, match="the worker has ended"):
            await each
    fakes[0].answer()
    await running
    assert len(fakes) == 1


def test_processes_end_when_the_loop_is_gone_and_nobody_closes_the_pool(module: Place) -> None:
    async def use() -> tuple[ProcessPool, int]:
        pool = ProcessPool(2, "web@host", lambda: setup(module))
        return pool, await value(pool, "pid")

    pool, pid = asyncio.run(use())
    assert not is_gone(pid)
    del pool
    gc.collect()
    assert is_gone(pid)


async def test_processes_end_when_nobody_closes_the_pool_of_a_running_loop(module: Place) -> None:
    pool = ProcessPool(2, "web@host", lambda: setup(module))
    pid = await value(pool, "pid")
    del pool
    gc.collect()
    await until(lambda: is_gone(pid))


def test_pool_can_be_closed_on_another_loop(module: Place) -> None:
    async def use() -> tuple[ProcessPool, int]:
        pool = ProcessPool(2, "web@host", lambda: setup(module))
        return pool, await value(pool, "pid")

    pool, pid = asyncio.run(use())
    asyncio.run(pool.close())
    assert is_gone(pid)


class FakeChild:
    """A process that does as it is told by the test."""

    made: list["FakeChild"] = []
    fails = False

    def __init__(self, setup: Setup, hostname: str, reaped: Callable[[Any], None]) -> None:
        if FakeChild.fails:
            raise BlockingIOError(11, "no room")
        self.is_usable = True
        self._reaped = reaped
        self.reply: asyncio.Future[Reply] | None = None
        self.calls: list[str] = []
        self.ended = asyncio.get_running_loop().create_future()
        FakeChild.made.append(self)

    async def run(self, call: Call, on_state: Any) -> Reply:
        self.calls.append(call.message.id)
        self.reply = asyncio.get_running_loop().create_future()
        try:
            return await self.reply
        except asyncio.CancelledError:
            self.end()
            raise

    def answer(self) -> None:
        assert self.reply is not None
        self.reply.set_result(Unready(0, "done", None))

    def fall(self) -> None:
        assert self.reply is not None
        self.is_usable = False
        self._reaped(self)
        self.reply.set_exception(ProcessLost("fell"))

    def end(self) -> None:
        if self.is_usable:
            self.is_usable = False
            self._reaped(self)
            self.ended.set_result(0)

    abandon = end


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[FakeChild]:
    monkeypatch.setattr(processes, "Child", FakeChild)
    monkeypatch.setattr(FakeChild, "made", [])
    monkeypatch.setattr(FakeChild, "fails", False)
    return FakeChild.made


def start(pool: ProcessPool, id_: str) -> "asyncio.Future[Reply]":
    made = call("pid")
    made.message.id = id_
    return asyncio.ensure_future(pool.run(made, ignore))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_calls_wait_in_their_order_when_every_process_is_busy(fakes: list[FakeChild], pool: ProcessPool) -> None:
    running = [start(pool, str(number)) for number in range(6)]
    await settled()
    first, second = fakes
    for child in (first, first, second, first):
        child.answer()
        await settled()
    assert (first.calls, second.calls) == (["0", "2", "3", "5"], ["1", "4"])
    first.answer()
    second.answer()
    await asyncio.gather(*running)


async def test_waiting_call_gets_a_new_process_when_one_falls(fakes: list[FakeChild], pool: ProcessPool) -> None:
    doomed, other, waiting = (start(pool, id_) for id_ in "abc")
    await settled()
    fakes[0].fall()
    with pytest.raises(ProcessLost):
        await doomed
    newcomer = start(pool, "d")
    await settled()
    assert [child.calls for child in fakes] == [["a"], ["b"], ["c"]]
    for child in fakes[1:]:
        child.answer()
    await settled()
    assert "d" in (*fakes[1].calls, *fakes[2].calls)
    for child in fakes[1:]:
        assert child.reply is not None
        if not child.reply.done():
            child.answer()
    await asyncio.gather(other, waiting, newcomer)


async def test_process_is_handed_on_when_the_call_whose_turn_it_is_was_cancelled(
    fakes: list[FakeChild], pool: ProcessPool
) -> None:
    first, second, doomed, last = (start(pool, id_) for id_ in "abcd")
    await settled()
    fakes[0].answer()
    await asyncio.sleep(0)  # its process is given to the third, which has not noticed yet
    doomed.cancel()
    await settled()
    assert fakes[0].calls == ["a", "d"]
    assert doomed.cancelled()
    for child in fakes:
        child.answer()
    await asyncio.gather(first, second, last)


async def test_call_that_waits_no_more_is_passed_over(fakes: list[FakeChild], pool: ProcessPool) -> None:
    first, second, doomed, last = (start(pool, id_) for id_ in "abcd")
    await settled()
    doomed.cancel()
    await settled()
    fakes[0].answer()
    await settled()
    assert fakes[0].calls == ["a", "d"]
    for child in fakes:
        child.answer()
    await asyncio.gather(first, second, last)


async def test_each_that_waits_is_told_when_no_process_can_be_started(
    fakes: list[FakeChild], pool: ProcessPool
) -> None:
    first, second, third, last = (start(pool, id_) for id_ in "abcd")
    await settled()
    FakeChild.fails = True
    fakes[0].fall()
    await settled()
    for waiting in (first, third, last):
        with pytest.raises(ProcessLost):
            await waiting
    fakes[1].answer()
    await second
