"""The examples run in SQLite files, and on a Redis server where one is there."""

from tests.servers.fixtures import redis_server, redis_url, shared_redis

__all__ = ["redis_server", "redis_url", "shared_redis"]
