"""The clauses of `aiotask.protocols.Broker` that have to do with publishing, receiving and closing.

`CLAUSES` is all that every broker is held to, the clauses of leases, settlements and parking included;
`UNREACHABLE_CLAUSES` needs a harness with `unreachable`.
"""

import asyncio
import time
from typing import Final

from aiotask.exceptions import BrokerConnectionError
from aiotask.message import PRIORITIES, Delivery, Settlement, Start, Verdict
from aiotask.protocols import Subscription
from aiotask.testing import lease_contract, park_contract, settle_contract
from aiotask.testing.harness import DUE_LATE_S, Ability, BrokerHarness, begin, ids, needs, settle

WOKEN_S: Final = 1.0
"""Seconds in which a publish has woken a waiting consumer, by a push or by a poll."""

MEASURING_S: Final = 0.25
"""What a loaded machine may add to `DUE_LATE_S`."""


async def link_is_up_when_the_broker_is_open(harness: BrokerHarness) -> None:
    """`connected` is true of an open broker."""
    broker = await harness.broker()
    await harness.until(lambda: _is(broker.connected), "connected after open()")


async def link_is_down_when_the_broker_is_closed(harness: BrokerHarness) -> None:
    """`connected` is false of a closed broker."""
    broker = await harness.broker()
    await broker.close()
    assert not broker.connected


async def _is(value: object) -> bool:
    return bool(value)


async def closing_does_nothing_when_the_broker_is_closed(harness: BrokerHarness) -> None:
    """`Broker.close` is idempotent."""
    broker = await harness.broker()
    await broker.close()
    try:
        await broker.close()
    except Exception as error:
        raise AssertionError("close() failed the second time") from error


async def messages_flow_when_a_closed_broker_is_opened_again(harness: BrokerHarness) -> None:
    """A broker can be opened again after `close`, and finds what it had stored."""
    broker = await harness.broker()
    before, after = harness.envelope(), harness.envelope()
    await broker.publish([before])
    await broker.close()
    await broker.open()
    await broker.publish([after])
    consumer = await harness.consumer(broker=broker)
    assert ids(await harness.take(consumer, 2)) == [before.id, after.id]


async def message_is_stored_when_publish_returns(harness: BrokerHarness) -> None:
    """What was published is there for others once `publish` has returned, whatever becomes of the publisher."""
    broker = await harness.broker()
    envelope = harness.envelope()
    await broker.publish([envelope])
    await broker.close()
    consumer = await harness.consumer()
    assert ids(await harness.take(consumer)) == [envelope.id]


async def every_message_is_stored_when_a_batch_is_mixed(harness: BrokerHarness) -> None:
    """A batch may mix queues, priorities, delays and times to live; every message of it is stored."""
    other = f"{harness.queue}-other"
    batch = [
        harness.envelope(),
        harness.envelope(queue=other),
        harness.envelope(priority=0),
        harness.envelope(delay_s=0.05),
        harness.envelope(ttl_s=60.0, queue=other),
        harness.envelope(),
    ]
    await harness.publish(*batch)
    consumer = await harness.consumer(harness.queue, other)
    assert sorted(ids(await harness.take(consumer, len(batch)))) == sorted(ids(batch))


async def both_messages_come_when_they_share_an_id(harness: BrokerHarness) -> None:
    """The id is not unique: two messages of one id are two messages."""
    envelope = harness.envelope()
    await harness.publish(envelope, envelope)
    consumer = await harness.consumer()
    first, second = await harness.take(consumer, 2)
    assert first.id == second.id == envelope.id
    assert first.receipt != second.receipt


async def queue_is_made_when_it_is_subscribed(harness: BrokerHarness) -> None:
    """`subscribe` makes queues that don't exist; they can be published to at once."""
    try:
        consumer = await harness.consumer()
    except Exception as error:
        raise AssertionError("a queue that did not exist could not be subscribed") from error
    envelope = harness.envelope()
    await harness.publish(envelope)
    assert ids(await harness.take(consumer)) == [envelope.id]


