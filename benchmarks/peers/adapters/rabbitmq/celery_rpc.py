"""Celery with RabbitMQ as broker, results sent to the client's reply queue."""

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.adapters.rabbitmq.celery_app import CeleryAdapter, make_app

app = make_app("rpc://")


class Adapter(CeleryAdapter):
    distributions = ("celery", "kombu", "amqp")
    app = app
    module = __name__

    async def open(self) -> None:
        self._replies = app.thread_oid
        self._connection = app.connection()
        self._channel = self._connection.default_channel
        with app.amqp.producer_pool.acquire() as producer:
            app.backend.on_task_call(producer, "")  # makes the queue

    async def close(self) -> None:
        self._connection.close()
        await super().close()

    def send(self, task: str, *args: str) -> Any:
        # Each thread has a reply queue, which only itself can read: all senders take that of the one that reads.
        return app.tasks[task].apply_async(args, reply_to=self._replies)

    def remaining(self, server: Any, sent: int) -> int:
        return sent - self._channel.queue_declare(self._replies, passive=True).message_count

    async def results(self, handles: Sequence[Any]) -> list[int]:
        # A handle belongs to the thread that has sent it, with a connection of its own to the one queue.
        return [app.AsyncResult(handle.id).get() for handle in handles]
