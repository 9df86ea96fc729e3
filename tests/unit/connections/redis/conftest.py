"""Real servers, for what can't be seen without one."""

from tests.servers.fixtures import (
    link,
    open_link,
    private_redis,
    proxy,
    redis_server,
    redis_url,
    shared_redis,
    start_redis,
)

__all__ = ["link", "open_link", "private_redis", "proxy", "redis_server", "redis_url", "shared_redis", "start_redis"]