async def delivery_says_what_was_published_when_it_is_received(harness: BrokerHarness) -> None:
    """A first delivery has the envelope's fields, a hashable receipt, and nothing counted against it."""
    envelope = harness.envelope(
        body=bytes(range(256)) * 100, content_type="application/x-é", priority=3, expires_at=harness.now() + 60
    )
    await harness.publish(envelope)
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    assert delivery.id == envelope.id
    assert delivery.queue == envelope.queue
    assert delivery.body == envelope.body
    assert delivery.content_type == envelope.content_type
    assert delivery.priority == envelope.priority
    assert delivery.expires_at is not None
    assert envelope.expires_at is not None
    assert abs(delivery.expires_at - envelope.expires_at) < 0.01
    assert (delivery.delivery_count, delivery.losses) == (1, 0)
    hash(delivery.receipt)


async def delivery_never_expires_when_no_time_was_given(harness: BrokerHarness) -> None:
    """`expires_at` of a delivery is None when neither `ttl_s` nor `expires_at` was given."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    assert delivery.expires_at is None


async def expiry_counts_from_publishing_when_a_time_to_live_is_given(harness: BrokerHarness) -> None:
    """`ttl_s` counts from when the broker has taken the message, by the broker's clock."""
    before = harness.now()
    await harness.publish(harness.envelope(ttl_s=60.0))
    after = harness.now()
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    assert delivery.expires_at is not None
    assert before + 60 - 0.01 <= delivery.expires_at <= after + 60 + 0.01


async def message_comes_when_its_due_time_has_passed(harness: BrokerHarness) -> None:
    """A `due_at` in the past is due now."""
    envelope = harness.envelope(due_at=harness.now() - 60)
    await harness.publish(envelope)
    consumer = await harness.consumer()
    assert ids(await harness.take(consumer)) == [envelope.id]


async def message_is_kept_back_when_it_is_not_due(harness: BrokerHarness) -> None:
    """A message that is not due is never handed out, neither with `delay_s` nor with `due_at`."""
    await harness.publish(harness.envelope(delay_s=60.0), harness.envelope(due_at=harness.now() + 60))
    await harness.nothing_is_left()


async def delayed_message_comes_in_time_when_a_consumer_waits(harness: BrokerHarness) -> None:
    """A message with `delay_s` comes not before it is due, and at most 0.25 s after."""
    consumer = await harness.consumer()
    await _comes_in_time(harness, consumer, delay_s=0.3)


async def message_comes_at_its_time_when_a_due_time_is_given(harness: BrokerHarness) -> None:
    """A message with `due_at` comes not before it is due, and at most 0.25 s after."""
    consumer = await harness.consumer()
    await _comes_in_time(harness, consumer, due_at=harness.now() + 0.3)


async def message_comes_in_time_when_a_later_one_was_waited_for(harness: BrokerHarness) -> None:
    """A waiting `receive` notices that a message was published which is due earlier than all it knew."""
    consumer = await harness.consumer()
    await harness.publish(harness.envelope(delay_s=60.0))
    await _comes_in_time(harness, consumer, delay_s=0.3)


async def _comes_in_time(harness: BrokerHarness, consumer: Subscription, **due: float) -> None:
    broker = await harness.broker()
    waiting = asyncio.create_task(consumer.receive(1, harness.patience + 0.5))
    await asyncio.sleep(0.05)  # the receive should wait by now; the clause holds if it does not
    envelope = harness.envelope(**due)
    earliest = time.monotonic() + due.get("delay_s", due.get("due_at", 0.0) - harness.now())
    await broker.publish([envelope])
    latest = time.monotonic() + due.get("delay_s", due.get("due_at", 0.0) - harness.now()) + DUE_LATE_S + MEASURING_S
    came = await waiting
    at = time.monotonic()
    assert ids(came) == [envelope.id]
    assert at >= earliest - 0.005, f"{earliest - at:.3f} s too early"
    assert at <= latest, f"{at - latest + DUE_LATE_S + MEASURING_S:.3f} s late"


