"""arq."""

import asyncio
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings
from arq.logs import default_log_config

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment


async def noop(ctx: dict[str, Any]) -> int:
    started()
    return 1


async def take(ctx: dict[str, Any], text: str) -> int:
    started()
    return 1


async def nap(ctx: dict[str, Any]) -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


class WorkerSettings:
    functions = (noop, take, nap)
    redis_settings = RedisSettings.from_dsn(url_from_environment())
    max_jobs = 100


QUIET = default_log_config(verbose=False)
QUIET["loggers"]["arq"]["level"] = "WARNING"


class Adapter(Peer):
    distributions = ("arq", "redis", "hiredis")
    changed = ("max_jobs = 100", "log level WARNING by --custom-log-dict")

    async def open(self) -> None:
        self._pool = await create_pool(WorkerSettings.redis_settings)

    async def close(self) -> None:
        await self._pool.aclose()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.arq"
        return ["arq", f"{module}.WorkerSettings", "--custom-log-dict", f"{module}.QUIET"]

    async def send(self, task: str, *args: str) -> Any:
        return await self._pool.enqueue_job(task, *args)

    async def result(self, handle: Any) -> int:
        return await handle.result()

    def id_of(self, handle: Any) -> str:
        return handle.job_id

    def remaining(self, server: Server, sent: int) -> int:
        return self.waiting(server)

    def waiting(self, server: Server) -> int:
        return int(server.call("ZCARD", "arq:queue"))
