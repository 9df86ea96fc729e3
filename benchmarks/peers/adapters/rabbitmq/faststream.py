"""faststream's RabbitMQ broker. It stores no results: what a subscriber returns is sent to who has asked for it."""

import asyncio
from typing import Any
from uuid import uuid4

from faststream import FastStream
from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitMessage, RabbitQueue

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.rabbitmq import queue_type_from_environment
from benchmarks.peers.server import url_from_environment

broker = RabbitBroker(url_from_environment(), default_channel=Channel(prefetch_count=100), logger=None)
app = FastStream(broker)
KIND = QueueType(queue_type_from_environment() or "classic")  # classic by default
QUEUES = {name: RabbitQueue(name, queue_type=KIND, durable=True) for name in ("noop", "take", "nap")}


@broker.subscriber(QUEUES["noop"])
async def noop(body: str) -> int:
    started()
    return 1


@broker.subscriber(QUEUES["take"])
async def take(text: str) -> int:
    started()
    return 1


@broker.subscriber(QUEUES["nap"])
async def nap(body: str) -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


class Adapter(Peer):
    distributions = ("faststream", "aio-pika")
    changed = (
        "prefetch_count=100",
        "durable=True",
        "persist=True",
        "no logger",
        "results to a reply queue of the client; trips by request()",
    )

    def __init__(self) -> None:
        self._client = RabbitBroker(url_from_environment(), logger=None)
        self._replies = f"replies.{uuid4().hex}"
        self._results: dict[str, asyncio.Future[int]] = {}
        self._done = 0
        self._client.subscriber(RabbitQueue(self._replies, auto_delete=True))(self._on_reply)

    async def _on_reply(self, value: int, message: RabbitMessage) -> None:
        self._results[message.correlation_id].set_result(value)
        self._done += 1

    async def open(self) -> None:
        await self._client.start()
        for queue in QUEUES.values():  # its worker makes them when it starts: before that a message would be returned
            await self._client.declare_queue(queue)

    async def close(self) -> None:
        await self._client.stop()

    def worker(self) -> list[str]:
        return ["faststream", "run", "benchmarks.peers.adapters.rabbitmq.faststream:app", "--log-level", "warning"]

    async def send(self, task: str, *args: str) -> str:
        id_ = uuid4().hex
        self._results[id_] = asyncio.get_running_loop().create_future()
        text = args[0] if args else ""
        await self._client.publish(text, task, reply_to=self._replies, correlation_id=id_, persist=True)
        return id_

    async def result(self, handle: str) -> int:
        return await self._results[handle]

    async def call(self, task: str) -> tuple[str, int]:
        id_ = uuid4().hex
        answer = await self._client.request("", task, correlation_id=id_, persist=True, timeout=10)
        return id_, await answer.decode()

    def id_of(self, handle: str) -> str:
        return handle

    def remaining(self, server: Any, sent: int) -> int:
        return sent - self._done

    def waiting(self, server: Any) -> int:
        return server.waiting()
