"""The servers and the proxy, under test themselves."""

from tests.servers.fixtures import private_redis, proxy, redis_server, shared_redis, start_redis

__all__ = ["private_redis", "proxy", "redis_server", "shared_redis", "start_redis"]
