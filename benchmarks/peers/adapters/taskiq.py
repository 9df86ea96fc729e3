"""taskiq with the stream broker and the result backend of taskiq-redis."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment

URL = url_from_environment()
broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))


@broker.task
async def noop() -> int:
    started()
    return 1


@broker.task
async def take(text: str) -> int:
    started()
    return 1


@broker.task
async def nap() -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}


class Adapter(Peer):
    distributions = ("taskiq", "taskiq-redis", "redis", "hiredis")
    changed = ("--workers 1", "--log-level WARNING")

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.taskiq:broker"
        return ["taskiq", "worker", module, "--workers", "1", "--log-level", "WARNING"]

    def send(self, task: str, *args: str) -> Awaitable[Any]:
        return TASKS[task].kiq(*args)

    async def result(self, handle: Any) -> int:
        return (await handle.wait_result()).return_value

    def id_of(self, handle: Any) -> str:
        return handle.task_id

    def remaining(self, server: Server, sent: int) -> int:
        return self.waiting(server)  # a message is acknowledged once its result is saved

    def waiting(self, server: Server) -> int:
        # Acknowledged entries stay in the stream, so that its length says nothing.
        [group] = server.call("XINFO", "GROUPS", "taskiq")
        told = dict(zip(group[::2], group[1::2], strict=True))
        return int(told["pending"]) + int(told["lag"])
