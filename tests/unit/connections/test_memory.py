"""What the contracts don't see of the memory store: its clock, its tidiness, and life across event loops."""

import asyncio
import threading

import pytest

from aiotask.brokers.memory import MemoryBroker, MemorySubscription
from aiotask.connections.memory import MemoryLink, Row, wake
from aiotask.message import Envelope, Settlement
from aiotask.results.memory import MemoryBackend


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def link(clock: Clock) -> MemoryLink:
    return MemoryLink(clock)


def envelope(id_: str, queue: str = "q", **fields: object) -> Envelope:
    return Envelope(id_, queue, b"", "text/plain", **fields)  # type: ignore[arg-type]


async def subscribed(link: MemoryLink, *queues: str, lease: float = 20.0) -> MemorySubscription:
    broker = MemoryBroker(link)
    await broker.open()
    return await broker.subscribe(queues or ["q"], consumer="c", lease=lease, max_losses=3)


def row(id_: str, expires_at: float | None, *, final: bool = True) -> Row:
    return Row(id_, b"", final, expires_at)


async def test_take_follows_one_order_when_queues_are_several(link: MemoryLink) -> None:
    consumer = await subscribed(link, "a", "b", "c")
    queues = ["b", "a", "a", "c", "b", "b", "a"]
    link.messages.add([envelope(str(at), queue) for at, queue in enumerate(queues)])
    assert [delivery.id for delivery in await consumer.receive(4, 0)] == ["0", "1", "2", "3"]
    assert [delivery.id for delivery in await consumer.receive(10, 0)] == ["4", "5", "6"]


async def test_take_puts_released_first_when_queues_are_several(link: MemoryLink) -> None:
    consumer = await subscribed(link, "a", "b")
    link.messages.add([envelope("0", "a"), envelope("1", "b"), envelope("2", "a"), envelope("3", "b")])
    taken = await consumer.receive(2, 0)
    await consumer.settle([Settlement(delivery, "release") for delivery in taken])
    assert [delivery.id for delivery in await consumer.receive(10, 0)] == ["0", "1", "2", "3"]


async def test_add_stands_behind_when_another_was_due_before(link: MemoryLink, clock: Clock) -> None:
    consumer = await subscribed(link)
    link.messages.add([envelope("due", delay_s=5.0)])
    clock.now += 6
    link.messages.add([envelope("new")])
    assert [delivery.id for delivery in await consumer.receive(10, 0)] == ["due", "new"]


async def test_message_is_handed_out_when_the_clock_says_so(link: MemoryLink, clock: Clock) -> None:
    consumer = await subscribed(link)
    link.messages.add([envelope("a", due_at=1010.0)])
    clock.now = 1009.999
    assert await consumer.receive(1, 0) == []
    clock.now = 1010.0
    assert len(await consumer.receive(1, 0)) == 1


async def test_lease_lapses_when_the_clock_says_so(link: MemoryLink, clock: Clock) -> None:
    loser, heir = await subscribed(link, lease=8.0), await subscribed(link)
    link.messages.add([envelope("a")])
    (delivery,) = await loser.receive(1, 0)
    keeper = loser.lease_keeper()
    clock.now += 7.9
    assert await heir.receive(1, 0) == []
    assert not keeper.renew([delivery.receipt]).lost
    clock.now += 7.9
    assert await heir.receive(1, 0) == []
    clock.now += 2.1  # a quarter of the lease later it is looked at again
    assert [delivery.id for delivery in await heir.receive(1, 0)] == ["a"]
    assert keeper.renew([delivery.receipt]).lost == [delivery.receipt]


async def test_holdings_are_dropped_when_they_are_empty(link: MemoryLink, clock: Clock) -> None:
    for _ in range(3):  # consumers that are lost without closing
        consumer = await subscribed(link, lease=1.0)
        link.messages.add([envelope("a")])
        await consumer.receive(1, 0)
    clock.now += 2
    link.messages.reclaim(clock.now)
    assert not link.messages.holdings


async def test_replacing_loses_nothing_when_the_envelope_is_missing(link: MemoryLink) -> None:
    consumer = await subscribed(link)
    link.messages.add([envelope("a")])
    (delivery,) = await consumer.receive(1, 0)
    assert await consumer.settle([Settlement(delivery, "replace")]) == []
    assert [delivery.id for delivery in await consumer.receive(1, 0)] == ["a"]


