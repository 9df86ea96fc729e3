"""Delays when something of their ladder, or the queue that a message is for, was deleted by somebody."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest
from tests.conditions import until
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask
from aiotask.brokers.amqp import delays
from aiotask.brokers.amqp.ladder import Ladder
from aiotask.brokers.amqp.nowhere import Nowhere
from aiotask.connections.amqp import AmqpChannel, AmqpLink, LinkDown, Message

PATIENCE_S = 20.0
MORE_THAN_A_RUNG_HAS_UNDER_WAY = 100


@pytest.fixture
async def link(shared_rabbit: RabbitServer, vhost: str) -> AsyncIterator[AmqpLink]:
    link = AmqpLink(shared_rabbit.url(vhost))
    await link.open()
    yield link
    await link.close()


@pytest.fixture
def drop(shared_rabbit: RabbitServer, vhost: str) -> Callable[[str, str], None]:
    """Deletes a queue or an exchange behind everybody's back."""

    def drop(kind: str, name: str) -> None:
        where = f'rabbit_misc:r(<<"{vhost}">>, {kind}, <<"{name}">>)'
        shared_rabbit.evaluate(
            f'{{ok, Q}} = rabbit_amqqueue:lookup({where}), rabbit_amqqueue:delete(Q, false, false, <<"test">>).'
            if kind == "queue"
            else f'ok = rabbit_exchange:delete({where}, false, <<"test">>).'
        )

    return drop


def noting(app: AioTask) -> dict[int, float]:
    """Let an app note when it ran which number."""
    ran: dict[int, float] = {}

    @app.task(name="note")
    async def note(number: int) -> None:
        ran[number] = time.monotonic()

    return ran


async def ready(link: AmqpLink, queue: str) -> int:
    channel = await link.channel()
    try:
        return (await channel.declare_queue(queue, passive=True)).ready
    finally:
        await channel.close()


# ---- the ladder ----

PARTS = [
    ("queue", "aiotask.delay.00"),
    ("queue", "aiotask.delay.03"),
    ("queue", "aiotask.delay.06"),
    ("queue", "aiotask.delay.nowhere"),
    ("exchange", "aiotask.delay.00"),
    ("exchange", "aiotask.delay.03"),
    ("exchange", "aiotask.delay.06"),
    ("exchange", "aiotask.delay.out"),
    ("exchange", "aiotask.delay.nowhere"),
]


@pytest.mark.parametrize(("kind", "name"), PARTS)
async def test_part_of_the_ladder_that_was_deleted_is_made_again(
    make: Callable[..., AioTask], drop: Callable[[str, str], None], kind: str, name: str
) -> None:
    """By who connects anew. 1.5 s are 75 units, 64 + 8 + 2 + 1: rungs 06, 03, 01 and 00; 2.7 s are one of 07 and 07."""
    first, second = make(), make()
    ran = noting(second)
    await first.send_task("note", [0], countdown=3.9)  # 195 units, up to rung 07, and on without 06 and 03
    drop(kind, name)
    await second.send_task("note", [1], countdown=1.5)
    async with second.worker():
        await until(lambda: 1 in ran)
        await first.send_task("note", [2], countdown=2.7)  # that one knows all rungs, and looks at none
        await until(lambda: 2 in ran)


