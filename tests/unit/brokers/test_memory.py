"""What the contracts don't see of the memory broker."""

import asyncio

import pytest

from aiotask.brokers.memory import MemoryBroker, MemorySubscription
from aiotask.connections.memory import MemoryLink
from aiotask.exceptions import BrokerConnectionError
from aiotask.message import Envelope, Settlement
from aiotask.protocols import Broker, FusedFinish, LeaseKeeper, QueueAdmin, Subscription
from aiotask.results.memory import MemoryBackend


def envelope(id_: str = "a") -> Envelope:
    return Envelope(id_, "q", b"", "text/plain")


async def test_publish_says_so_when_the_broker_is_not_open() -> None:
    broker = MemoryBroker(MemoryLink())
    with pytest.raises(BrokerConnectionError, match="not open"):
        await broker.publish([envelope()])
    with pytest.raises(BrokerConnectionError, match="not open"):
        await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)


async def test_broker_keeps_to_the_seams_when_types_are_asked() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    seam: Broker = broker
    taking: Subscription = subscription
    keeper: LeaseKeeper = subscription.lease_keeper()
    assert seam is broker
    assert taking is subscription
    assert keeper is not subscription.lease_keeper()
    assert isinstance(broker, QueueAdmin)
    assert isinstance(subscription, FusedFinish)


async def test_fuses_is_false_when_the_backend_has_another_link() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    assert subscription.fuses(MemoryBackend(broker.link))
    assert not subscription.fuses(MemoryBackend(MemoryLink()))


async def test_receive_returns_nothing_when_its_subscription_is_closed_meanwhile() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    waiting = asyncio.create_task(subscription.receive(1, 60.0))
    await asyncio.sleep(0)
    await broker.close()
    assert await waiting == []
    assert await subscription.receive(1, 60.0) == []


async def parked(broker: MemoryBroker) -> MemorySubscription:
    """Return a consumer, after parking `a` in the line `l`."""
    subscription = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    await broker.publish([envelope("a")])
    await subscription.settle([Settlement(delivery, "park", line="l") for delivery in await subscription.receive(1, 0)])
    return subscription


async def test_unpark_returns_nothing_when_the_subscription_is_closed() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await parked(broker)
    await subscription.close()
    assert await subscription.unpark({"l": 1}) == []
    assert (await broker.depths(["q"]))[0].parked == 1


@pytest.mark.parametrize("lines", [{}, {"l": 0}, {"l": -1}, {"": 1}])
async def test_unpark_takes_nothing_when_nothing_is_asked_for(lines: dict[str, int]) -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await parked(broker)
    assert await subscription.unpark(lines) == []
    assert len(await subscription.unpark({"l": 1})) == 1


async def test_no_line_is_left_when_it_is_empty() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await parked(broker)
    await subscription.unpark({"l": 1})
    assert not broker.link.messages.queue("q").parked


def test_consumer_counts_no_more_when_its_loop_is_closed() -> None:
    broker = MemoryBroker(MemoryLink())

    async def leave_it_open() -> None:
        await broker.open()
        await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
        assert await broker.consumers(["q"]) == [1]

    asyncio.run(leave_it_open())
    assert asyncio.run(broker.consumers(["q"])) == [0]
    assert not broker.link.messages.consumers


async def test_closed_consumer_stays_away_when_its_queues_are_set() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    await subscription.close()
    await subscription.set_queues(["r"])
    assert await broker.consumers(["q", "r"]) == [0, 0]


async def test_receive_follows_when_the_queues_are_changed_meanwhile() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["other"], consumer="c", lease=20.0, max_losses=3)
    await broker.publish([envelope("a")])
    waiting = asyncio.create_task(subscription.receive(1, 60.0))
    await asyncio.sleep(0)
    await subscription.set_queues(["q"])
    assert [delivery.id for delivery in await waiting] == ["a"]


async def test_nobody_is_left_waiting_when_a_receive_is_cancelled() -> None:
    broker = MemoryBroker(MemoryLink())
    await broker.open()
    subscription = await broker.subscribe(["q", "r"], consumer="c", lease=20.0, max_losses=3)
    waiting = asyncio.create_task(subscription.receive(1, 60.0))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not any(queue.waiters for queue in broker.link.messages.queues.values())
    assert not subscription._waiters
