"""A Redis backend on a server and a listener that do what the test says."""

from collections.abc import AsyncIterator

import pytest
from tests.unit.results.redis.doubles import Listening, Server

from aiotask.results.redis import RedisBackend, watching


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True, params=[True, False], ids=["one connection", "two connections"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Listening]:
    monkeypatch.setattr(watching, "Listener", Listening)
    Listening.made = []
    Listening.mixes = request.param
    return Listening.made


@pytest.fixture
async def backend(server: Server) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(server)  # type: ignore[arg-type]
    await backend.open()
    yield backend
    await backend.close()
