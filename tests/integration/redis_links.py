"""What tests of the link to Redis share: scripts to run, and servers that are lost, refused, or replicas."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.conditions import PATIENCE_S, until
from tests.servers.redis import RedisServer

from aiotask.connections.redis import LinkClosed, RedisLink, Script, ServerRefused

Open = Callable[..., Awaitable[RedisLink]]
Start = Callable[..., RedisServer]

ECHO = Script("return {KEYS[1], ARGV[1]}", "echo")
COUNT = Script("return redis.call('INCR', KEYS[1])", "count")


async def restarted(server: RedisServer, link: RedisLink) -> None:
    """Kill the server and start it again; return when the link has got over it."""
    server.kill9()
    await until(lambda: not link.connected)
    server.start()
    assert await link.command("PING", wait=PATIENCE_S) == b"PONG"


async def why_refused(url: str, **options: Any) -> str:
    link = RedisLink(url, **options)
    with pytest.raises(ServerRefused) as raised:
        await link.open()
    assert not link.connected
    with pytest.raises(LinkClosed):
        await link.command("PING", wait=1.0)
    return str(raised.value)


def replicate(replica: RedisServer, master: RedisServer) -> None:
    replica.call("REPLICAOF", "127.0.0.1", master.port)
    deadline = time.monotonic() + PATIENCE_S
    while replica.call("ROLE")[3] != b"connected":
        assert time.monotonic() < deadline
        time.sleep(0.01)
