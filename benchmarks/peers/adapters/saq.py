"""SAQ with its Redis queue."""

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from saq import Queue

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment


async def noop(ctx: dict[str, Any]) -> int:
    started()
    return 1


async def take(ctx: dict[str, Any], *, text: str) -> int:
    started()
    return 1


async def nap(ctx: dict[str, Any]) -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


queue = Queue.from_url(url_from_environment())
settings = {"queue": queue, "functions": [noop, take, nap], "concurrency": 100}


class Adapter(Peer):
    distributions = ("saq", "redis", "hiredis")
    changed = ("concurrency 100",)

    async def open(self) -> None:
        await queue.connect()

    async def close(self) -> None:
        await queue.disconnect()

    def worker(self) -> list[str]:
        return ["saq", "benchmarks.peers.adapters.saq.settings"]

    def send(self, task: str, *args: str) -> Awaitable[Any]:
        return queue.enqueue(task, **({"text": args[0]} if args else {}))

    async def result(self, handle: Any) -> int:
        while not handle.completed:
            with contextlib.suppress(
                TimeoutError
            ):  # it misses what ends before it listens; asked again, it looks first
                await handle.refresh(until_complete=1)
        return handle.result

    def id_of(self, handle: Any) -> str:
        return handle.id

    def remaining(self, server: Server, sent: int) -> int:
        return int(server.call("ZCARD", "saq:default:incomplete"))

    def waiting(self, server: Server) -> int:
        return int(server.call("LLEN", "saq:default:queued")) + int(server.call("LLEN", "saq:default:active"))
