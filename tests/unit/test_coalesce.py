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
        self.waits = False
        """Whether a flush always lets others run."""
        self.tasks: list[asyncio.Task[Any] | None] = []

    async def flush(self, batch: list[Any]) -> Sequence[Exception | None] | None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.batches.append(batch)
        self.tasks.append(asyncio.current_task())
        try:
            if self.waits:
                await asyncio.sleep(0)
            await self.open.wait()
            if self.failure is not None:
                raise self.failure
            return [self.answers.get(item) for item in batch] if self.answers else None
        finally:
            self.running -= 1


def add(coalescer: Coalescer[Any], items: Sequence[Any]) -> "asyncio.Future[None]":
    return asyncio.ensure_future(coalescer.add(items))


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
    first = add(coalescer, [1])
    await ticks()
    later = [add(coalescer, [2]), add(coalescer, [3])]
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
    one, two, three = add(coalescer, [1]), add(coalescer, [5, 2]), add(coalescer, [3])
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
    calls = [add(coalescer, [1]), add(coalescer, [2, 3])]
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
    calls = [add(coalescer, [1]), add(coalescer, [2])]
    assert [await failure_of(call) for call in calls] == [sink.failure] * 2


async def test_call_takes_nobody_along_when_it_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.open.clear()
    doomed, other = add(coalescer, [1]), add(coalescer, [2])
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
    futures = [add(coalescer, [1])]
    draining = asyncio.create_task(coalescer.drain())
    await ticks()
    futures.append(add(coalescer, [2]))
    await ticks()
    assert not draining.done()
    sink.open.set()
    await draining
    assert all(future.done() for future in futures)


async def test_calls_are_told_when_the_flush_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    sink.failure = asyncio.CancelledError()
    first = add(coalescer, [1])
    with pytest.raises(asyncio.CancelledError):
        await first
    sink.failure = None
    await coalescer.add([2])


async def test_waiting_calls_are_told_too_when_the_flush_before_them_is_cancelled() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush, max_batch=1)
    sink.failure = asyncio.CancelledError()
    first, second = add(coalescer, [1]), add(coalescer, [2])
    done, pending = await asyncio.wait([first, second], timeout=1)
    assert not pending
    assert all(future.cancelled() for future in done)


# ---- who comes alone ----


@pytest.fixture
async def alone() -> tuple[Sink, Coalescer[Any]]:
    """A coalescer whose last caller came alone."""
    sink = Sink()
    sink.waits = True
    coalescer = Coalescer(sink.flush)
    await coalescer.add(["before"])
    sink.batches.clear()
    sink.tasks.clear()
    return sink, coalescer


Alone = tuple[Sink, Coalescer[Any]]


async def test_caller_flushes_by_itself_when_it_comes_alone_again(alone: Alone) -> None:
    sink, coalescer = alone
    for number in range(3):
        await coalescer.add([number])
    assert sink.batches == [[0], [1], [2]]
    assert sink.tasks == [asyncio.current_task()] * 3


async def test_no_caller_flushes_by_itself_when_that_lets_nobody_run() -> None:
    sink = Sink()
    coalescer = Coalescer(sink.flush)
    others = 0

    async def other() -> None:
        nonlocal others
        while len(sink.batches) < 10:
            others += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    for number in range(10):
        await coalescer.add([number])
    await running
    assert others >= 10
    assert asyncio.current_task() not in sink.tasks


async def test_callers_gather_while_one_flushes_by_itself_and_share_the_next(alone: Alone) -> None:
    sink, coalescer = alone
    calls = [add(coalescer, [number]) for number in range(5)]
    await asyncio.gather(*calls)
    assert sink.batches == [[0], [1, 2, 3, 4]]
    assert sink.tasks[0] is calls[0]
    assert sink.most_running == 1


async def test_callers_who_go_on_together_share_every_flush_but_the_first(alone: Alone) -> None:
    sink, coalescer = alone

    async def caller(name: str) -> None:
        for number in range(4):
            await coalescer.add([f"{name}{number}"])

    await asyncio.gather(*map(caller, "abc"))
    assert [len(batch) for batch in sink.batches] == [1, 3, 3, 3, 2]
    assert sorted(item for batch in sink.batches for item in batch) == sorted(
        f"{name}{number}" for name in "abc" for number in range(4)
    )


async def test_caller_alone_gets_its_error(alone: Alone) -> None:
    sink, coalescer = alone
    sink.answers = {2: ValueError("two")}
    with pytest.raises(ValueError, match="two"):
        await coalescer.add([1, 2])
    sink.failure = RuntimeError("down")
    with pytest.raises(RuntimeError, match="down"):
        await coalescer.add([3])
    sink.failure = None
    await coalescer.add([4])
    assert sink.tasks == [asyncio.current_task()] * 3


async def test_caller_alone_takes_nobody_along_when_it_is_cancelled(alone: Alone) -> None:
    sink, coalescer = alone
    sink.open.clear()
    doomed, *others = [add(coalescer, [number]) for number in range(3)]
    await ticks()
    assert sink.batches == [[0]]
    doomed.cancel()
    await ticks()
    assert sink.batches == [[0], [1, 2]]
    sink.open.set()
    await asyncio.gather(*others)
    assert doomed.cancelled()
    await coalescer.add([3])
    assert sink.batches[2:] == [[3]]


async def test_drain_waits_for_the_caller_alone_and_those_behind_it(alone: Alone) -> None:
    sink, coalescer = alone
    sink.open.clear()
    calls = [add(coalescer, [1])]
    await ticks()
    draining = [asyncio.create_task(coalescer.drain()) for _ in range(2)]
    await ticks()
    calls.append(add(coalescer, [2]))
    await ticks()
    assert not any(one.done() for one in draining)
    sink.open.set()
    await asyncio.gather(*draining)
    assert all(call.done() for call in calls)
    assert sink.batches == [[1], [2]]
