"""streaq."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from streaq import Worker

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment


@asynccontextmanager
async def quiet() -> AsyncIterator[None]:
    """Set the log level, for which its command has no option."""
    logging.getLogger("streaq").setLevel(logging.WARNING)
    yield


worker = Worker(redis_url=url_from_environment(), concurrency=100, lifespan=quiet)


@worker.task
async def noop() -> int:
    started()
    return 1


@worker.task
async def take(text: str) -> int:
    started()
    return 1


@worker.task
async def nap() -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}


class Adapter(Peer):
    distributions = ("streaq", "coredis")
    changed = ("concurrency=100", "log level WARNING by a lifespan")

    async def open(self) -> None:
        await worker.__aenter__()

    async def close(self) -> None:
        await worker.__aexit__(None, None, None)

    def worker(self) -> list[str]:
        return ["streaq", "run", "benchmarks.peers.adapters.streaq:worker"]

    async def send(self, task: str, *args: str) -> Any:
        return await TASKS[task].enqueue(*args)

    async def result(self, handle: Any) -> int:
        return (await handle.result()).result

    async def results(self, handles: Sequence[Any]) -> list[int]:
        # `result` opens a connection for each: minutes for all of them.
        rows = await worker.redis.mget([worker.results_key + handle.id for handle in handles])
        told = [await worker.deserialize(row) for row in rows]
        return [row["r"] if row["s"] else 0 for row in told]

    def id_of(self, handle: Any) -> str:
        return handle.id

    def remaining(self, server: Server, sent: int) -> int:
        return sent - int(server.call("ZCARD", "streaq:default:index:results"))

    def waiting(self, server: Server) -> int:
        return int(server.call("XLEN", "streaq:default:queues:normal"))
