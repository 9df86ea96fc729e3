"""The scene of each fault test."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.servers.fixtures import (
    private_rabbit,
    private_redis,
    proxy,
    redis_server,
    shared_rabbit,
    shared_redis,
    start_redis,
)
from tests.servers.rabbitmq import RabbitServer, vhost_of

from .harness import Scene
from .rabbit_store import RabbitStore
from .stores import RedisStore, SqliteStore, Store

__all__ = [
    "private_rabbit",
    "private_redis",
    "proxy",
    "redis_server",
    "shared_rabbit",
    "shared_redis",
    "start_redis",
]


@pytest.fixture
def broker() -> str:
    """What the scene is on; see `EACH_BROKER`."""
    return "sqlite"


@pytest.fixture
def store(broker: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty place for messages and results."""
    store: Store
    with ExitStack() as stack:
        store = SqliteStore(tmp_path) if broker == "sqlite" else RedisStore(request.getfixturevalue("redis_server"))
        if broker == "amqp":
            rabbit: RabbitServer = request.getfixturevalue("shared_rabbit")
            store = RabbitStore(rabbit, store, tmp_path / "record", vhost=stack.enter_context(vhost_of(rabbit)))
        stack.callback(store.close)
        yield store


@pytest.fixture
async def scene_on(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Scene]]]:
    """Makes a scene on a store that the test names; with the settings of its sender and its workers, if need be."""
    scenes: list[Scene] = []

    async def make(store: Store, **settings: Any) -> Scene:
        scene = Scene(store, record=tmp_path / "record", **settings)
        scenes.append(scene)
        await scene.app.connect()
        return scene

    try:
        yield make
    finally:
        for scene in scenes:
            await scene.close()


@pytest.fixture
async def scene(store: Store, scene_on: Callable[..., Awaitable[Scene]]) -> Scene:
    return await scene_on(store)
