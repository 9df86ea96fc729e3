"""For code without an event loop: runs coroutines on a loop in another thread and blocks until they are done."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from aiotask.exceptions import AioTaskError

T = TypeVar("T")


def refuse_on_a_loop(what: str) -> None:
    """See that the calling thread has no running loop, which a blocking call would stop.

    Raises:
        AioTaskError: It has one.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise AioTaskError(
        f"{what} blocks, and was called on a running event loop, which it would stop for all. "
        "Leave out `.sync` and await it."
    )


def run_on(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run what `make` returns on a loop that runs in another thread, and wait for it."""
    return asyncio.run_coroutine_threadsafe(_made(make), loop).result()


async def _made(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await make()  # made on its loop, so that a call that never gets there leaves no coroutine behind


class BackgroundLoop:
    """One event loop in a daemon thread, started at the first use in a process: a fork has no copy of the thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop."""
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="aiotask-sync", daemon=True).start()
            return self._loop
