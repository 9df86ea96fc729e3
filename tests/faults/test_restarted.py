"""The Redis server is killed under load, and comes back with all that was confirmed, or with nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.servers.redis import RedisServer

from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, LEASE_S, SLACK_S, Scene, until
from .stores import QUEUE, RedisStore
from .traffic import consuming_again, senders

CONSUMING_AGAIN_S = 2.0
NEW_WORK_S = 5.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0")


@pytest.fixture
def server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """A server whose answer means that it is on the disk."""
    return start_redis(*DURABLE)


@pytest.fixture
async def scene(server: RedisServer, scene_on: Callable[..., Awaitable[Scene]]) -> AsyncIterator[Scene]:
    store = RedisStore(server, durable=server)
    yield await scene_on(store, broker_publish_timeout=30)
    store.close()


async def restart(scene: Scene, server: RedisServer, down_s: float, *, keep: bool = True) -> tuple[float, int]:
    """Kill the server and start it again; return when it answered, and how much was begun and not stored."""
    await asyncio.to_thread(server.kill9)
    await asyncio.sleep(down_s)
    await asyncio.to_thread(server.restart, keep=keep)
    return scene.now(), len(scene.begun())


LONG = pytest.mark.long


@ACKS_EARLY_LONG
@pytest.mark.parametrize(
    ("kills", "down_s"), [(2, 0.2), pytest.param(10, 0.5, marks=LONG), pytest.param(5, 6.0, marks=LONG)]
)
async def test_nothing_confirmed_is_lost_when_the_server_is_killed(
    scene: Scene, server: RedisServer, acks_late: bool, kills: int, down_s: float
) -> None:
    lease = max(LEASE_S, 3 * down_s)  # nobody can renew meanwhile
    workers = [await scene.worker("-c", "10", task_acks_late=acks_late, worker_lease=lease) for _ in range(2)]
    took: list[float] = []
    down: list[float] = []
    begun = 0
    async with senders(scene, 8) as calls:
        for number in range(1, kills + 1):
            await until(lambda number=number: len(scene.record.ends()) >= 60 * number, "some more are done")
            at = scene.now()
            answered, held = await restart(scene, server, down_s)
            down.append(answered - at)
            begun += held
            sent = len(calls)
            took.append(await consuming_again(scene, workers, answered))
            await until(lambda sent=sent: len(calls) > sent + 8, "the senders go on, too")
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(
        f"{kills} x kill -9 of the server, {down_s:g} s, acks {'late' if acks_late else 'early'}",
        begun=begun,
        consuming_again=f"{max(took):.2f} s",
        slowest_call=f"{max(calls):.2f} s in {max(down):.2f} s without a server",
    )

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0 of what was confirmed
    assert max(calls) < max(down) + CONSUMING_AGAIN_S + SLACK_S  # senders wait for the server, too
    assert scene.stored_outcomes() == len(scene.sent)
    assert scene.record.started_twice() == 0  # the owners live, and say so in time
    assert len(scene.record.starts()) == len(scene.sent)
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None, None]
    assert {event.pid for event in scene.record.events()} == {worker.pid for worker in workers}
    assert max(took) < CONSUMING_AGAIN_S + SLACK_S / 2  # with pauses up to 5 s between attempts it would be more


async def test_new_work_flows_when_the_server_comes_back_empty(scene: Scene, server: RedisServer) -> None:
    """What it had is gone, what runs is refused; queues, groups and consumers are made again."""
    workers = [await scene.worker("-c", "5", task_acks_late=True) for _ in range(2)]
    await scene.send("nap", 0.05, times=30)
    await scene.all_done()
    gone = await scene.send("nap", 1.5, times=2)
    await until(lambda: len(scene.record.starts()) == 32, "two are running")
    at, _ = await restart(scene, server, 0.2, keep=False)
    scene.sent.clear()
    await scene.send("nap", 0.2, times=10)
    delayed = await scene.app.send_task("nap", [0], countdown=0.3)
    scene.sent.append(delayed.id)
    outcomes = await scene.all_done()
    flowing = scene.now() - at
    await until(lambda: sum(worker.said.count("was refused") for worker in workers) == 2, "the old ones are refused")
    await scene.drained()
    admin = scene.app.broker

    async def counted() -> bool:
        return bool(await admin.consumers([QUEUE]) == [2])

    await until(counted, "both workers are counted as consumers")
    await scene.tell("server restarted empty", flowing=f"{flowing:.2f} s")
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert flowing < NEW_WORK_S
    assert len(scene.record.starts()) == 32 + 11
    assert await scene.outcomes(gone) == {}
    assert await admin.queues() == []
    assert [worker.code for worker in workers] == [None, None]
