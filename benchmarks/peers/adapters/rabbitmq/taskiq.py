"""taskiq with taskiq-aio-pika as broker and the Redis result backend of taskiq-redis."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from taskiq_aio_pika import AioPikaBroker
from taskiq_redis import RedisAsyncResultBackend

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.rabbitmq import redis_url_from_environment
from benchmarks.peers.server import url_from_environment

broker = AioPikaBroker(url_from_environment(), qos=100).with_result_backend(
    RedisAsyncResultBackend(redis_url=redis_url_from_environment())
)


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
    distributions = ("taskiq", "taskiq-aio-pika", "aio-pika", "taskiq-redis", "redis", "hiredis")
    changed = ("--workers 1", "--log-level WARNING", "qos=100 (10 lets only ten run at once)")

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.rabbitmq.taskiq:broker"
        return ["taskiq", "worker", module, "--workers", "1", "--log-level", "WARNING"]

    def send(self, task: str, *args: str) -> Awaitable[Any]:
        return TASKS[task].kiq(*args)

    async def result(self, handle: Any) -> int:
        return (await handle.wait_result()).return_value

    def id_of(self, handle: Any) -> str:
        return handle.task_id

    def remaining(self, server: Any, sent: int) -> int:
        return sent - int(server.redis.call("DBSIZE"))

    def waiting(self, server: Any) -> int:
        return server.waiting()
