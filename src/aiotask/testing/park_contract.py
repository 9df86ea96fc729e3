"""The clauses of parking: `Settlement` with `park`, and `Subscription.unpark`. Part of `broker_contract.CLAUSES`."""

import asyncio
from typing import Final

from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import Subscription
from aiotask.testing.harness import LINE, Ability, BrokerHarness, begin, ids, needs, settle

_OTHER: Final = "proj.tasks.other"


async def _parked(harness: BrokerHarness, **fields: object) -> Subscription:
    """Park one message; return a consumer of its queue."""
    await harness.park(harness.envelope(**fields))
    return await harness.consumer()


async def _unpark(consumer: Subscription) -> Delivery:
    """Take the one message that is parked in the line."""
    taken = await consumer.unpark({LINE: 10})
    assert len(taken) == 1, f"one message was to be parked, {len(taken)} came"
    return taken[0]


async def _nothing_is_parked(harness: BrokerHarness) -> None:
    came = await (await harness.consumer()).unpark({LINE: 10})
    assert came == [], f"nothing was to be parked, {len(came)} came"


async def parked_message_is_kept_back_when_consumers_receive(harness: BrokerHarness) -> None:
    """`receive` hands out nothing that is parked: not to who parked it, nor when its lease would have ended."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer(lease=harness.lease)
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "park", line=LINE))
    await harness.nothing_comes(consumer)
    await harness.lapse()
    await harness.nothing_is_left()
    await consumer.close()
    await harness.nothing_is_left()


async def parked_message_comes_when_its_line_is_unparked(harness: BrokerHarness) -> None:
    """`unpark` takes what is parked in the line, once."""
    envelope = harness.envelope()
    await harness.park(envelope)
    consumer = await harness.consumer()
    assert ids(await consumer.unpark({LINE: 1})) == [envelope.id]
    assert await consumer.unpark({LINE: 1}) == []


async def message_is_unchanged_when_it_is_unparked(harness: BrokerHarness) -> None:
    """An unparked delivery is the one that was parked, with a receipt of its own and the name of the line."""
    await harness.publish(harness.envelope(body=b"kept", priority=7, ttl_s=60.0))
    consumer = await harness.consumer()
    (before,) = await harness.take(consumer)
    await settle(consumer, Settlement(before, "park", line=LINE))
    after = await _unpark(consumer)
    assert (after.id, after.queue, after.body) == (before.id, before.queue, before.body)
    assert (after.content_type, after.priority) == (before.content_type, before.priority)
    assert after.expires_at == before.expires_at
    assert after.line == LINE
    assert after.receipt != before.receipt


async def no_line_is_named_when_a_message_comes_from_its_queue(harness: BrokerHarness) -> None:
    """`Delivery.line` is None of what `receive` returns."""
    await harness.publish(harness.envelope())
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.line is None


async def nothing_is_counted_when_a_message_is_parked(harness: BrokerHarness) -> None:
    """Parking is no loss, though the message was started, and the delivery that it ends does not count."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer)
    await begin(consumer, taken)
    await settle(consumer, Settlement(taken[0], "park", line=LINE))
    delivery = await _unpark(consumer)
    assert (delivery.delivery_count, delivery.losses) == (1, 0)
    assert await consumer.begin([Start(delivery)]) == [Verdict.RUN]


async def losses_stay_counted_when_a_message_is_parked(harness: BrokerHarness) -> None:
    """A message that was lost, and then parked, is still one that was lost."""
    consumer, lost = await harness.lost()
    await settle(consumer, Settlement(lost, "park", line=LINE))
    delivery = await _unpark(consumer)
    assert (delivery.delivery_count, delivery.losses) == (2, 1)
    if Ability.SEES_STARTS not in harness.lacks:
        assert await consumer.begin([Start(delivery)]) == [Verdict.STARTED_BEFORE]


async def start_is_refused_when_a_parked_message_has_expired(harness: BrokerHarness) -> None:
    """What expires while it is parked is taken like the rest, and judged by `begin`: EXPIRED."""
    consumer = await _parked(harness, ttl_s=0.05)
    await asyncio.sleep(0.1)
    assert await consumer.begin([Start(await _unpark(consumer))]) == [Verdict.EXPIRED]


