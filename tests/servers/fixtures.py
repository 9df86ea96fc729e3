"""Fixtures for tests that need servers: import what a test uses into its `conftest.py`."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.rabbitmq import RabbitServer, need_rabbitmq, server_of_this_process, vhost_of
from tests.servers.redis import RedisServer, certificates, need_redis

from aiotask.connections.redis import RedisLink


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests of this process; see `redis_server` for the one that a test uses."""
    need_redis()
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """A running server, empty, with its settings and scripts as at its start. Not to be stopped."""
    shared_redis.call("FLUSHALL")
    shared_redis.call("SCRIPT", "FLUSH")
    return shared_redis


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a running, empty server."""
    return redis_server.url()


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of the test's own, which it may stop, freeze and kill; see `RedisServer` for the arguments."""
    servers: list[RedisServer] = []

    def start(*options: str, password: str = "", tls: bool = False) -> RedisServer:
        folder = tmp_path / f"redis{len(servers)}"
        if tls:
            certificates(folder)
        server = RedisServer(folder, *options, password=password, tls=tls)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.kill9()


@pytest.fixture
def private_redis(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """A running server of the test's own."""
    return start_redis()


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    """A proxy in front of `redis_server`."""
    with FaultProxy(redis_server.port) as proxy:
        yield proxy


@pytest.fixture
async def open_link() -> AsyncIterator[Callable[..., Awaitable[RedisLink]]]:
    """Opens links to Redis, closed after the test; see `RedisLink` for the arguments."""
    links: list[RedisLink] = []

    async def open_link(url: str, **options: Any) -> RedisLink:
        link = RedisLink(url, **options)
        await link.open()
        links.append(link)
        return link

    yield open_link
    for link in links:
        await link.close()


@pytest.fixture
async def link(redis_url: str, open_link: Callable[..., Awaitable[RedisLink]]) -> RedisLink:
    """An open link to `redis_server`."""
    return await open_link(redis_url)


@pytest.fixture(scope="session")
def shared_rabbit() -> RabbitServer:
    """One server for all tests of this process; each has a virtual host. What is changed in it is to be undone."""
    return server_of_this_process()


@pytest.fixture
def vhost(shared_rabbit: RabbitServer) -> Iterator[str]:
    """An empty virtual host."""
    with vhost_of(shared_rabbit) as vhost:
        yield vhost


@pytest.fixture
def rabbit_url(shared_rabbit: RabbitServer, vhost: str) -> str:
    """The URL of an empty virtual host."""
    return shared_rabbit.url(vhost)


@pytest.fixture
def private_rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    """A running server of the test's own, which it may stop, freeze and kill."""
    need_rabbitmq()
    with RabbitServer(tmp_path / "rabbitmq") as server:
        yield server
