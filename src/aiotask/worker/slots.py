"""Counts what the worker holds, so that the fetcher asks for exactly what there is room for."""

import asyncio


class Slots:
    """An integer with a way to wait for room; a semaphore costs ten times as much per task."""

    def __init__(self, limit: int) -> None:
        """Count up to `limit` at once."""
        self.limit = limit
        self.used = 0
        self._wanted = 0
        self._waiter: asyncio.Future[None] | None = None

    @property
    def free(self) -> int:
        """How many more may be taken; never negative."""
        return max(0, self.limit - self.used)

    def take(self, count: int) -> None:
        """Count `count` more, room or not."""
        self.used += count

    def give(self, count: int = 1) -> None:
        """Count `count` less, and wake who waits for that much room."""
        self.used -= count
        waiter = self._waiter
        if waiter is not None and self.limit - self.used >= self._wanted and not waiter.done():
            waiter.set_result(None)

    async def wait_for(self, count: int) -> None:
        """Wait until at least `count` are free. One caller at a time."""
        while self.limit - self.used < count:
            self._wanted = count
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
