"""Joins what many callers await in one iteration of the event loop into one flush. No timer, so no delay when idle."""

import asyncio
import copy
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalescer(Generic[T]):
    """Collects items and hands them to `flush` in batches, at most one flush in flight.

    Items added while a flush is in flight wait for the next one, so batches grow with the load by themselves. A caller
    that comes alone, as the one before it did, flushes by itself: a task and two iterations of the loop less.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[Sequence[Exception | None] | None]], *, max_batch: int = 1000
    ) -> None:
        """Make a coalescer for the running loop.

        Args:
            flush: Takes a batch in order; returns an error or None for each item, or None when all went well.
                An exception that it raises is every item's. One error may stand for many items: each caller gets a
                copy of its own.
            max_batch: Most items in one flush. One `add` is never split over two flushes.
        """
        self._flush = flush
        self._max_batch = max_batch
        self._waiting: list[tuple[Sequence[T], asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._came_alone = False
        self._landed = asyncio.Event()
        """Cleared while a caller that came alone flushes."""
        self._landed.set()
        self._loop = asyncio.get_running_loop()

    async def add(self, items: Sequence[T]) -> None:
        """Flush `items`, together with those of others; return when that is done.

        A caller that is cancelled takes nobody along. What becomes of its own items is open, as for any caller that
        does not wait for the answer.

        Raises:
            Exception: The first error of theirs, or the flush's.
        """
        if self._came_alone and self._task is None and self._landed.is_set():
            await self._flush_alone(list(items))
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((items, future))
        if self._task is None and self._landed.is_set():
            self._start()
        await future

    async def drain(self) -> None:
        """Wait until everything that was added is flushed."""
        while True:
            await self._landed.wait()
            if self._task is None:
                return
            await asyncio.wait([self._task])

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())  # runs after all who are awake in this iteration

    async def _flush_alone(self, items: list[T]) -> None:
        self._landed.clear()
        try:
            errors = await self._flush(items)
        finally:
            self._landed.set()
            if self._waiting:  # one flush for all is better than one for each
                self._came_alone = False
                self._start()
        failure = next(filter(None, errors), None) if errors else None
        if failure is not None:
            raise failure

    async def _run(self) -> None:
        try:
            turns: list[None] = []
            self._loop.call_soon(turns.append, None)
            taken = self._take()
            await self._flush_one(taken)
            # Whoever flushes without a turn of the loop in between would let nobody else run, if always alone.
            self._came_alone = len(taken) == 1 and not self._waiting and bool(turns)
            while self._waiting:
                await self._flush_one(self._take())
        finally:
            waiting, self._waiting = self._waiting, []
            for _, future in waiting:
                future.cancel()  # the flush before was cancelled, and there is none for these any more
            self._task = None

    def _take(self) -> list[tuple[Sequence[T], "asyncio.Future[None]"]]:
        size = 0
        for count, (items, _) in enumerate(self._waiting, 1):
            size += len(items)
            if size >= self._max_batch:
                taken, self._waiting = self._waiting[:count], self._waiting[count:]
                return taken
        taken, self._waiting = self._waiting, []
        return taken

    async def _flush_one(self, taken: list[tuple[Sequence[T], "asyncio.Future[None]"]]) -> None:
        batch = [item for items, _ in taken for item in items]
        try:
            errors = await self._flush(batch)
        except asyncio.CancelledError:
            for _, future in taken:
                future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - every caller gets it
            errors = [error] * len(batch)
        at = 0
        for items, future in taken:
            own = errors[at : at + len(items)] if errors else ()
            at += len(items)
            if future.done():  # its caller was cancelled meanwhile
                continue
            failure = next(filter(None, own), None)
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(_own(failure))


def _own(error: Exception) -> Exception:
    """Return a copy of `error` for one caller: raised in many, one would collect the frames and notes of all."""
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001 - its constructor wants other arguments; shared is better than lost
        return error
    own.__cause__, own.__context__ = error.__cause__, error.__context__
    own.__suppress_context__ = error.__suppress_context__
    if hasattr(own, "__notes__"):
        own.__notes__ = [*own.__notes__]
    return own.with_traceback(error.__traceback__)
