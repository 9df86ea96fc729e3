"""Celery with RabbitMQ as broker, results in Redis."""

from typing import Any

from benchmarks.peers.adapters.rabbitmq.celery_app import CeleryAdapter, make_app
from benchmarks.peers.rabbitmq import redis_url_from_environment

app = make_app(redis_url_from_environment())


class Adapter(CeleryAdapter):
    distributions = ("celery", "kombu", "amqp", "redis", "hiredis")
    app = app
    module = __name__

    def remaining(self, server: Any, sent: int) -> int:
        return sent - int(server.redis.call("DBSIZE"))