async def messages_come_as_published_when_they_share_a_priority(harness: BrokerHarness) -> None:
    """Messages of one priority come in the order of publishing, within a batch and across batches."""
    batch = [harness.envelope() for _ in range(20)]
    broker = await harness.broker()
    await broker.publish(batch[:7])
    await broker.publish(batch[7:])
    consumer = await harness.consumer()
    assert ids(await harness.take(consumer, len(batch))) == ids(batch)


@needs(Ability.PRIORITIES)
async def urgent_messages_come_first_when_priorities_differ(harness: BrokerHarness) -> None:
    """Priorities 0 to 9 come in that order, however they were published; each in its own order."""
    batch = [harness.envelope(priority=priority) for priority in (*reversed(PRIORITIES), *PRIORITIES)]
    await harness.publish(*batch)
    consumer = await harness.consumer()
    expected = sorted(batch, key=lambda envelope: envelope.priority)
    assert ids(await harness.take(consumer, len(batch))) == ids(expected)


@needs(Ability.PRIORITIES)
async def urgent_message_overtakes_when_it_is_published_later(harness: BrokerHarness) -> None:
    """A more urgent message published after others is the next to be received."""
    late = harness.envelope(priority=0)
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    await harness.take(consumer)
    await harness.publish(late)
    assert ids(await harness.take(consumer)) == [late.id]


async def messages_come_as_they_become_due_when_delays_differ(harness: BrokerHarness) -> None:
    """In one priority messages come in the order in which they became due."""
    last, second, first = harness.envelope(delay_s=0.3), harness.envelope(delay_s=0.15), harness.envelope()
    await harness.publish(last, second, first)
    await asyncio.sleep(0.3 + DUE_LATE_S)  # all are due: it is their order that counts
    consumer = await harness.consumer()
    assert ids(await harness.take(consumer, 3)) == ids([first, second, last])


async def receive_stops_at_its_limit_when_more_waits(harness: BrokerHarness) -> None:
    """`receive` returns at most `max_items`; what it leaves is there for the next."""
    batch = [harness.envelope() for _ in range(5)]
    await harness.publish(*batch)
    consumer = await harness.consumer()
    first = await consumer.receive(2, harness.patience)
    assert 1 <= len(first) <= 2
    rest = await harness.take(consumer, len(batch) - len(first))
    assert ids([*first, *rest]) == ids(batch)


