"""Bare messages by aio-pika: published persistent and confirmed to a quorum queue, consumed and acknowledged."""

import asyncio
import os
from typing import Any

import aio_pika

from benchmarks.peers.adapters.rabbitmq.counting import Counter
from benchmarks.peers.bodies import started
from benchmarks.peers.protocol import Ceiling
from benchmarks.peers.server import url_from_environment

QUEUE = "bare"
BODY = b"x" * 100


class Adapter(Ceiling):
    distributions = ("aio-pika", "aiormq")
    changed = ("prefetch 100", "a quorum queue")

    def __init__(self) -> None:
        self._counter = Counter()

    async def open(self) -> None:
        self._connection = await aio_pika.connect(url_from_environment())
        self._channel = await self._connection.channel()
        await self._channel.declare_queue(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    async def close(self) -> None:
        await self._connection.close()
        self._counter.remove()

    def worker(self) -> list[str]:
        return ["python", "-m", "benchmarks.peers.adapters.rabbitmq.aio_pika"]

    async def send(self, task: str, *args: str) -> str:
        id_ = os.urandom(16).hex()
        message = aio_pika.Message(BODY, message_id=id_, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await self._channel.default_exchange.publish(message, QUEUE)
        return id_

    def id_of(self, handle: str) -> str:
        return handle

    def remaining(self, server: Any, sent: int) -> int:
        return sent - self._counter.value

    def waiting(self, server: Any) -> int:
        return server.waiting()


async def consume() -> None:
    """Take and acknowledge, until killed."""
    counter = Counter()
    connection = await aio_pika.connect(url_from_environment())
    channel = await connection.channel()
    await channel.set_qos(100)
    queue = await channel.get_queue(QUEUE)

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        started()
        await message.ack()
        counter.add()

    await queue.consume(take)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(consume())
