"""aiotask with RabbitMQ as broker, results sent to the client's reply queue."""

from collections.abc import Awaitable
from typing import Any

from aiotask import AsyncResult
from benchmarks.peers.adapters.rabbitmq.own import OwnAdapter, make_app, tasks_of

app = make_app("rpc://")
tasks = tasks_of(app)


class Adapter(OwnAdapter):
    module = __name__
    app = app
    tasks = tasks

    def __init__(self) -> None:
        self._sent: list[str] = []

    def send(self, task: str, *args: str) -> Awaitable[AsyncResult[int]]:
        return self._noted(super().send(task, *args))

    async def _noted(self, sending: Awaitable[AsyncResult[int]]) -> AsyncResult[int]:
        handle = await sending
        self._sent.append(handle.id)
        return handle

    async def remaining(self, server: Any, sent: int) -> int:
        """Return how many of those have not come that were sent before the last one that has not."""
        missing = self._sent
        while missing:
            [meta] = await self.app.backend.fetch(missing[-1:])
            if meta is None:
                break
            missing.pop()
        return len(missing)