async def receive_returns_what_there_is_when_it_could_take_more(harness: BrokerHarness) -> None:
    """`receive` waits for the first message only, not until it has `max_items`."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    assert len(await harness.soon(consumer.receive(10, 3600.0))) == 1


async def receive_waits_its_time_when_nothing_comes(harness: BrokerHarness) -> None:
    """`receive` returns `[]` after `wait` seconds, not before."""
    consumer = await harness.consumer()
    begun = time.monotonic()
    assert await consumer.receive(1, 0.2) == []
    took = time.monotonic() - begun
    assert 0.19 <= took < 0.2 + harness.patience, f"took {took:.3f} s"


async def receive_is_woken_when_a_message_is_published(harness: BrokerHarness) -> None:
    """A waiting `receive` returns soon after another process publishes, not at the end of its time."""
    consumer = await harness.consumer()
    broker = await harness.broker()
    waiting = asyncio.create_task(consumer.receive(1, 2 * harness.patience))
    await asyncio.sleep(0.05)  # the receive should wait by now; the clause holds if it does not
    envelope = harness.envelope()
    begun = time.monotonic()
    await broker.publish([envelope])
    assert ids(await harness.soon(waiting)) == [envelope.id]
    took = time.monotonic() - begun
    assert took < WOKEN_S, f"took {took:.3f} s"


async def message_comes_when_a_receive_was_cancelled(harness: BrokerHarness) -> None:
    """Cancelling a `receive` at any moment loses nothing: what it had taken is given back at once, uncounted."""
    cancelled, other = await harness.consumer(), await harness.consumer()
    broker = await harness.broker()
    for round_ in range(10):
        waiting = asyncio.create_task(cancelled.receive(1, harness.patience))
        await asyncio.sleep(0.001 * (round_ % 3))
        envelope = harness.envelope()
        publishing = asyncio.create_task(broker.publish([envelope]))
        await asyncio.sleep(0.001 * (round_ // 3))
        waiting.cancel()
        await publishing
        holder, taken = cancelled, await _outcome(waiting)
        if not taken:
            holder, taken = other, await harness.take(other)
        assert ids(taken) == [envelope.id]
        assert taken[0].losses <= (Ability.SEES_STARTS in harness.lacks)
        await settle(holder, Settlement(taken[0]))


async def _outcome(waiting: "asyncio.Task[list[Delivery]]") -> list[Delivery]:
    try:
        return await waiting
    except asyncio.CancelledError:
        return []


async def message_goes_to_one_when_many_consume(harness: BrokerHarness) -> None:
    """Of consumers that receive at the same time only one gets a message, and none is forgotten."""
    batch = [harness.envelope() for _ in range(60)]
    consumers = [await harness.consumer() for _ in range(3)]
    await harness.publish(*batch)

    async def drain(consumer: Subscription) -> list[str]:
        taken: list[str] = []
        while deliveries := await consumer.receive(4, harness.quiet):
            taken += ids(deliveries)
        return taken

    shares = await asyncio.gather(*map(drain, consumers))
    assert sorted(id_ for share in shares for id_ in share) == sorted(ids(batch))


async def message_stays_when_its_queue_is_not_subscribed(harness: BrokerHarness) -> None:
    """A consumer gets messages of its own queues only."""
    await harness.publish(harness.envelope(queue=f"{harness.queue}-other"))
    await harness.nothing_is_left()


@needs(Ability.PRIORITIES)
async def messages_of_every_queue_come_when_several_are_subscribed(harness: BrokerHarness) -> None:
    """A consumer of several queues gets the messages of all of them, the urgent ones first."""
    other = f"{harness.queue}-other"
    usual = [harness.envelope(), harness.envelope(queue=other)]
    urgent = [harness.envelope(priority=1), harness.envelope(priority=1, queue=other)]
    await harness.publish(*usual, *urgent)
    consumer = await harness.consumer(harness.queue, other)
    taken = ids(await harness.take(consumer, 4))
    assert sorted(taken[:2]) == sorted(ids(urgent))
    assert sorted(taken[2:]) == sorted(ids(usual))


async def new_queues_are_consumed_when_they_are_set(harness: BrokerHarness) -> None:
    """After `set_queues` messages come from the new queues."""
    other = f"{harness.queue}-other"
    consumer = await harness.consumer()
    await consumer.set_queues([other])
    envelope = harness.envelope(queue=other)
    await harness.publish(envelope)
    assert ids(await harness.take(consumer)) == [envelope.id]


async def old_queues_are_left_alone_when_others_are_set(harness: BrokerHarness) -> None:
    """After `set_queues` nothing comes from a queue that is not among them."""
    consumer = await harness.consumer()
    await consumer.set_queues([f"{harness.queue}-other"])
    await harness.publish(harness.envelope())
    await harness.nothing_comes(consumer)


async def received_message_stays_ours_when_other_queues_are_set(harness: BrokerHarness) -> None:
    """What was received before `set_queues` stays with the consumer, who can start and settle it."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer)
    await consumer.set_queues([f"{harness.queue}-other"])
    await harness.nothing_is_left()
    await begin(consumer, taken)
    await settle(consumer, Settlement(taken[0]))


async def unsettled_messages_come_back_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """`Subscription.close` hands back at once what was received and not settled, started or not."""
    batch = [harness.envelope() for _ in range(3)]
    await harness.publish(*batch)
    consumer = await harness.consumer()
    settled, started, _ = await harness.take(consumer, 3)
    await begin(consumer, [settled, started])
    await settle(consumer, Settlement(settled))
    await consumer.close()
    heir = await harness.consumer()
    assert sorted(ids(await harness.take(heir, 2))) == sorted(ids(batch[1:]))
    await harness.nothing_comes(heir)


