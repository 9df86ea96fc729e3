"""The Redis server is stopped for longer than the lease (SIGSTOP), and goes on: time has passed for nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.servers.redis import RedisServer

from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, LEASE_S, Scene, until
from .stores import RedisStore

STOPPED_S = 1.5 * LEASE_S


@pytest.fixture
async def scene(private_redis: RedisServer, scene_on: Callable[..., Awaitable[Scene]]) -> AsyncIterator[Scene]:
    store = RedisStore(private_redis)
    yield await scene_on(store)
    store.close()


@ACKS_EARLY_LONG
@pytest.mark.parametrize(
    "timeout",
    [
        pytest.param(1.0, id="noticed"),
        pytest.param(5.0, id="not noticed", marks=pytest.mark.long),
    ],
)
async def test_nothing_starts_twice_when_the_server_was_stopped_for_longer_than_the_lease(
    scene: Scene, private_redis: RedisServer, acks_late: bool, timeout: float
) -> None:
    """Whether the links are given up meanwhile, or wait for its answers."""
    link = {"broker_connection_timeout": timeout, "broker_command_timeout": timeout}
    workers = [
        await scene.worker("-c", "4", task_acks_late=acks_late, worker_prefetch_multiplier=2, **link) for _ in range(3)
    ]
    long = await scene.send("nap", STOPPED_S + 1.0, times=4)
    await until(lambda: len(scene.record.starts()) == 4, "four have started")
    await scene.send("nap", 0.1, times=60)
    await until(lambda: len(scene.record.ends()) >= 10, "some are done")
    begun = scene.begun()
    private_redis.sigstop()
    sending = asyncio.create_task(scene.send("nap", 0.1, times=20))
    try:
        await asyncio.sleep(STOPPED_S)
    finally:
        private_redis.sigcont()
    at = scene.now()
    await sending
    outcomes = await scene.all_done()
    await scene.drained()
    lost_links = sum("Lost the connection" in worker.said for worker in workers)
    await scene.tell(
        f"server stopped for {STOPPED_S:g} s, acks {'late' if acks_late else 'early'}",
        begun=len(begun),
        recovery=scene.now() - at,
        noticed_by=f"{lost_links} of 3",
    )
    assert set(long) <= set(begun)
    assert lost_links == (3 if timeout < STOPPED_S else 0)
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
    assert scene.record.started_twice() == 0  # D 0
    assert len(scene.record.starts()) == scene.stored_outcomes() == len(scene.sent)
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None] * 3
