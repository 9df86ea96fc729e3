"""What the guide's tests share: an app on each broker that there is, and a way to put raw messages into its queues."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.guide.letters import read_letters
from tests.guide.program import Program
from tests.servers.fixtures import rabbit_url, redis_server, redis_url, shared_rabbit, shared_redis, vhost

from aiotask import AioTask
from aiotask.message import DeadLetter, Envelope, QueueDepth, TaskMessage

__all__ = ["rabbit_url", "redis_server", "redis_url", "shared_rabbit", "shared_redis", "vhost"]

Depth = Callable[..., Awaitable[QueueDepth]]
Until = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

PATIENCE_S = 10.0


@pytest.fixture(params=["memory", "sqlite", "redis", "amqp"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty broker. RabbitMQ has results in a file beside it."""
    for broker, why in (mark.args for mark in request.node.iter_markers("not_on")):
        if broker == request.param:
            pytest.skip(why)
    if request.param == "amqp":
        if request.node.get_closest_marker("priorities"):
            monkeypatch.setenv("AIOTASK_TASK_QUEUE_MAX_PRIORITY", "9")
        monkeypatch.setenv("AIOTASK_RESULT_BACKEND", f"sqlite:///{tmp_path}/results.db")
        return str(request.getfixturevalue("rabbit_url"))
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/tasks.db"


@pytest.fixture
async def app(url: str) -> AsyncIterator[AioTask]:
    """An app as a program makes it; nothing is open yet."""
    made = AioTask("proj", broker=url)
    yield made
    await made.close()


@pytest.fixture
async def program(app: AioTask) -> Program:
    return Program(app)


@pytest.fixture
def post(app: AioTask) -> Callable[..., Awaitable[str]]:
    """Put a message into a queue as another program would, which may be older, newer, or not ours; returns its id."""

    async def post(
        body: bytes | TaskMessage, *, task_id: str = "posted", content_type: str | None = None, queue: str = "default"
    ) -> str:
        await app.connect()
        if isinstance(body, TaskMessage):
            task_id, body = body.id, app.codec.encode(body)
        await app.broker.publish([Envelope(task_id, queue, body, content_type or app.codec.content_type)])
        return task_id

    return post


@pytest.fixture
def dead_letters(app: AioTask) -> Callable[[], Awaitable[list[DeadLetter]]]:
    """Return the dead letters of all queues, the newest first."""

    async def dead_letters() -> list[DeadLetter]:
        await app.connect()
        return await read_letters(app)

    return dead_letters


@pytest.fixture
def depth(app: AioTask) -> Depth:
    """Return what a queue holds."""

    async def depth(queue: str = "default") -> QueueDepth:
        await app.connect()
        broker: Any = app.broker
        [found] = await broker.depths([queue])
        return found  # type: ignore[no-any-return]

    return depth


@pytest.fixture
def until() -> Until:
    """Wait until an awaited condition holds."""

    async def until(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await asyncio.sleep(0.005)

    return until