async def nothing_unstarted_counts_as_lost_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """What `Subscription.close` hands back and was not begun is not counted as lost; it may start."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    await harness.take(consumer)
    await consumer.close()
    heir = await harness.consumer()
    (delivery,) = await harness.take(heir)
    assert (delivery.delivery_count, delivery.losses) == (2, 0)
    assert await heir.begin([Start(delivery)]) == [Verdict.RUN]


async def started_message_counts_as_lost_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """What `Subscription.close` hands back and was begun is counted as lost; acknowledged early it starts no more."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    await begin(consumer, await harness.take(consumer), acks_late=False)
    await consumer.close()
    heir = await harness.consumer()
    (delivery,) = await harness.take(heir)
    assert (delivery.delivery_count, delivery.losses) == (2, 1)
    assert await heir.begin([Start(delivery)]) == [Verdict.STARTED_BEFORE]


async def closing_does_nothing_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """`Subscription.close` is idempotent: a second one takes nothing from who has got the messages meanwhile."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    await harness.take(consumer)
    await consumer.close()
    heir = await harness.consumer()
    taken = await harness.take(heir)
    await consumer.close()
    await harness.nothing_is_left()
    await settle(heir, Settlement(taken[0]))


async def open_says_so_when_there_is_no_server(harness: BrokerHarness) -> None:
    """`Broker.open` raises `BrokerConnectionError` when the broker can't be reached."""
    assert harness.unreachable is not None, "the harness has no unreachable broker to offer"
    broker = harness.unreachable()
    try:
        await broker.open()
    except BrokerConnectionError:
        return
    raise AssertionError("open() did not raise BrokerConnectionError")


CLAUSES: Final = (
    link_is_up_when_the_broker_is_open,
    link_is_down_when_the_broker_is_closed,
    closing_does_nothing_when_the_broker_is_closed,
    messages_flow_when_a_closed_broker_is_opened_again,
    message_is_stored_when_publish_returns,
    every_message_is_stored_when_a_batch_is_mixed,
    both_messages_come_when_they_share_an_id,
    queue_is_made_when_it_is_subscribed,
    delivery_says_what_was_published_when_it_is_received,
    delivery_never_expires_when_no_time_was_given,
    expiry_counts_from_publishing_when_a_time_to_live_is_given,
    message_comes_when_its_due_time_has_passed,
    message_is_kept_back_when_it_is_not_due,
    delayed_message_comes_in_time_when_a_consumer_waits,
    message_comes_at_its_time_when_a_due_time_is_given,
    message_comes_in_time_when_a_later_one_was_waited_for,
    messages_come_as_published_when_they_share_a_priority,
    urgent_messages_come_first_when_priorities_differ,
    urgent_message_overtakes_when_it_is_published_later,
    messages_come_as_they_become_due_when_delays_differ,
    receive_stops_at_its_limit_when_more_waits,
    receive_returns_what_there_is_when_it_could_take_more,
    receive_waits_its_time_when_nothing_comes,
    receive_is_woken_when_a_message_is_published,
    message_comes_when_a_receive_was_cancelled,
    message_goes_to_one_when_many_consume,
    message_stays_when_its_queue_is_not_subscribed,
    messages_of_every_queue_come_when_several_are_subscribed,
    new_queues_are_consumed_when_they_are_set,
    old_queues_are_left_alone_when_others_are_set,
    received_message_stays_ours_when_other_queues_are_set,
    unsettled_messages_come_back_when_the_subscription_is_closed,
    nothing_unstarted_counts_as_lost_when_the_subscription_is_closed,
    started_message_counts_as_lost_when_the_subscription_is_closed,
    closing_does_nothing_when_the_subscription_is_closed,
    *lease_contract.CLAUSES,
    *settle_contract.CLAUSES,
    *park_contract.CLAUSES,
)

UNREACHABLE_CLAUSES: Final = (open_says_so_when_there_is_no_server,)
