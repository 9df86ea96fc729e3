"""aiotask with RabbitMQ as broker, results in Redis."""

from typing import Any

from aiotask import AioTask
from benchmarks.peers.adapters.rabbitmq.own import OwnAdapter, tasks_of
from benchmarks.peers.rabbitmq import redis_url_from_environment
from benchmarks.peers.server import url_from_environment

app = AioTask("peers", broker=url_from_environment(), backend=redis_url_from_environment())
tasks = tasks_of(app)


class Adapter(OwnAdapter):
    module = __name__
    app = app
    tasks = tasks

    def remaining(self, server: Any, sent: int) -> int:
        return sent - int(server.redis.call("DBSIZE"))
