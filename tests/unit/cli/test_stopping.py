import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from aiotask.cli import stopping as module
from aiotask.cli.stopping import COLD, SUPERVISOR_THREAD, WARM, Stopping


class Stops:
    """Counts the levels that a worker was brought to."""

    def __init__(self) -> None:
        self.count = 0
        self._news = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._news.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.count < count:
                self._news.clear()
                await self._news.wait()


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Pipe:
    """What a supervisor holds of a child: an end to write to, and to close."""

    def __init__(self) -> None:
        self.theirs, self._ours = os.pipe()
        self._ended = False

    def order(self) -> None:
        os.write(self._ours, b"s")

    def end(self) -> None:
        if not self._ended:
            os.close(self._ours)
        self._ended = True

    def close(self) -> None:
        self.end()
        for thread in threading.enumerate():
            if thread.name == SUPERVISOR_THREAD:
                thread.join(10)
        os.close(self.theirs)


@pytest.fixture
def pipe(handlers: None) -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
async def stops() -> Stops:
    return Stops()


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_signals_stop_warm_then_cold(stops: Stops, second: signal.Signals) -> None:
    stopping = Stopping()
    stopping.attach(asyncio.get_running_loop(), stops)

    signal.raise_signal(signal.SIGTERM)
    await stops.reach(1)
    assert stopping.level == WARM
    signal.raise_signal(second)
    await stops.reach(2)
    assert stopping.level == COLD


async def test_third_signal_does_nothing_when_it_comes_at_once(stops: Stops) -> None:
    stopping = Stopping()
    stopping.attach(asyncio.get_running_loop(), stops)

    for _ in range(5):
        signal.raise_signal(signal.SIGTERM)
    await stops.reach(2)
    await settle()

    assert stops.count == 2


async def test_third_signal_ends_the_process_when_the_worker_hangs(
    stops: Stops, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(module, "_FORCE_AFTER_S", -1.0)
    monkeypatch.setattr(os, "_exit", codes.append)
    Stopping().attach(asyncio.get_running_loop(), stops)

    for _ in range(3):
        signal.raise_signal(signal.SIGTERM)

    assert codes == [1]


async def test_supervisor_stops_warm_then_cold(stops: Stops, pipe: Pipe) -> None:
    stopping = Stopping()
    stopping.attach(asyncio.get_running_loop(), stops)
    stopping.follow(pipe.theirs)

    pipe.order()
    await stops.reach(1)
    pipe.order()
    await stops.reach(2)
    pipe.end()

    assert stopping.level == COLD


async def test_worker_stops_warm_when_its_supervisor_is_gone(stops: Stops, pipe: Pipe) -> None:
    stopping = Stopping()
    stopping.attach(asyncio.get_running_loop(), stops)
    stopping.follow(pipe.theirs)

    pipe.end()
    await stops.reach(1)
    await settle()

    assert stopping.level == WARM


async def test_signal_and_supervisor_count_as_one_when_both_come_once(stops: Stops, pipe: Pipe) -> None:
    stopping = Stopping()
    stopping.attach(asyncio.get_running_loop(), stops)
    stopping.follow(pipe.theirs)

    signal.raise_signal(signal.SIGTERM)
    pipe.order()
    await stops.reach(1)
    pipe.end()
    await settle()

    assert stopping.level == WARM


def test_supervisor_ends_the_process_when_the_worker_is_not_made_yet(pipe: Pipe) -> None:
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    stopping = Stopping()

    stopping.follow(pipe.theirs)
    pipe.end()
    deadline = time.monotonic() + 10
    while not caught and time.monotonic() < deadline:
        time.sleep(0.005)

    assert caught == [signal.SIGTERM]
