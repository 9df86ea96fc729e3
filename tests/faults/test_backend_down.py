"""The results lie on a Redis server of their own, which is down for a while; the broker is up."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.servers.rabbitmq import RabbitServer, vhost_of
from tests.servers.redis import RedisServer

from aiotask import BackendError
from aiotask.states import SUCCESS

from .harness import LEASE_S, Scene, until
from .rabbit_store import RabbitStore
from .stores import RedisStore, Store

CONCURRENCY = 5


@pytest.fixture
def results(start_redis: Callable[..., RedisServer]) -> RedisServer:
    return start_redis("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")


@pytest.fixture
async def scene(
    broker: str,
    start_redis: Callable[..., RedisServer],
    results: RedisServer,
    scene_on: Callable[..., Awaitable[Scene]],
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> AsyncIterator[Scene]:
    store: Store
    if broker == "amqp":
        rabbit: RabbitServer = request.getfixturevalue("shared_rabbit")
        with vhost_of(rabbit) as vhost:
            store = RabbitStore(rabbit, RedisStore(results, durable=results), tmp_path / "record", vhost=vhost)
            yield await scene_on(store)
    else:
        store = RedisStore(start_redis(), durable=results)
        yield await scene_on(store, result_backend=results.url())
    store.close()


LONG = pytest.mark.long
SHORT_S = LEASE_S + 0.3


@pytest.mark.parametrize(
    ("broker", "acks_late", "down_s"),
    [
        ("redis", True, SHORT_S),
        ("amqp", False, SHORT_S),
        pytest.param("redis", False, SHORT_S, marks=pytest.mark.long),
        pytest.param("amqp", True, SHORT_S, marks=pytest.mark.long),
        *(pytest.param(broker, late, 30.0, marks=LONG) for broker in ("redis", "amqp") for late in (True, False)),
    ],
)
async def test_bodies_run_once_and_are_acknowledged_when_stored_though_the_backend_is_down(
    scene: Scene, broker: str, results: RedisServer, acks_late: bool, down_s: float
) -> None:
    worker = await scene.worker("-c", str(CONCURRENCY), task_acks_late=acks_late)
    await scene.send("nap", 0.05, times=10)
    await scene.all_done()
    await scene.drained()
    waited_for = await scene.app.send_task("nap", [1.0])
    waiting = asyncio.create_task(waited_for.get())
    scene.sent.append(waited_for.id)
    await until(lambda: len(scene.record.starts()) == 11, "it has started")
    await asyncio.to_thread(results.kill9)
    await scene.send("nap", 0.05, times=60)
    await asyncio.sleep(down_s)
    ended = len(scene.record.ends()) - 10
    depth = await scene.depth()
    unsettled = depth.ready + depth.reserved
    held = scene.begun() if broker == "redis" else scene.record.starts()[10:]
    await asyncio.to_thread(results.restart)
    at = scene.now()

    async def done() -> bool:
        try:
            return len(await scene.outcomes()) == 71
        except BackendError:  # the sender, too, has to connect again
            return False

    await until(done, "all is stored")
    await scene.drained()
    recovery = scene.now() - at
    assert await asyncio.wait_for(waiting, 10) == worker.pid
    outcomes = await scene.outcomes()
    await scene.tell(
        f"result backend down for {down_s:g} s, acks {'late' if acks_late else 'early'}",
        begun=len(held),
        recovery=recovery,
        ended_meanwhile=ended,
    )
    assert 1 <= ended <= 4 * CONCURRENCY  # what is not stored is bounded: no more is taken
    assert len(held) >= ended  # and not acknowledged
    gone = len(held) if broker == "amqp" and not acks_late else 0  # acknowledged when they began
    assert unsettled == 61 - gone
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.record.started_twice() == 0
    assert len(scene.record.starts()) == scene.stored_outcomes() == 71
    assert await scene.dead() == {}
    assert worker.code is None
