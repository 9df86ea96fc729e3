"""Where a body runs: a coroutine on the event loop, a plain function in a thread or, when it says so, on the loop."""

import asyncio
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class ThreadPool:
    """Threads made on demand, each taking calls from one queue; results come back by one wake-up for many.

    Handing over costs 3 to 7 microseconds, a third of `run_in_executor`. The threads are daemons: one that never ends
    must not keep the process.
    """

    def __init__(self, size: int) -> None:
        """Allow `size` threads; none is made yet."""
        self._size = size
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], bool, Any]] = deque()
        self._busy: dict[asyncio.Future[Any], None] = {}
        """The calls that are run, each by a thread that counts."""
        self._threads = 0
        self._idle = threading.Semaphore(0)
        self._delivery_is_due = False

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any) -> "asyncio.Future[Any]":
        """Run `function` in a thread, with a copy of the calling context; the future has its value or exception."""
        context = contextvars.copy_context()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._calls.put((future, lambda: context.run(function, *args, **kwargs)))
        if not self._idle.acquire(blocking=False) and self._threads < self._size:
            self._grow()
        return future

    def abandon(self, future: "asyncio.Future[Any]") -> None:
        """Leave a call that was cancelled to its thread, which counts no more and ends with it."""
        # Who takes it out decides: the thread, when it is done with the call at the same time, or we.
        if self._busy.pop(future, self) is None:
            self._threads -= 1
            self._grow_if_wanted()

    def lend(self) -> None:
        """Allow one thread more, while the body in one of them does nothing but wait."""
        self._size += 1
        self._grow_if_wanted()

    def take_back(self) -> None:
        """Allow one thread less; one that is there already is used when there is work for it."""
        self._size -= 1

    def _grow_if_wanted(self) -> None:
        if self._calls.qsize() and self._threads < self._size:
            self._grow()

    def _grow(self) -> None:
        self._threads += 1
        threading.Thread(target=self._work, name=f"aiotask-thread-{self._threads}", daemon=True).start()

    def close(self) -> None:
        """Let the threads end when they have nothing more to do. Those that run a body are left to it."""
        for _ in range(self._threads):
            self._calls.put(None)

    def _work(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                self._idle.release()
                call = self._calls.get()
            if call is None:
                return
            future, run = call
            self._busy[future] = None
            if not future.done():  # else handed back while it waited for a thread: nothing starts any more
                try:
                    value, failed = run(), False
                except BaseException as exc:  # noqa: BLE001 - SystemExit, too, ends its own message only
                    value, failed = exc, True
                self._report((future, failed, value))
                del value
            if self._busy.pop(future, self) is self:
                return  # abandoned: another thread may be there in place of this one
            del future, run, call

    def _report(self, item: "tuple[asyncio.Future[Any], bool, Any]") -> None:
        self._done.append(item)
        if not self._delivery_is_due:
            self._delivery_is_due = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                return  # the loop is closed: nobody waits any more

    def _deliver(self) -> None:
        # Cleared before looking: a thread that appends from here on either is seen below or schedules another look.
        self._delivery_is_due = False
        done = self._done
        while done:
            future, failed, value = done.popleft()
            if future.done():
                continue  # abandoned meanwhile
            if failed:
                future.set_exception(settable(value))
            else:
                future.set_result(value)


class _Raised(Exception):  # noqa: N818 - carries another exception
    """Carries an exception that a future refuses (StopIteration) or that would end the loop (SystemExit)."""


def settable(exc: BaseException) -> BaseException:
    """Return an exception as a future, or a coroutine, can hand it on: itself, or wrapped; see `raised_by_body`."""
    if isinstance(exc, Exception) and not isinstance(exc, StopIteration):
        return exc
    carrier = _Raised()
    carrier.__cause__ = exc
    return carrier


def raised_by_body(exc: BaseException) -> BaseException:
    """Return the exception that the body raised, unpacked where a thread had to wrap it."""
    return exc.__cause__ if isinstance(exc, _Raised) and exc.__cause__ is not None else exc
