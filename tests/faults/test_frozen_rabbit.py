"""A worker on RabbitMQ, or the server itself, is stopped for a while (SIGSTOP), and goes on (SIGCONT)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer

from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, ON_RABBITMQ, SLACK_S, Scene, done_mono, until
from .rabbit_store import RabbitStore
from .stores import RedisStore

HEARTBEAT_S = 1
"""The server ends the connection of a worker that has been silent for two or three of them; 60 s by default."""
NAP_S = 1.0
"""Over while its worker is stopped, so that its outcome is there at once when that goes on."""


@ON_RABBITMQ
@ACKS_EARLY_LONG
async def test_others_get_what_a_worker_had_that_was_stopped_for_long(
    scene: Scene, store: RabbitStore, acks_late: bool
) -> None:
    """Acknowledged early, what ran is ended by its own worker when that goes on."""
    url = store.server.url(store.vhost, heartbeat=str(HEARTBEAT_S))
    frozen = await scene.worker("-c", "5", broker_url=url, task_acks_late=acks_late)
    ids = await scene.send("nap_once", NAP_S, times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    at = await scene.freeze(frozen)
    other = await scene.worker("-c", "5", task_acks_late=acks_late)
    ids += await scene.send("nap", 0)
    if acks_late:
        outcomes = await scene.all_done()
        recovery = max(map(done_mono, outcomes.values())) - at
        frozen.thaw()
    else:
        await scene.all_done(ids[3:])
        recovery = scene.now() - at
        frozen.thaw()
        outcomes = await scene.all_done()
    await until(lambda: "again after" in frozen.said, "it has connected again")
    await scene.drained()
    await scene.tell(f"SIGSTOP of a worker, acks {'late' if acks_late else 'early'}", begun=3, recovery=recovery)

    assert recovery < 3 * HEARTBEAT_S + SLACK_S
    assert await scene.outcomes() == outcomes
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
    assert {outcomes[id_].result for id_ in ids[:3]} == {other.pid if acks_late else frozen.pid}
    assert scene.stored_outcomes() == 4
    assert scene.record.started_twice() in ({3, 4} if acks_late else {0})  # what it had begun, or found when it went on
    assert await scene.dead() == {}
    assert [worker.code for worker in (frozen, other)] == [None, None]


@pytest.fixture
async def private_scene(
    private_rabbit: RabbitServer, redis_server: RedisServer, tmp_path: Path, scene_on: Callable[..., Awaitable[Scene]]
) -> AsyncIterator[Scene]:
    store = RabbitStore(private_rabbit, RedisStore(redis_server), tmp_path / "record")
    yield await scene_on(store, broker_publish_timeout=30)
    store.close()


@ACKS_EARLY_LONG
@pytest.mark.parametrize(
    ("stopped_s", "timeout"),
    [
        pytest.param(2.0, 5.0, id="not noticed"),
        pytest.param(8.0, 1.0, id="noticed", marks=pytest.mark.long),
    ],
)
async def test_nothing_is_lost_when_the_server_was_stopped(
    private_scene: Scene, private_rabbit: RabbitServer, acks_late: bool, stopped_s: float, timeout: float
) -> None:
    """Whether connections are given up meanwhile, or wait for its answers.

    Of what is acknowledged early, and begins when it answers no more, nobody knows whether it has had that: given up
    it starts nowhere, and is lost when it was had.
    """
    scene = private_scene
    link = {"broker_connection_timeout": timeout, "broker_command_timeout": timeout}
    workers = [await scene.worker("-c", "4", task_acks_late=acks_late, worker_lease=30, **link) for _ in range(3)]
    await scene.send("nap", stopped_s + 1.0, times=4)
    await until(lambda: len(scene.record.starts()) == 4, "four have started")
    await scene.send("nap", 0.1, times=60)
    await until(lambda: len(scene.record.ends()) >= 10, "some are done")
    begun = scene.begun()
    private_rabbit.sigstop()
    sending = asyncio.create_task(scene.send("nap", 0.1, times=20))
    try:
        await asyncio.sleep(stopped_s)
    finally:
        private_rabbit.sigcont()
    at = scene.now()
    await sending
    noticed = timeout < stopped_s
    if noticed and not acks_late:
        await scene.drained()
        await scene.all_done({event.task_id for event in scene.record.starts()})
        outcomes = await scene.outcomes()
    else:
        outcomes = await scene.all_done()
        await scene.drained()
    lost_links = sum("Lost the connection" in worker.said for worker in workers)
    await scene.tell(
        f"server stopped for {stopped_s:g} s, acks {'late' if acks_late else 'early'}",
        begun=len(begun),
        recovery=scene.now() - at,
        noticed_by=f"{lost_links} of 3",
    )
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(outcomes)
    assert len(scene.sent) - len(outcomes) <= (3 * 4 if noticed and not acks_late else 0)  # L 0, L <= E
    if not noticed:
        assert lost_links == 0
        assert scene.record.started_twice() == 0  # D 0
    else:
        # What was given to others, and what was sent or handed back again for want of an answer.
        assert scene.record.started_twice() <= 3 * 2 * 4 + 20
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None] * 3
