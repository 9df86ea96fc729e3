"""The Redis server has no memory left (`maxmemory`, noeviction): sending is refused at once, and workers drain it."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.servers.redis import RedisServer

from aiotask import BrokerFull
from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, Scene, until
from .stores import RedisStore

LARGE = "x" * 20_000


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis("--maxmemory", "8mb", "--maxmemory-policy", "noeviction")


@pytest.fixture
async def scene(server: RedisServer, scene_on: Callable[..., Awaitable[Scene]]) -> AsyncIterator[Scene]:
    store = RedisStore(server)
    yield await scene_on(store)
    store.close()


async def fill(scene: Scene, times: int) -> float:
    """Send until it is refused; return how long the refusal took."""
    while True:
        at = scene.now()
        try:
            await scene.send("echo", 0.01, LARGE, times)
        except BrokerFull as error:
            took, said = scene.now() - at, str(error)
            break
    assert "has no room" in said
    assert "maxmemory" in said
    return took


@ACKS_EARLY_LONG
async def test_everything_drains_when_the_server_was_full_before_any_worker_came(scene: Scene, acks_late: bool) -> None:
    """Results are small: with each message that is done there is more room."""
    refused = await fill(scene, 0)
    confirmed = len(scene.sent)
    worker = await scene.worker("-c", "10", task_acks_late=acks_late)
    await scene.all_done()
    await scene.drained()
    again = await scene.send("echo", 0, LARGE, 0, times=20)
    outcomes = await scene.all_done()
    await scene.tell(f"maxmemory, then a worker, acks {'late' if acks_late else 'early'}", refused=f"{refused:.3f} s")
    assert confirmed > 50
    assert refused < 1.0
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0 of what was confirmed
    assert set(again) <= set(outcomes)
    assert scene.record.started_twice() == 0
    assert scene.stored_outcomes() == len(scene.sent)
    assert await scene.dead() == {}
    assert worker.code is None


@ACKS_EARLY_LONG
async def test_everything_drains_when_results_fill_the_server(
    scene: Scene, server: RedisServer, acks_late: bool
) -> None:
    """Each result is larger than its message: workers need more room than there is, and take it."""
    worker = await scene.worker("-c", "5", task_acks_late=acks_late)
    refused = await fill(scene, 5)
    outcomes = await scene.all_done()
    await scene.drained()
    used = server.call("INFO", "memory")["used_memory"]
    await scene.tell(
        f"maxmemory by results, acks {'late' if acks_late else 'early'}",
        refused=f"{refused:.3f} s",
        used=f"{used / 2**20:.1f} MiB of 8",
    )
    assert refused < 1.0
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    server.call("CONFIG", "SET", "maxmemory", "0")
    await scene.send("retry_once", 0, times=3)
    await scene.send("nap", 0, times=5)
    assert {meta.state for meta in (await scene.all_done()).values()} == {SUCCESS}
    await scene.drained()
    assert scene.stored_outcomes() == len(scene.sent) + 3  # RETRY is a state
    assert scene.record.started_twice() == 3
    assert worker.code is None


async def test_all_ways_to_end_a_message_work_when_the_server_is_full(scene: Scene, server: RedisServer) -> None:
    """Retried, dead-lettered, handed back and reclaimed: nothing of it is refused."""
    retried = await scene.send("retry_once", 0.3, times=2)
    bad = [(await scene.app.send_task("nope")).id for _ in range(2)]
    doomed = await scene.worker("-c", "4", task_acks_late=True, worker_prefetch_multiplier=5)
    await until(lambda: len(scene.record.starts()) == 2, "two have started")
    await scene.send("nap_once", 3600, times=2)
    await scene.send("nap_once", 0.01, times=3)
    server.call("CONFIG", "SET", "maxmemory", "1mb")
    with pytest.raises(BrokerFull):
        await scene.app.send_task("nap", [0])
    await scene.all_done([*retried, *bad])
    await until(lambda: len(scene.begun(doomed.pid)) >= 2, "the long ones have started")
    await doomed.kill()
    begun = scene.begun(doomed.pid)
    leaving = await scene.worker("-c", "20", task_acks_late=True)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell("maxmemory, all ways to end", begun=len(begun))
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert set(await scene.dead()) == set(bad)
    assert scene.record.started_twice() <= 2 + len(begun)
    assert leaving.code is None
