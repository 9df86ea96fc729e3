"""Many callers of one loop iteration share one flush; each gets its own answer."""

import asyncio
import traceback
from collections.abc import Sequence
from typing import Any

import pytest

from aiotask.coalesce import Coalescer


class Sink:
    """Records batches; flushes wait for `open` and end as `answers` say."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.answers: dict[Any, Exception] = {}
        self.running = 0
        self.most_running = 0
        self.failure: BaseException | None = None

    async def flush(self, batch: list[Any]) -> Sequence[Exception | None] | None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.batches.append(batch)
        try:
            await self.open.wait()
            if self.failure is not None:
                raise self.failure
            return [self.answers.get(item) for item in batch] if self.answers else None
        finally:
            self.running -= 1


async def ticks(count: int = 5) -> None:
    """Let the loop run a few times; nothing here takes time."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_calls_share_one_flush_in_their_order_when_they_come_together() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    await asyncio.gather(*(coalescer.add([number]) for number in range(5)))
    assert sink.batches == [[0, 1, 2, 3, 4]]


async def test_calls_wait_for_one_flush_at_a_time_and_gather_meanwhile() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.open.clear()
    first = coalescer.add([1])
    await ticks()
    later = [coalescer.add([2]), coalescer.add([3])]
    await ticks()
    assert sink.batches == [[1]]
    sink.open.set()
    await asyncio.gather(first, *later)
    assert sink.batches == [[1], [2, 3]]
    assert sink.most_running == 1


async def test_call_is_never_split_and_flushes_keep_to_the_limit() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush, max_batch=3)
    await asyncio.gather(*(coalescer.add(items) for items in ([1, 2], [3], [4, 5, 6, 7, 8], [9])))
    assert sink.batches == [[1, 2, 3], [4, 5, 6, 7, 8], [9]]


async def test_call_fails_with_its_own_error_only() -> None:
    sink = Sink()
    sink.answers = {2: ValueError("two")}
    coalescer = Coalescer(sink.flush)
    one, two, three = coalescer.add([1]), coalescer.add([5, 2]), coalescer.add([3])
    with pytest.raises(ValueError, match="two"):
        await two
    await one
    await three
    assert sink.batches == [[1, 5, 2, 3]]


async def test_every_call_of_a_flush_fails_when_the_flush_raises_and_the_next_goes_on() -> None:
    sink = Sink()
    sink.failure = RuntimeError("down")
    coalescer = Coalescer(sink.flush)
    outcomes = await asyncio.gather(coalescer.add([1]), coalescer.add([2]), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["down", "down"]
    sink.failure = None
    await coalescer.add([3])
    assert sink.batches == [[1, 2], [3]]


class Full(Exception):
    def __init__(self, message: str, unsent: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unsent = unsent


class Particular(Exception):
    def __init__(self, *, why: str) -> None:
        super().__init__("why")
        self.why = why


async def failure_of(call: "asyncio.Future[None]") -> BaseException:
    with pytest.raises(Exception) as raised:
        await call
    return raised.value


@pytest.mark.parametrize("raised", [True, False], ids=["raised", "answered"])
async def test_calls_get_exceptions_of_their_own_when_one_stands_for_all(raised: bool) -> None:
    error = Full("no room", ["1", "2"])
    error.__cause__ = OSError(28, "No space left on device")
    error.add_note("on the disk")
    sink = Sink()
    sink.failure = error if raised else None
    sink.answers = dict.fromkeys((1, 2, 3), error)
    coalescer = Coalescer(sink.flush)
    calls = [coalescer.add([1]), coalescer.add([2, 3])]
    first, second = [await failure_of(call) for call in calls]
    first.add_note("seen by the first caller")
    assert first is not second
    for own in (first, second):
        assert type(own) is Full
        assert (own.args, own.unsent, own.__cause__) == (("no room",), ["1", "2"], error.__cause__)
    assert second.__notes__ == ["on the disk"]
    assert len(traceback.extract_tb(first.__traceback__)) == len(traceback.extract_tb(second.__traceback__))


async def test_calls_share_an_exception_that_can_not_be_made_twice() -> None:
    sink = Sink()
    sink.failure = Particular(why="so")
    coalescer = Coalescer(sink.flush)
    calls = [coalescer.add([1]), coalescer.add([2])]
    assert [await failure_of(call) for call in calls] == [sink.failure] * 2


async def test_call_takes_nobody_along_when_it_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.open.clear()
    doomed, other = coalescer.add([1]), coalescer.add([2])
    await ticks()
    doomed.cancel()
    sink.open.set()
    await other
    assert doomed.cancelled()
    assert sink.batches == [[1, 2]]


async def test_drain_returns_at_once_when_there_is_nothing() -> None:
    await asyncio.wait_for(Coalescer(Sink().flush).drain(), 1)


async def test_drain_waits_for_what_is_scheduled_in_flight_and_added_meanwhile() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.open.clear()
    futures = [coalescer.add([1])]
    draining = asyncio.create_task(coalescer.drain())
    await ticks()
    futures.append(coalescer.add([2]))
    await ticks()
    assert not draining.done()
    sink.open.set()
    await draining
    assert all(future.done() for future in futures)


async def test_calls_are_told_when_the_flush_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.failure = asyncio.CancelledError()
    first = coalescer.add([1])
    with pytest.raises(asyncio.CancelledError):
        await first
    sink.failure = None
    await coalescer.add([2])


async def test_waiting_calls_are_told_too_when_the_flush_before_them_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush, max_batch=1)
    sink.failure = asyncio.CancelledError()
    first, second = coalescer.add([1]), coalescer.add([2])
    done, pending = await asyncio.wait([first, second], timeout=1)
    assert not pending
    assert all(future.cancelled() for future in done)
