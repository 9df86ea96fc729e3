"""The fetcher asks for exactly what there is room for, one receive at a time."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.worker import fetcher as module
from aiotask.worker.fetcher import Fetcher
from aiotask.worker.slots import Slots


class Source:
    """A subscription that gives what is put into it, as far as it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []
        self.waiting: list[Delivery] = []
        self.more = asyncio.Event()
        self.failures = 0
        self.receiving = 0

    def put(self, count: int) -> None:
        self.waiting += [Delivery(f"id-{n}", "mail", b"", "application/x", 5, receipt=n) for n in range(count)]
        self.more.set()

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        assert self.receiving == 0, "one receive at a time"
        self.receiving += 1
        try:
            self.asked.append((max_items, wait))
            if self.failures:
                self.failures -= 1
                raise BrokerError("link down")
            if not self.waiting and wait:
                self.more.clear()
                await self.more.wait()
            taken, self.waiting = self.waiting[:max_items], self.waiting[max_items:]
            return taken
        finally:
            self.receiving -= 1


class StartingSource(Source):
    """One that can start what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[int] = []

    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        self.starts.append(starts)
        return await self.receive(max_items, wait)


class Stage:
    """A fetcher with a settler and an admission that the test plays."""

    def __init__(self, room: int, source_type: type[Source] = Source) -> None:
        self.source = source_type()
        self.room = Slots(room)
        self.received: list[list[Delivery]] = []
        self.pause: asyncio.Future[None] | None = None
        self.written = True
        self.connected = True
        source: Any = self.source
        self.startable = 0
        self.fetcher = Fetcher(
            source,
            self.room,
            self.received.append,
            lambda: self.pause,
            lambda: self.written,
            lambda: self.startable,
            lambda: self.connected,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                await asyncio.sleep(0)


@pytest.fixture
def stage() -> Stage:
    return Stage(8)


@pytest.fixture
async def running(stage: Stage) -> Any:
    task = asyncio.create_task(stage.fetcher.run())
    yield stage
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_fetcher_asks_for_all_the_room_and_counts_what_it_got(running: Stage) -> None:
    running.source.put(3)
    await running.until(lambda: len(running.source.asked) == 2)
    assert [count for count, _ in running.source.asked] == [8, 5]
    assert [len(batch) for batch in running.received] == [3]
    assert running.room.used == 3
    assert running.source.asked[0][1] > 0


async def test_what_comes_alone_may_start_before_more_is_asked_for() -> None:
    """Whatever starts it is awake by then; to ask for more takes 30 us, by which it would start later."""
    stage = Stage(8)
    seen: list[int] = []

    def hand_on(_: list[Delivery]) -> None:
        asyncio.get_running_loop().call_soon(lambda: seen.append(len(stage.source.asked)))

    source: Any = stage.source
    fetcher = Fetcher(source, stage.room, hand_on, lambda: None, lambda: True, lambda: 0, lambda: True)
    task = asyncio.create_task(fetcher.run())
    stage.source.put(1)
    await stage.until(lambda: len(stage.source.asked) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [1]


async def test_fetcher_asks_for_nothing_when_there_is_no_room(running: Stage) -> None:
    running.source.put(9)
    await running.until(lambda: running.room.used == 8)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(running.source.asked) == 1
    running.room.give(2)
    await running.until(lambda: len(running.source.asked) >= 2)
    assert running.source.asked[1][0] == 2


async def test_fetcher_gathers_a_quarter_of_the_room_when_there_is_more_to_be_had(running: Stage) -> None:
    running.source.put(16)
    await running.until(lambda: running.room.used == 8)
    running.room.give()
    await asyncio.sleep(0)
    running.room.give()
    await running.until(lambda: len(running.source.asked) >= 2)
    assert running.source.asked[1][0] == 2


async def test_fetcher_asks_for_less_after_a_moment_when_no_more_room_comes(running: Stage) -> None:
    running.source.put(16)
    await running.until(lambda: running.room.used == 8)
    running.room.give()
    await running.until(lambda: len(running.source.asked) >= 2)
    assert running.source.asked[1][0] == 1


async def test_fetcher_pauses_while_the_settler_is_behind(running: Stage) -> None:
    await running.until(lambda: len(running.source.asked) == 1)
    running.pause = asyncio.get_running_loop().create_future()
    running.source.put(1)
    await running.until(lambda: len(running.received) == 1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(running.source.asked) == 1
    pause, running.pause = running.pause, None
    pause.set_result(None)
    await running.until(lambda: len(running.source.asked) == 2)


async def test_fetcher_goes_on_when_the_broker_fails(
    running: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0.001)
    running.source.put(1)
    await running.until(lambda: len(running.source.asked) == 2)
    running.source.failures = 2
    running.source.put(1)
    await running.until(lambda: running.source.failures == 0)
    running.source.put(1)
    await running.until(lambda: len(running.received) == 3)
    assert caplog.text.count("Can't receive: link down") == 2


async def test_burst_ends_when_nothing_is_due_held_or_to_be_written(stage: Stage) -> None:
    stage.source.put(2)
    stage.written = False
    task = asyncio.create_task(stage.fetcher.run(burst=True))
    await stage.until(lambda: len(stage.received) == 1)
    await stage.until(lambda: len(stage.source.asked) >= 3)
    assert not task.done()
    stage.room.give(2)
    await stage.until(lambda: len(stage.source.asked) >= 5)
    assert not task.done()
    stage.written = True
    await asyncio.wait_for(task, 5)
    assert {wait for _, wait in stage.source.asked} == {0.0}


async def test_burst_ends_at_once_when_there_is_nothing(stage: Stage) -> None:
    await asyncio.wait_for(stage.fetcher.run(burst=True), 5)
    assert stage.received == []


async def test_burst_goes_on_when_the_broker_could_not_say_what_is_due(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BACKOFF_S", 0)
    stage.source.failures = 2
    await asyncio.wait_for(stage.fetcher.run(burst=True), 5)
    assert len(stage.source.asked) == 3


async def test_burst_goes_on_while_there_is_no_connection(stage: Stage) -> None:
    stage.connected = False
    task = asyncio.create_task(stage.fetcher.run(burst=True))
    await stage.until(lambda: len(stage.source.asked) == 3)
    assert not task.done()
    stage.connected = True
    await asyncio.wait_for(task, 5)


async def test_fetcher_asks_for_what_can_start_as_it_comes_and_for_the_rest_when_nothing_can() -> None:
    stage = Stage(8, StartingSource)
    source: Any = stage.source
    stage.startable = 3
    task = asyncio.create_task(stage.fetcher.run())
    source.put(9)
    await stage.until(lambda: stage.room.used == 8)
    stage.startable = 0
    stage.room.give()
    await stage.until(lambda: stage.room.used == 8)
    assert [count for count, _ in source.asked] == [3, 3, 2, 1]
    assert source.starts == [3, 3, 2]
    task.cancel()


async def test_fetcher_never_asks_what_can_start_when_the_broker_can_not_start_it() -> None:
    stage = Stage(8)
    stage.startable = 3
    task = asyncio.create_task(stage.fetcher.run())
    stage.source.put(8)
    await stage.until(lambda: stage.room.used == 8)
    assert [count for count, _ in stage.source.asked] == [8]
    task.cancel()
