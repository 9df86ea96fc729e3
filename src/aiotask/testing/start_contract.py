"""The clauses of `aiotask.protocols.FusedStart`, for subscriptions that have it."""

import asyncio
from typing import Any, Final, cast

from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import FusedStart
from aiotask.testing.harness import LINE, BrokerHarness, StartingSubscription, begin, ids, settle


async def _starter(harness: BrokerHarness, **options: Any) -> StartingSubscription:
    consumer = await harness.consumer(**options)
    assert isinstance(consumer, FusedStart)
    return cast("StartingSubscription", consumer)


async def _take(
    harness: BrokerHarness, consumer: StartingSubscription, count: int = 1, *, starts: int = 10
) -> list[Delivery]:
    """Receive `count` that are there, in one call."""
    taken = await consumer.receive_and_begin(count, harness.patience, starts)
    assert len(taken) == count, f"{count} messages were to come at once, {len(taken)} came"
    return taken


def _begun(deliveries: list[Delivery]) -> list[bool]:
    return [delivery.begun for delivery in deliveries]


async def only_the_first_come_begun_when_not_all_may_start(harness: BrokerHarness) -> None:
    """Of what is handed out the first `starts` are begun; what is received without it is not."""
    await harness.publish(*(harness.envelope() for _ in range(4)))
    consumer = await _starter(harness)
    assert _begun(await _take(harness, consumer, 3, starts=2)) == [True, True, False]
    assert _begun(await harness.take(consumer)) == [False]


async def starts_are_counted_over_all_lines_when_priorities_differ(harness: BrokerHarness) -> None:
    """The first are so in the order in which messages come, over all priorities and queues."""
    envelopes = [harness.envelope(priority=priority) for priority in (7, 1, 4)]
    await harness.publish(*envelopes)
    taken = await _take(harness, await _starter(harness), 3, starts=2)
    assert ids(taken) == [envelopes[1].id, envelopes[2].id, envelopes[0].id]
    assert _begun(taken) == [True, True, False]


async def no_more_come_than_were_asked_for_when_more_may_start(harness: BrokerHarness) -> None:
    """`max_items` is the limit, however many may start: what is beyond it stays for others."""
    await harness.publish(harness.envelope(), harness.envelope())
    await _take(harness, await _starter(harness), 1, starts=5)
    (other,) = await harness.take(await harness.consumer())
    assert other.losses == 0


async def call_waits_as_receive_does_when_nothing_is_due(harness: BrokerHarness) -> None:
    """It waits for the first message, is woken by it, and returns `[]` after its time."""
    consumer = await _starter(harness)
    assert await consumer.receive_and_begin(1, 0.0, 1) == []
    waiting = asyncio.create_task(consumer.receive_and_begin(1, 2 * harness.patience, 1))
    await asyncio.sleep(0)
    envelope = harness.envelope()
    await harness.publish(envelope)
    taken = await harness.soon(waiting)
    assert ids(taken) == [envelope.id]
    assert _begun(taken) == [True]


async def only_what_was_begun_is_lost_when_leases_lapse(harness: BrokerHarness) -> None:
    """What was begun counts as started: its lease lapses, and it was lost. What was only received was not."""
    first, second = harness.envelope(), harness.envelope()
    await harness.publish(first, second)
    await _take(harness, await _starter(harness, lease=harness.lease), 2, starts=1)
    await harness.lapse()
    taken = await harness.take(await harness.consumer(), 2)
    assert {delivery.id: delivery.losses for delivery in taken} == {first.id: 1, second.id: 0}


async def begun_message_counts_as_lost_when_the_subscription_is_closed(harness: BrokerHarness) -> None:
    """Closing takes what was begun and handed over for lost, as after `begin`."""
    await harness.publish(harness.envelope())
    consumer = await _starter(harness)
    await _take(harness, consumer)
    await consumer.close()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 1


async def begun_message_stays_when_its_lease_is_renewed(harness: BrokerHarness) -> None:
    """A keeper renews what was begun as anything else, and it stays begun."""
    await harness.publish(harness.envelope())
    consumer = await _starter(harness, lease=harness.lease)
    (delivery,) = await _take(harness, consumer)
    keeper = consumer.lease_keeper()
    assert not (await asyncio.to_thread(keeper.renew, [delivery.receipt])).lost
    keeper.close()
    await consumer.close()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 1


