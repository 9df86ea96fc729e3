"""Bare messages by aiormq, the driver under aio-pika: as `aio_pika` does it."""

import asyncio
import os
from typing import Any

import aiormq
from aiormq.abc import DeliveredMessage

from benchmarks.peers.adapters.rabbitmq.counting import Counter
from benchmarks.peers.bodies import started
from benchmarks.peers.protocol import Ceiling
from benchmarks.peers.server import url_from_environment

QUEUE = "bare"
BODY = b"x" * 100


class Adapter(Ceiling):
    distributions = ("aiormq", "pamqp")
    changed = ("prefetch 100", "a quorum queue")

    def __init__(self) -> None:
        self._counter = Counter()

    async def open(self) -> None:
        self._connection = await aiormq.connect(url_from_environment())
        self._channel = await self._connection.channel()
        await self._channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

    async def close(self) -> None:
        await self._connection.close()
        self._counter.remove()

    def worker(self) -> list[str]:
        return ["python", "-m", "benchmarks.peers.adapters.rabbitmq.aiormq"]

    async def send(self, task: str, *args: str) -> str:
        id_ = os.urandom(16).hex()
        properties = aiormq.spec.Basic.Properties(message_id=id_, delivery_mode=2)
        await self._channel.basic_publish(BODY, routing_key=QUEUE, properties=properties)
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
    connection = await aiormq.connect(url_from_environment())
    channel = await connection.channel(publisher_confirms=False)
    await channel.basic_qos(prefetch_count=100)

    async def take(message: DeliveredMessage) -> None:
        started()
        await channel.basic_ack(message.delivery.delivery_tag)
        counter.add()

    await channel.basic_consume(QUEUE, take)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(consume())