async def unpark_stops_at_its_numbers_when_more_is_parked(harness: BrokerHarness) -> None:
    """`unpark` takes at most so many of each line; what it leaves is there for the next."""
    mine, others = [harness.envelope() for _ in range(4)], [harness.envelope() for _ in range(3)]
    await harness.park(*mine)
    await harness.park(*others, line=_OTHER)
    consumer = await harness.consumer()
    taken = await consumer.unpark({LINE: 2, _OTHER: 1})
    assert sorted(ids(taken)) == sorted(ids([*mine[:2], *others[:1]]))
    rest = await consumer.unpark({LINE: 10, _OTHER: 10})
    assert sorted(ids(rest)) == sorted(ids([*mine[2:], *others[1:]]))


async def other_lines_are_left_alone_when_one_is_unparked(harness: BrokerHarness) -> None:
    """`unpark` takes from the lines that it is given only."""
    other = harness.envelope()
    await harness.park(harness.envelope())
    await harness.park(other, line=_OTHER)
    consumer = await harness.consumer()
    assert ids(await consumer.unpark({_OTHER: 10, "unknown": 10})) == [other.id]


async def unpark_returns_at_once_when_nothing_is_parked(harness: BrokerHarness) -> None:
    """`unpark` does not wait, and takes nothing that waits in the queue."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    assert await harness.soon(consumer.unpark({LINE: 1})) == []


async def parked_messages_come_as_parked_when_they_share_a_priority(harness: BrokerHarness) -> None:
    """Of one priority the first parked is the first taken, within a batch and across batches."""
    published = [harness.envelope() for _ in range(9)]
    parked = published[6:] + published[2:6][::-1] + published[:2]
    await harness.publish(*published)
    consumer = await harness.consumer()
    taken = {delivery.id: delivery for delivery in await harness.take(consumer, len(published))}
    for batch in (parked[:2], parked[2:]):
        await settle(consumer, *(Settlement(taken[envelope.id], "park", line=LINE) for envelope in batch))
    assert ids(await consumer.unpark({LINE: 5}) + await consumer.unpark({LINE: 5})) == ids(parked)


@needs(Ability.PRIORITIES)
async def urgent_parked_messages_come_first_when_priorities_differ(harness: BrokerHarness) -> None:
    """A line is taken from by priority, 0 first."""
    batch = [harness.envelope(priority=priority) for priority in (9, 5, 0, 5, 1)]
    await harness.park(*batch)
    consumer = await harness.consumer()
    assert ids(await consumer.unpark({LINE: 3})) == ids([batch[2], batch[4], batch[1]])


async def parked_message_stays_when_its_queue_is_not_subscribed(harness: BrokerHarness) -> None:
    """A line belongs to its queue: a consumer sees those of its own queues only, of the queues that it has now."""
    envelope = harness.envelope()
    await harness.park(envelope)
    consumer = await harness.consumer(f"{harness.queue}-other")
    assert await consumer.unpark({LINE: 10}) == []
    await consumer.set_queues([harness.queue])
    assert ids(await consumer.unpark({LINE: 10})) == [envelope.id]


async def lines_of_every_queue_are_taken_when_several_are_subscribed(harness: BrokerHarness) -> None:
    """The lines of one name in several queues are taken from in one order, and to one number.

    Where there is no such order (`Ability.ONE_ORDER`), each in its own.
    """
    other = f"{harness.queue}-other"
    usual = [harness.envelope(queue=queue) for queue in (harness.queue, other, other, harness.queue)]
    urgent = harness.envelope(queue=other, priority=1)
    await harness.park(*usual, urgent)
    consumer = await harness.consumer(harness.queue, other)
    first, rest = await consumer.unpark({LINE: 3}), await consumer.unpark({LINE: 3})
    if Ability.ONE_ORDER in harness.lacks:
        assert (len(first), len(rest)) == (3, 2)
        for queue in (harness.queue, other):
            parked = sorted([*usual, urgent], key=lambda envelope: envelope.priority)
            own = [envelope for envelope in parked if envelope.queue == queue]
            assert ids([delivery for delivery in (*first, *rest) if delivery.queue == queue]) == ids(own)
    else:
        assert (ids(first), ids(rest)) == (ids([urgent, *usual[:2]]), ids(usual[2:]))


async def parked_message_stays_when_its_broker_is_closed(harness: BrokerHarness) -> None:
    """What is parked outlives who parked it, as what waits does."""
    broker = await harness.broker()
    envelope = harness.envelope()
    await broker.publish([envelope])
    consumer = await harness.consumer(broker=broker)
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "park", line=LINE))
    await broker.close()
    await harness.nothing_is_left()
    await broker.open()
    assert ids(await (await harness.consumer(broker=broker)).unpark({LINE: 1})) == [envelope.id]


async def parked_messages_go_to_one_when_many_unpark(harness: BrokerHarness) -> None:
    """Of consumers that unpark at the same time only one gets a message, and none is forgotten."""
    batch = [harness.envelope() for _ in range(30)]
    await harness.park(*batch)
    consumers = [await harness.consumer() for _ in range(3)]

    async def drain(consumer: Subscription) -> list[str]:
        taken: list[str] = []
        while deliveries := await consumer.unpark({LINE: 4}):
            taken += ids(deliveries)
        return taken

    shares = await asyncio.gather(*map(drain, consumers))
    assert sorted(id_ for share in shares for id_ in share) == sorted(ids(batch))


async def message_comes_when_an_unpark_was_cancelled(harness: BrokerHarness) -> None:
    """Cancelling an `unpark` at any moment loses nothing: what it had taken is given back at once, uncounted."""
    cancelled, other = await harness.consumer(), await harness.consumer()
    for round_ in range(8):
        envelope = harness.envelope()
        await harness.park(envelope)
        unparking = asyncio.create_task(cancelled.unpark({LINE: 1}))
        for _ in range(round_ % 4):
            await asyncio.sleep(0.0005 * (round_ // 4))
        unparking.cancel()
        holder, taken = cancelled, await _outcome(unparking)
        if not taken:  # it was not taken, or is given back
            holder, taken = other, await other.unpark({LINE: 1}) or await harness.take(other)
        assert ids(taken) == [envelope.id]
        assert taken[0].losses <= (Ability.SEES_STARTS in harness.lacks)
        await settle(holder, Settlement(taken[0]))


async def nothing_is_counted_when_an_unpark_was_cut_off_by_closing(harness: BrokerHarness) -> None:
    """What an `unpark` had taken that was cancelled by who closes the subscription is handed back, uncounted."""
    other = await harness.consumer()
    for turns in (1, 3, 8, 20):
        envelope = harness.envelope()
        await harness.park(envelope)
        closed = await harness.consumer()
        unparking = asyncio.create_task(closed.unpark({LINE: 1}))
        for _ in range(turns):
            await asyncio.sleep(0)
        unparking.cancel()
        await _outcome(unparking)
        await closed.close()
        (delivery,) = await other.unpark({LINE: 1}) or await harness.take(other)
        assert (delivery.id, delivery.losses) == (envelope.id, 0)
        await settle(other, Settlement(delivery))


async def _outcome(unparking: "asyncio.Task[list[Delivery]]") -> list[Delivery]:
    try:
        return await unparking
    except asyncio.CancelledError:
        return []


async def unparked_message_stays_ours_when_its_lease_lasts(harness: BrokerHarness) -> None:
    """What was unparked is leased: nobody else gets it by `unpark` or `receive`, and settled it is gone."""
    consumer = await _parked(harness)
    delivery = await _unpark(consumer)
    await begin(consumer, [delivery])
    await _nothing_is_parked(harness)
    await harness.nothing_is_left()
    await settle(consumer, Settlement(delivery))
    await consumer.close()
    await _nothing_is_parked(harness)
    await harness.nothing_is_left()


async def unparked_message_stays_ours_when_its_lease_is_renewed(harness: BrokerHarness) -> None:
    """A lease of an unparked message is renewed like any other."""
    await harness.park(harness.envelope())
    owner = await harness.consumer(lease=harness.lease)
    delivery = await _unpark(owner)
    keeper = owner.lease_keeper()
    for _ in range(3):
        await asyncio.sleep(harness.lease * 0.4)
        assert not (await asyncio.to_thread(keeper.renew, [delivery.receipt])).lost
    keeper.close()
    await harness.nothing_is_left()
    await begin(owner, [delivery])
    await settle(owner, Settlement(delivery))


async def unparked_message_comes_by_receive_when_its_lease_lapses(harness: BrokerHarness) -> None:
    """An unparked message whose consumer is lost comes to another ahead of all that waits, not into its line.

    Where it is in its line again (`Ability.LINE_LEFT`), once that is looked at.
    """
    await harness.park(harness.envelope(priority=9))
    doomed = await harness.consumer(lease=harness.lease)
    before = await _unpark(doomed)
    await begin(doomed, [before])
    await harness.publish(harness.envelope(priority=0))
    await harness.lapse()
    heir = await harness.consumer()
    if Ability.LINE_LEFT in harness.lacks:
        assert await heir.unpark({LINE: 1}) == []
        after = {delivery.id: delivery for delivery in await harness.take(heir, 2)}[before.id]
    else:
        (after,) = await harness.take(heir)
    assert (after.id, after.line) == (before.id, None)
    assert (after.delivery_count, after.losses) == (before.delivery_count + 1, 1)
    assert await doomed.settle([Settlement(before)]) == [before]
    await _nothing_is_parked(harness)


async def next_in_line_comes_when_one_before_it_was_lost(harness: BrokerHarness) -> None:
    """What is lost after it was unparked takes nobody's turn: `unpark` gives as many as it is asked for, if there are.

    On its return what was lost is there for `receive`.
    """
    batch = [harness.envelope() for _ in range(3)]
    await harness.park(*batch)
    doomed = await harness.consumer(lease=harness.lease)
    lost = await doomed.unpark({LINE: 1})
    await begin(doomed, lost)
    await harness.lapse()
    heir = await harness.consumer()
    assert ids(await heir.unpark({LINE: 1})) == ids(batch[1:2])
    assert ids(await harness.take(heir)) == ids(batch[:1])
    assert ids(await heir.unpark({LINE: 1})) == ids(batch[2:])


async def unparked_message_comes_by_receive_when_it_is_released(harness: BrokerHarness) -> None:
    """An unparked message that is released comes again ahead of what waits in its priority, not into its line."""
    await harness.park(harness.envelope())
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    before = await _unpark(consumer)
    await settle(consumer, Settlement(before, "release"))
    await _nothing_is_parked(harness)
    (after,) = await harness.take(consumer)
    assert (after.id, after.line, after.delivery_count) == (before.id, None, before.delivery_count + 1)


async def unparked_message_comes_by_receive_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """What `close` hands back comes ahead of what waits, not into the line that it was unparked from."""
    await harness.park(harness.envelope())
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    before = await _unpark(consumer)
    await consumer.close()
    await _nothing_is_parked(harness)
    (after,) = await harness.take(await harness.consumer())
    assert (after.id, after.line) == (before.id, None)


async def settlement_is_refused_when_the_delivery_is_parked(harness: BrokerHarness) -> None:
    """Parking ends a delivery: what else is said of it is refused, in the same batch as in a later one."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    park = Settlement(delivery, "park", line=LINE)
    assert await consumer.settle([park, Settlement(delivery)]) == [delivery]
    assert await consumer.settle([park]) == [delivery]
    assert await consumer.begin([Start(delivery)]) == [Verdict.LOST]
    assert ids(await consumer.unpark({LINE: 10})) == [delivery.id]


