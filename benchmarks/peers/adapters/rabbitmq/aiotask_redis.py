"""aiotask with RabbitMQ as broker, results in Redis."""

from typing import Any

from benchmarks.peers.adapters.rabbitmq.own import OwnAdapter, make_app, tasks_of
from benchmarks.peers.rabbitmq import redis_url_from_environment

app = make_app(redis_url_from_environment())
tasks = tasks_of(app)


class Adapter(OwnAdapter):
    module = __name__
    app = app
    tasks = tasks

    def remaining(self, server: Any, sent: int) -> int:
        return sent - int(server.redis.call("DBSIZE"))
