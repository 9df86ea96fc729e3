"""Wakes all who wait for one thing. Unlike an event it has no state of its own, which could be out of step."""

import asyncio


class Signal:
    """Something that happens again and again."""

    def __init__(self) -> None:
        self._waiters: set[asyncio.Future[None]] = set()

    def fire(self) -> None:
        """Let all who wait go on."""
        for waiter in self._waiters:
            _wake(waiter)

    async def wait(self, seconds: float) -> None:
        """Return when it happens next, or after so many seconds."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