def test_rows_are_dropped_when_they_have_expired(link: MemoryLink, clock: Clock) -> None:
    rows = link.rows
    rows.store([row("short", 1010.0), row("long", 2000.0), row("ever", None)])
    rows.store([row("grows", 1010.0, final=False)])
    rows.store([row("grows", 2000.0, final=False)])
    clock.now = 1010.0
    assert rows.fetch(["short", "long", "ever", "grows"])[0] is None
    clock.now = 1020.0
    rows.store([row("next", None)])
    assert sorted(rows._rows) == ["ever", "grows", "long", "next"]
    clock.now = 2010.0
    rows.sweep(clock.now)
    assert sorted(rows._rows) == ["ever", "next"]
    assert not rows._ids_by_expiry
    assert not rows._expiries


def test_expired_rows_don_t_count_when_they_are_forgotten(link: MemoryLink, clock: Clock) -> None:
    link.rows.store([row("gone", 1001.0), row("there", 1100.0)])
    clock.now = 1002.0
    assert link.rows.forget(["gone", "there", "unknown"]) == 1


def test_progress_costs_no_memory_when_it_expires_alike(link: MemoryLink) -> None:
    for _ in range(100):
        link.rows.store([row("a", 1100.0, final=False)])
    assert sum(map(len, link.rows._ids_by_expiry.values())) == 1


def test_link_keeps_all_when_the_event_loop_is_another(link: MemoryLink) -> None:
    broker, backend = MemoryBroker(link), MemoryBackend(link)

    async def first() -> None:
        await broker.open()
        await backend.open()
        await broker.publish([envelope("in hand"), envelope("waiting")])
        link.rows.store([row("r", None)])
        consumer = await broker.subscribe(["q"], consumer="1", lease=20.0, max_losses=3)
        await consumer.receive(1, 0)
        await backend.close()
        await broker.close()

    async def second() -> list[str]:
        await broker.open()
        consumer = await broker.subscribe(["q"], consumer="2", lease=20.0, max_losses=3)
        taken = await consumer.receive(10, 0)
        await broker.close()
        return [delivery.id for delivery in taken]

    asyncio.run(first())
    assert asyncio.run(second()) == ["in hand", "waiting"]
    assert link.rows.fetch(["r"]) != [None]


def test_publish_works_when_a_receiver_s_loop_was_closed(link: MemoryLink) -> None:
    loop = asyncio.new_event_loop()

    async def waiting() -> None:
        consumer = await subscribed(link)
        loop.create_task(consumer.receive(1, 60)).set_name("left waiting")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    loop.run_until_complete(waiting())
    left = asyncio.all_tasks(loop)
    assert link.messages.queue("q").waiters
    loop.close()

    async def publish() -> None:
        link.messages.add([envelope("a")])

    asyncio.run(publish())
    assert not link.messages.queue("q").waiters
    for task in left:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


async def test_waiter_is_woken_when_it_waits_on_another_thread_s_loop() -> None:
    ready = threading.Event()
    waiters: list[asyncio.Future[None]] = []

    async def wait() -> None:
        waiters.append(asyncio.get_running_loop().create_future())
        ready.set()
        await waiters[0]

    thread = threading.Thread(target=lambda: asyncio.run(asyncio.wait_for(wait(), 10)))
    thread.start()
    await asyncio.to_thread(ready.wait, 10)
    wake(waiters[0])
    await asyncio.to_thread(thread.join, 10)
    assert waiters[0].done()
    assert not waiters[0].cancelled()


async def test_node_answers_on_its_own_loop_when_another_asks() -> None:
    link, ready, done = MemoryLink(), threading.Event(), threading.Event()
    answered_in: list[int] = []

    def answer(command: str, arguments: bytes) -> bytes:
        answered_in.append(threading.get_ident())
        return command.encode() + arguments

    async def listen() -> None:
        with link.nodes.listening("a@h", answer):
            ready.set()
            while not done.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    try:
        await asyncio.to_thread(ready.wait, 5)
        assert await link.nodes.ask("ping", b"1", None, 5.0) == {"a@h": b"ping1"}
    finally:
        done.set()
        await asyncio.to_thread(thread.join)
    assert answered_in == [thread.ident]
    assert await link.nodes.ask("ping", b"1", None, 5.0) == {}


def test_node_is_not_asked_when_its_loop_is_closed() -> None:
    link = MemoryLink()
    listening = link.nodes.listening("a@h", lambda *_: b"")

    async def listen() -> None:
        listening.__enter__()

    asyncio.run(listen())
    assert asyncio.run(link.nodes.ask("ping", b"1", None, 5.0)) == {}