async def message_is_left_to_be_judged_when_it_was_lost_before(harness: BrokerHarness) -> None:
    """What was started and lost is not begun, where it was reclaimed as where it was given back: `begin` judges it."""
    heir, lost = await harness.lost()
    await settle(heir, Settlement(lost, "release"))
    consumer = await _starter(harness, lease=harness.lease)
    (delivery,) = await _take(harness, consumer)
    assert (delivery.losses, delivery.begun) == (1, False)
    await harness.lapse()
    consumer = await _starter(harness)
    (delivery,) = await _take(harness, consumer)
    assert (delivery.losses, delivery.begun) == (1, False)
    assert await consumer.begin([Start(delivery, acks_late=False)]) == [Verdict.STARTED_BEFORE]


async def message_is_left_to_be_judged_when_it_has_expired(harness: BrokerHarness) -> None:
    """What is past its time is not begun, and comes in its place; what has time left is begun."""
    soon, late, later = harness.envelope(ttl_s=60.0), harness.envelope(expires_at=harness.now() - 1), harness.envelope()
    await harness.publish(soon, late, later)
    consumer = await _starter(harness, lease=harness.lease)
    taken = await _take(harness, consumer, 3)
    assert ids(taken) == [soon.id, late.id, later.id]
    assert _begun(taken) == [True, False, True]
    assert await consumer.begin([Start(taken[1])]) == [Verdict.EXPIRED]
    await settle(consumer, Settlement(taken[0]), Settlement(taken[2]))
    await harness.lapse()
    (delivery,) = await harness.take(await harness.consumer())
    assert (delivery.id, delivery.losses) == (late.id, 0)


async def nothing_is_lost_when_a_begun_message_is_settled_unrun(harness: BrokerHarness) -> None:
    """Who has begun a message may still release or park it: that is no loss."""
    released, parked = harness.envelope(), harness.envelope()
    await harness.publish(released, parked)
    consumer = await _starter(harness)
    first, second = await _take(harness, consumer, 2)
    await settle(consumer, Settlement(first, "release"), Settlement(second, "park", line=LINE))
    again = [*await harness.take(consumer), *await consumer.unpark({LINE: 1})]
    assert ids(again) == [released.id, parked.id]
    assert [(delivery.losses, delivery.begun) for delivery in again] == [(0, False), (0, False)]


async def begun_message_may_run_when_it_is_begun_again(harness: BrokerHarness) -> None:
    """`begin` of what is begun is RUN while it is ours, also when it is acknowledged early; it was started once."""
    await harness.publish(harness.envelope())
    consumer = await _starter(harness, lease=harness.lease)
    taken = await _take(harness, consumer)
    await begin(consumer, taken, acks_late=False)
    await harness.lapse()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 1
    assert await consumer.begin([Start(taken[0])]) == [Verdict.LOST]


async def no_start_is_counted_when_the_call_was_cancelled(harness: BrokerHarness) -> None:
    """What a cancelled call had begun is given back at once, and has lost nothing."""
    cancelled, other = await _starter(harness), await harness.consumer()
    broker = await harness.broker()
    for round_ in range(10):
        waiting = asyncio.create_task(cancelled.receive_and_begin(1, harness.patience, 1))
        await asyncio.sleep(0.001 * (round_ % 3))
        envelope = harness.envelope()
        publishing = asyncio.create_task(broker.publish([envelope]))
        await asyncio.sleep(0.001 * (round_ // 3))
        waiting.cancel()
        await publishing
        holder, [taken] = cancelled, await asyncio.gather(waiting, return_exceptions=True)
        if isinstance(taken, asyncio.CancelledError):
            holder, taken = cast("StartingSubscription", other), await harness.take(other)
        assert not isinstance(taken, BaseException)
        assert ids(taken) == [envelope.id]
        assert taken[0].losses == 0
        await settle(holder, Settlement(taken[0]))


CLAUSES: Final = (
    only_the_first_come_begun_when_not_all_may_start,
    starts_are_counted_over_all_lines_when_priorities_differ,
    no_more_come_than_were_asked_for_when_more_may_start,
    call_waits_as_receive_does_when_nothing_is_due,
    only_what_was_begun_is_lost_when_leases_lapse,
    begun_message_counts_as_lost_when_the_subscription_is_closed,
    begun_message_stays_when_its_lease_is_renewed,
    message_is_left_to_be_judged_when_it_was_lost_before,
    message_is_left_to_be_judged_when_it_has_expired,
    nothing_is_lost_when_a_begun_message_is_settled_unrun,
    begun_message_may_run_when_it_is_begun_again,
    no_start_is_counted_when_the_call_was_cancelled,
)
