"""aiotask of this checkout on RabbitMQ: what its two adapters share."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from aiotask import AioTask, AsyncResult
from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.rabbitmq import queue_type_from_environment
from benchmarks.peers.server import url_from_environment


async def noop() -> int:
    started()
    return 1


async def take(text: str) -> int:
    started()
    return 1


async def nap() -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


def make_app(backend: str) -> AioTask:
    """Return an app without tasks."""
    kind = queue_type_from_environment()
    return AioTask(
        "peers",
        broker=url_from_environment(),
        backend=backend,
        broker_transport_options={} if kind is None else {"queue_type": kind},
    )


def tasks_of(app: AioTask) -> dict[str, Any]:
    """Return the tasks of an app, by their names."""
    return {body.__name__: app.task(body) for body in (noop, take, nap)}


class OwnAdapter(Peer):
    """Of an app in a module of its own, for the worker to find."""

    distributions = ("aiotask", "aio-pika", "aiormq", "redis", "hiredis")
    changed = ("-l warning",)
    module: str
    app: AioTask
    tasks: Mapping[str, Any]

    async def open(self) -> None:
        await self.app.__aenter__()

    async def close(self) -> None:
        await self.app.close()

    def worker(self) -> list[str]:
        return ["aiotask", "run", f"{self.module}:app", "-l", "warning"]

    def send(self, task: str, *args: str) -> Awaitable[AsyncResult[int]]:
        return self.tasks[task].delay(*args)

    def result(self, handle: AsyncResult[int]) -> Awaitable[int]:
        return handle.get()

    def id_of(self, handle: AsyncResult[int]) -> str:
        return handle.id

    def waiting(self, server: Any) -> int:
        # What lies there is the list of all queues, and what was revoked.
        return server.waiting("aiotask.queues", "aiotask.revokes")

    async def results(self, handles: Sequence[AsyncResult[int]]) -> list[int]:
        found = await self.app.backend.fetch([handle.id for handle in handles])
        return [1 if meta is not None and meta.state == "SUCCESS" else 0 for meta in found]
