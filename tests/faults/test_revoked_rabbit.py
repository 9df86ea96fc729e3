"""Tasks are revoked while no worker is there, and the RabbitMQ server is restarted before one comes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

from aiotask.states import REVOKED, SUCCESS

from .harness import Scene
from .rabbit_store import RabbitStore
from .stores import RedisStore

TASKS = 50


@pytest.fixture
async def scene(
    private_rabbit: RabbitServer,
    redis_server: RedisServer,
    tmp_path: Path,
    scene_on: Callable[..., Awaitable[Scene]],
) -> AsyncIterator[Scene]:
    store = RabbitStore(private_rabbit, RedisStore(redis_server), tmp_path / "record")
    yield await scene_on(store)
    store.close()


@pytest.mark.parametrize("how", [pytest.param("SIGTERM", marks=pytest.mark.long), "kill -9"])
async def test_what_was_revoked_never_runs_when_the_server_is_restarted_before_a_worker_comes(
    scene: Scene, private_rabbit: RabbitServer, how: str
) -> None:
    """Half of them was sent before it was revoked, half is sent after the restart under an id that was revoked."""
    [warm] = await scene.send("nap", 0)
    await scene.app.control.revoke(warm, timeout=0)
    await asyncio.to_thread(private_rabbit.wait_until_queues_last)
    sent = await scene.send("nap", 0, times=TASKS // 2)
    later = [f"later-{number}" for number in range(TASKS // 2)]
    await scene.app.control.revoke([*sent, *later], timeout=0)

    await asyncio.to_thread(private_rabbit.kill9 if how == "kill -9" else private_rabbit.stop)
    await asyncio.to_thread(private_rabbit.restart)
    for task_id in later:
        await scene.app.send_task("nap", [0], task_id=task_id)
    scene.sent += later
    [free] = await scene.send("nap", 0)
    await scene.worker()
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"{TASKS} revoked, {how} of RabbitMQ, then a worker")

    assert {event.task_id for event in scene.record.starts()} == {free}
    assert outcomes.pop(free).state == SUCCESS
    assert {meta.state for meta in outcomes.values()} == {REVOKED}
    assert await scene.dead() == {}