async def new_owner_keeps_it_when_a_stale_parking_comes(harness: BrokerHarness) -> None:
    """A refused `park` has no effect: the message stays with its new owner, and nothing is parked."""
    await harness.publish(harness.envelope())
    loser = await harness.consumer(lease=harness.lease)
    (lost,) = await harness.take(loser)
    await harness.lapse()
    heir = await harness.consumer()
    (taken,) = await harness.take(heir)
    assert await loser.settle([Settlement(lost, "park", line=LINE)]) == [lost]
    await _nothing_is_parked(harness)
    await begin(heir, [taken])
    await settle(heir, Settlement(taken))


CLAUSES: Final = (
    parked_message_is_kept_back_when_consumers_receive,
    parked_message_comes_when_its_line_is_unparked,
    message_is_unchanged_when_it_is_unparked,
    no_line_is_named_when_a_message_comes_from_its_queue,
    nothing_is_counted_when_a_message_is_parked,
    losses_stay_counted_when_a_message_is_parked,
    start_is_refused_when_a_parked_message_has_expired,
    unpark_stops_at_its_numbers_when_more_is_parked,
    other_lines_are_left_alone_when_one_is_unparked,
    unpark_returns_at_once_when_nothing_is_parked,
    parked_messages_come_as_parked_when_they_share_a_priority,
    urgent_parked_messages_come_first_when_priorities_differ,
    parked_message_stays_when_its_queue_is_not_subscribed,
    lines_of_every_queue_are_taken_when_several_are_subscribed,
    parked_message_stays_when_its_broker_is_closed,
    parked_messages_go_to_one_when_many_unpark,
    message_comes_when_an_unpark_was_cancelled,
    nothing_is_counted_when_an_unpark_was_cut_off_by_closing,
    unparked_message_stays_ours_when_its_lease_lasts,
    unparked_message_stays_ours_when_its_lease_is_renewed,
    unparked_message_comes_by_receive_when_its_lease_lapses,
    next_in_line_comes_when_one_before_it_was_lost,
    unparked_message_comes_by_receive_when_it_is_released,
    unparked_message_comes_by_receive_when_the_subscription_is_closed,
    settlement_is_refused_when_the_delivery_is_parked,
    new_owner_keeps_it_when_a_stale_parking_comes,
)
