"""The broker on a Redis server: many processes on many machines, each step one script on the server."""

from aiotask.brokers.redis.broker import RedisBroker

__all__ = ["RedisBroker"]
