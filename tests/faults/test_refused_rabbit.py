"""RabbitMQ refuses for a while: no memory, no permission, a queue that is gone, an execution that takes too long."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.servers.rabbitmq import RabbitServer

from aiotask import BrokerFull, PublishError
from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, ON_RABBITMQ, SLACK_S, Scene, until
from .rabbit_store import RabbitStore

pytestmark = ON_RABBITMQ

PUBLISH_TIMEOUT_S = 1.0
CONCURRENCY = 5


# ---- memory alarm ----


@contextmanager
def alarm(server: RabbitServer) -> Iterator[None]:
    server.set_memory_alarm(on=True)
    try:
        yield
    finally:
        server.set_memory_alarm(on=False)


async def refused(scene: Scene) -> float:
    """Send until it is refused; return how long the slowest call took. The first may be stored all the same."""
    took = 0.0
    while True:
        at = scene.now()
        try:
            await scene.send("nap", 0)
        except (BrokerFull, PublishError) as error:
            took = max(took, scene.now() - at)
            if "takes no messages now: it has an alarm" not in str(error):
                raise
            if isinstance(error, BrokerFull):
                return took


@ACKS_EARLY_LONG
async def test_workers_go_on_and_sending_is_refused_when_the_server_has_no_memory(
    store: RabbitStore, scene_on, acks_late: bool
) -> None:
    """What has to be sent to end an execution, here a retry, waits until the alarm is over."""
    scene: Scene = await scene_on(store, broker_publish_timeout=PUBLISH_TIMEOUT_S)
    worker = await scene.worker("-c", str(CONCURRENCY), task_acks_late=acks_late)
    await scene.send("nap", 0.05, times=100)
    with alarm(store.server):
        took = await refused(scene)
        # What was just being handed back waits for the end of the alarm.
        await until(lambda: scene.done_count() >= 80, "they consume")
    await until(lambda: sends(scene), "it is taken again")
    retried = await scene.send("retry_once", 0.3)
    await until(lambda: scene.record.starts(*retried), "it has started")
    with alarm(store.server):
        await refused(scene)
        assert not await scene.outcomes(retried)
    await until(lambda: sends(scene), "it is taken again")
    await scene.send("nap", 0, times=20)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"memory alarm, acks {'late' if acks_late else 'early'}", refused_after=f"{took:.2f} s")

    assert took < PUBLISH_TIMEOUT_S + SLACK_S
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0 of what was confirmed
    started = {event.task_id for event in scene.record.starts()}
    assert started >= set(scene.sent)
    assert scene.done_count() == len(started)
    assert scene.record.started_twice() == 1  # the retry
    assert await scene.dead() == {}
    assert worker.code is None
    assert "Lost the connection" not in worker.said


async def sends(scene: Scene) -> bool:
    """Tell whether a message is taken."""
    try:
        await scene.send("nap", 0)
    except (BrokerFull, PublishError):
        return False
    return True


# ---- permission ----


@ACKS_EARLY_LONG
async def test_workers_go_on_when_a_permission_was_revoked_for_a_while(
    scene: Scene, store: RabbitStore, acks_late: bool
) -> None:
    """A channel that has asked once is not told, so that connections are closed, too."""
    worker = await scene.worker("-c", str(CONCURRENCY), task_acks_late=acks_late)
    running = await scene.send("nap", 1.0, times=2)
    await scene.send("nap", 0.05, times=50)
    await until(lambda: scene.record.starts(running[1]), "both have started")
    store.server.allow(store.vhost, allowed="")
    store.server.close_connections()
    try:

        async def is_refused() -> bool:
            return not await sends(scene)

        await until(is_refused, "sending is refused")
        with pytest.raises(PublishError, match="set_permissions"):
            await scene.send("nap", 0)
        await scene.all_done(running)
        await until(lambda: "ACCESS_REFUSED" in worker.said, "the worker has met it")
    finally:
        store.server.allow(store.vhost)
    at = scene.now()
    await until(lambda: sends(scene), "sending works again")
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"permission revoked, acks {'late' if acks_late else 'early'}", recovery=scene.now() - at)

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)
    assert scene.record.started_twice() <= (2 * CONCURRENCY if acks_late else 0)  # D <= E, D 0
    assert await scene.dead() == {}
    assert worker.code is None


# ---- deleted queues ----


def consumers(store: RabbitStore) -> str:
    """Return how many consume each of the queues that workers take from, as the server shows it."""
    names = ", ".join(f'<<"default{end}">>' for end in ("", ".returned", ".suspects"))
    return store.server.evaluate(
        f'list_to_tuple([length(rabbit_amqqueue:consumers(Q)) || Q <- rabbit_amqqueue:list(<<"{store.vhost}">>), '
        f"lists:member(element(4, amqqueue:get_name(Q)), [{names}])])."  # a list of small numbers is shown as a text
    )


@pytest.mark.parametrize("names", ["all of them", pytest.param("the queue alone", marks=pytest.mark.long)])
@ACKS_EARLY_LONG
async def test_workers_go_on_when_their_queues_were_deleted(
    scene: Scene, store: RabbitStore, acks_late: bool, names: str
) -> None:
    """What waited there is gone; what runs ends, and new work flows through queues that are made again."""
    workers = [await scene.worker("-c", "3", task_acks_late=acks_late) for _ in range(2)]
    running = await scene.send("nap", 1.0, times=4)
    await until(lambda: len(scene.record.starts()) == 4, "four have started")
    which = "true" if names == "all of them" else 'element(4, amqqueue:get_name(Q)) =:= <<"default">>'
    store.server.evaluate(
        f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(<<"{store.vhost}">>), '
        f"{which}]."
    )
    at = scene.now()
    # A sender that makes it at once is too quick for the server, whose consumers of the old one then get nothing.
    # And of several that go one after the other, a worker may consume one again before it hears of the next.
    await until(lambda: consumers(store) == "{2, 2, 2}", "both workers consume all of them again")
    new = await scene.send("nap", 0.05, times=50)
    await scene.all_done(new)
    recovery = scene.now() - at
    again = await scene.send("nap", 0.3, times=12)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"{names} deleted, acks {'late' if acks_late else 'early'}", begun=len(running), recovery=recovery)

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)
    assert scene.record.started_twice() == 0
    assert {event.pid for id_ in again for event in scene.record.starts(id_)} == {worker.pid for worker in workers}
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None, None]


# ---- consumer_timeout ----

CONSUMER_TIMEOUT_S = 1.0


@pytest.fixture
def impatient(store: RabbitStore) -> Iterator[None]:
    """The server closes a channel on which a message is not acknowledged for a second, and looks often."""
    _set_patience(store.server, CONSUMER_TIMEOUT_S, 0.2)
    yield
    _set_patience(store.server, 1800, 60)


def _set_patience(server: RabbitServer, timeout_s: float, look_s: float) -> None:
    for name, seconds in (("consumer_timeout", timeout_s), ("channel_tick_interval", look_s)):
        server.evaluate(f"application:set_env(rabbit, {name}, {seconds * 1000:.0f}).")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("count", [1, 2])
async def test_nothing_is_lost_when_an_execution_takes_longer_than_the_consumer_timeout(
    scene: Scene, count: int
) -> None:
    """The one worker that there is gets its messages back, again and again; of two, either may get them."""
    workers = [await scene.worker("-c", "4", task_acks_late=True, worker_lease=30) for _ in range(count)]
    long = await scene.send("nap", (3.5 if count == 1 else 1.7) * CONSUMER_TIMEOUT_S, times=2)
    await scene.send("nap", 0.05, times=20)
    outcomes = await scene.all_done()
    await scene.drained()
    starts = [len(scene.record.starts(id_)) for id_ in long]
    await scene.tell(f"consumer_timeout, {count} workers", starts="/".join(map(str, starts)))

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
    assert scene.stored_outcomes() == len(scene.sent)
    assert len(scene.record.starts()) - sum(starts) == 20
    if count == 1:
        assert starts == [1, 1]  # D 0
    assert max(starts) <= 4  # task_max_deliveries
    assert await scene.dead() == {}
    assert [worker.code for worker in workers] == [None] * count


@pytest.mark.long
@pytest.mark.usefixtures("impatient")
async def test_consumer_timeout_is_no_matter_when_acks_are_early(scene: Scene) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=False)
    await scene.send("nap", 2.5 * CONSUMER_TIMEOUT_S, times=2)
    await scene.send("nap", 0.05, times=20)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell("consumer_timeout, acks early")
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert len(scene.record.starts()) == scene.stored_outcomes() == 22
    assert worker.code is None
