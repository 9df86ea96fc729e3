"""docket, which PyPI calls pydocket."""

import asyncio
from typing import Any

from docket import Docket

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment

URL = url_from_environment() + "?max_connections=1000"
"""With redis-py 8 a pool holds 100 connections; a worker of 100 at once needs more and loses tasks for minutes."""


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


TASKS = {"noop": noop, "take": take, "nap": nap}
tasks = list(TASKS.values())


class Adapter(Peer):
    distributions = ("pydocket", "redis", "hiredis")
    changed = ("--concurrency 100", "--logging-level WARNING", "?max_connections=1000 in the URL (fails with 100)")

    async def open(self) -> None:
        self._docket = Docket(url=URL)
        await self._docket.__aenter__()

    async def close(self) -> None:
        await self._docket.__aexit__(None, None, None)

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.docket:tasks"
        level = ["--logging-level", "WARNING"]
        return ["docket", "worker", "--tasks", module, "--url", URL, "--concurrency", "100", *level]

    async def send(self, task: str, *args: str) -> Any:
        return await self._docket.add(TASKS[task])(*args)

    async def result(self, handle: Any) -> int:
        return await handle.get_result()

    def id_of(self, handle: Any) -> str:
        return handle.key

    def remaining(self, server: Server, sent: int) -> int:
        return self.waiting(server)  # an entry goes in the step that marks its run as completed

    def waiting(self, server: Server) -> int:
        return int(server.call("XLEN", "docket:stream"))
