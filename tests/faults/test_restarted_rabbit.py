"""The RabbitMQ server is killed, or restarted in order, under load: publishers, delayed tasks and workers go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, LEASE_S, SLACK_S, Scene, until
from .rabbit_store import RabbitStore
from .stores import RedisStore
from .traffic import consuming_again, senders

CONSUMING_AGAIN_S = 2.0
DELAY_S = 0.3
CONCURRENCY = 10
WORKERS = 2
SENDERS, DELAYING = 8, 2


@pytest.fixture
async def scene(
    private_rabbit: RabbitServer,
    redis_server: RedisServer,
    tmp_path: Path,
    scene_on: Callable[..., Awaitable[Scene]],
) -> AsyncIterator[Scene]:
    store = RabbitStore(private_rabbit, RedisStore(redis_server), tmp_path / "record")
    yield await scene_on(store, broker_publish_timeout=180)
    store.close()


async def warm_up(scene: Scene, server: RabbitServer) -> None:
    """Have every queue that will be used, for long enough."""
    await scene.send("nap", 0)
    scene.sent.append((await scene.app.send_task("nap", [0], countdown=DELAY_S)).id)
    await scene.all_done()
    await asyncio.to_thread(server.wait_until_queues_last)


async def down_and_up(server: RabbitServer, how: str) -> None:
    await asyncio.to_thread(server.kill9 if how == "kill -9" else server.stop)
    await asyncio.to_thread(server.restart)


LONG = [pytest.mark.long, pytest.mark.timeout(300)]


@ACKS_EARLY_LONG
@pytest.mark.parametrize(
    ("how", "times", "lease"),
    [
        ("kill -9", 1, 60.0),
        ("SIGTERM", 1, LEASE_S),
        pytest.param("kill -9", 6, 60.0, marks=LONG),
        pytest.param("kill -9", 4, LEASE_S, marks=LONG),
        pytest.param("SIGTERM", 4, 60.0, marks=LONG),
    ],
)
async def test_nothing_confirmed_is_lost_when_the_server_is_restarted(
    scene: Scene, private_rabbit: RabbitServer, acks_late: bool, how: str, times: int, lease: float
) -> None:
    """A lease shorter than the outage: what runs is given up, and started again; a longer one: it goes on."""
    options = {"task_acks_late": acks_late, "worker_lease": lease}
    workers = [await scene.worker("-c", str(CONCURRENCY), **options) for _ in range(WORKERS)]
    await warm_up(scene, private_rabbit)
    took: list[float] = []
    in_flight = 0
    async with senders(scene, SENDERS) as calls, senders(scene, DELAYING, delay_s=DELAY_S) as delayed_calls:
        for number in range(1, times + 1):
            await until(lambda number=number: len(scene.record.ends()) >= 100 * number, "some more are done")
            depth = await scene.depth()
            in_flight += depth.reserved + depth.delayed
            await down_and_up(private_rabbit, how)
            answered = scene.now()
            sent = len(calls), len(delayed_calls)
            took.append(await consuming_again(scene, workers, answered))
            await until(lambda sent=sent: len(calls) > sent[0] + 8 and len(delayed_calls) > sent[1], "senders go on")
    outcomes = await scene.all_done()
    await scene.drained()
    ended = {event.task_id for event in scene.record.ends()}
    again = [event for event in scene.record.starts() if event.delivery_count > 1]
    await scene.tell(
        f"{times} x {how} of RabbitMQ, lease {lease:g} s, acks {'late' if acks_late else 'early'}",
        begun=in_flight,
        handed_out_again=len(again),
        consuming_again=f"{max(took):.2f} s",
        slowest_call=f"{max(calls + delayed_calls):.2f} s",
    )

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0 of what was confirmed
    assert ended == set(scene.sent)
    assert scene.stored_outcomes() == len(scene.sent)
    # What the workers had, what was delayed, and what the senders had no answer for may come twice.
    at_most = times * (WORKERS * 2 * CONCURRENCY + SENDERS + DELAYING) + in_flight
    assert scene.record.started_twice() <= at_most
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None] * WORKERS
    assert {event.pid for event in scene.record.events()} == {worker.pid for worker in workers}
    assert max(took) < CONSUMING_AGAIN_S + SLACK_S