async def test_part_of_the_ladder_that_was_deleted_is_made_again_over_a_connection_that_goes_on(
    make: Callable[..., AioTask], drop: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make()
    ran = noting(app)
    await app.send_task("note", [0], countdown=1.5)
    drop("queue", "aiotask.delay.01")
    monkeypatch.setattr(delays, "LOOK_AGAIN_S", 0.0)
    await app.send_task("note", [1], countdown=1.5)
    async with app.worker():
        await until(lambda: 1 in ran)


@pytest.mark.parametrize("kind", ["queue", "exchange"])
async def test_first_rung_of_a_message_is_made_again_at_once_when_it_was_deleted(
    make: Callable[..., AioTask], drop: Callable[[str, str], None], kind: str
) -> None:
    app = make()
    ran = noting(app)
    await app.send_task("note", [0], countdown=1.5)
    drop(kind, "aiotask.delay.06")
    await app.send_task("note", [1], countdown=1.5)
    async with app.worker():
        await until(lambda: 1 in ran)


async def test_queues_that_others_delay_for_are_bound_again_with_the_exit(
    make: Callable[..., AioTask], drop: Callable[[str, str], None]
) -> None:
    first, second, worker = make(), make(), make()
    ran = noting(worker)
    await first.send_task("note", [1], countdown=0.1, queue="others")
    drop("exchange", "aiotask.delay.out")
    await second.send_task("note", [2], countdown=0.1, queue="default")
    await first.send_task("note", [3], countdown=0.5, queue="others")
    async with worker.worker(queues=["default", "others"]):
        await until(lambda: {2, 3} <= ran.keys())


# ---- the queue ----


async def test_delays_go_on_when_much_is_due_for_a_queue_that_was_deleted(
    make: Callable[..., AioTask], drop: Callable[[str, str], None]
) -> None:
    app = make()
    ran = noting(app)
    calls = [
        app.send_task("note", [-1 - number], countdown=3.0, queue="gone")
        for number in range(MORE_THAN_A_RUNG_HAS_UNDER_WAY)
    ]
    await asyncio.gather(*calls)
    drop("queue", "gone")
    await asyncio.sleep(4)
    async with app.worker(queues=["default"]):
        due = {number: time.monotonic() + 0.5 + number * 0.02 for number in range(16)}
        for number in due:
            await app.send_task("note", [number], countdown=0.5 + number * 0.02)
        await until(lambda: len(ran) == len(due))
    assert max(ran[number] - at for number, at in due.items()) < 2.0


@pytest.mark.parametrize("by", ["a call", "a worker"])
async def test_what_was_due_comes_to_its_queue_when_that_is_there_again(
    make: Callable[..., AioTask], drop: Callable[[str, str], None], link: AmqpLink, by: str
) -> None:
    app = make()
    ran = noting(app)
    calls = [
        app.send_task("note", [number], countdown=4.0, queue=queue)
        for number in range(MORE_THAN_A_RUNG_HAS_UNDER_WAY)
        for queue in ("gone", "lost")
    ]
    await asyncio.gather(*calls)
    for queue in ("gone", "lost"):
        drop("queue", queue)
    async with asyncio.timeout(PATIENCE_S):
        while await ready(link, "aiotask.delay.nowhere") < 2 * MORE_THAN_A_RUNG_HAS_UNDER_WAY:
            await asyncio.sleep(0.05)
    another = make()
    ran = noting(another)
    if by == "a call":
        await another.send_task("note", [-1], queue="gone")
        assert await ready(link, "gone") == MORE_THAN_A_RUNG_HAS_UNDER_WAY + 1
    async with another.worker(queues=["gone"]):
        await until(lambda: ran.keys() >= set(range(MORE_THAN_A_RUNG_HAS_UNDER_WAY)))
    assert await ready(link, "aiotask.delay.nowhere") == MORE_THAN_A_RUNG_HAS_UNDER_WAY  # what is for the other queue


async def test_workers_that_start_at_once_find_each_what_is_theirs(
    make: Callable[..., AioTask], drop: Callable[[str, str], None], link: AmqpLink
) -> None:
    """What one looks at the other does not see meanwhile."""
    queues = [f"q{number}" for number in range(4)]
    app = make()
    await asyncio.gather(
        *[app.send_task("note", [at], countdown=4.0, queue=queue) for at, queue in enumerate(queues * 20)]
    )
    for queue in queues:
        drop("queue", queue)
    async with asyncio.timeout(PATIENCE_S):
        while await ready(link, "aiotask.delay.nowhere") < 80:
            await asyncio.sleep(0.05)
    apps = [make() for _ in queues]
    ran = [noting(app) for app in apps]

    async def work(app: AioTask, queue: str) -> None:
        async with app.worker(queues=[queue], burst=True) as worker:
            await worker.wait()

    await asyncio.gather(*map(work, apps, queues))
    assert [len(each) for each in ran] == [20] * 4


async def waiting_for_gone(link: AmqpLink, nowhere: Nowhere, *ids: str) -> None:
    """Let messages wait there that were due for the queue `gone`, which is there again."""
    sender = await link.channel(confirms=True)
    await nowhere.build()
    await sender.declare_queue("gone", {"x-queue-type": "quorum"})
    death = [{"routing-keys": [Ladder("aiotask").way("gone", 1.0)[1]]}]
    waiting = [Message(nowhere.name, b"x", id_, headers={"x-death": death, "own": id_}) for id_ in ids]
    assert await sender.publish(waiting, PATIENCE_S) == [None] * len(ids)


async def test_what_another_looks_at_is_waited_for(link: AmqpLink) -> None:
    nowhere = Nowhere(link, "aiotask.delay.nowhere")
    await waiting_for_gone(link, nowhere, "id1", "id2")
    has: asyncio.Semaphore = asyncio.Semaphore(0)
    looker = await link.channel()
    await looker.consume(nowhere.name, lambda _: has.release(), "looks", prefetch=0)
    await has.acquire()
    await has.acquire()
    giving = asyncio.create_task(nowhere.give_back(["gone"]))
    await asyncio.wait([giving], timeout=0.5)
    await looker.close()
    await giving
    assert await ready(link, "gone") == 2


async def test_nothing_is_lost_when_who_gives_back_is_cut_off(link: AmqpLink) -> None:
    """What was confirmed and not acknowledged comes twice."""
    another = link.another()
    await another.open()
    nowhere = Nowhere(link, "aiotask.delay.nowhere")
    ids = [f"id{number}" for number in range(500)]
    await waiting_for_gone(link, nowhere, *ids)
    giving = asyncio.create_task(nowhere.give_back(["gone"]))
    async with asyncio.timeout(PATIENCE_S):
        while not await ready(link, "gone"):
            await asyncio.sleep(0)
    link.cut()
    with contextlib.suppress(LinkDown):
        await giving
    await until(lambda: link.connected)
    channel = await another.channel()
    await Nowhere(another, nowhere.name).give_back(["gone"])
    received = []
    while (message := await channel.get("gone")) is not None:
        received.append(message.properties)
    assert {properties.message_id for properties in received} == set(ids)
    assert all(properties.headers["own"] == properties.message_id for properties in received)
    assert not any("x-death" in properties.headers for properties in received)
    assert await ready(another, nowhere.name) == 0
    await another.close()


async def test_exit_that_an_earlier_version_has_made_is_used_as_it_is(
    make: Callable[..., AioTask], link: AmqpLink
) -> None:
    """It has no alternate exchange, which can't be given to it."""
    channel: AmqpChannel = await link.channel()
    await channel.declare_exchange("aiotask.delay.out", "topic")
    app = make()
    ran = noting(app)
    await app.send_task("note", [1], countdown=0.1)
    async with app.worker():
        await until(lambda: 1 in ran)


async def test_exit_of_another_kind_is_refused(make: Callable[..., AioTask], link: AmqpLink) -> None:
    channel = await link.channel()
    await channel.declare_exchange("aiotask.delay.out", "direct")
    send = partial(make().send_task, "note", [1], countdown=0.1)
    with pytest.raises(Exception, match=r"inequivalent arg 'type' .*has made it otherwise"):
        await send()
