"""The clauses of `Subscription.settle`. Part of `broker_contract.CLAUSES`."""

import asyncio
from collections.abc import Callable
from typing import Final

from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.testing.harness import DUE_LATE_S, LINE, Ability, BrokerHarness, begin, ids, needs, settle


async def message_is_gone_when_it_is_acknowledged(harness: BrokerHarness) -> None:
    """`ack` removes the message: it comes back neither by closing nor by a lapsed lease."""
    await harness.publish(harness.envelope(), harness.envelope())
    lapsing = await harness.consumer(lease=harness.lease)
    (first,) = await harness.take(lapsing)
    closing = await harness.consumer()
    (second,) = await harness.take(closing)
    await settle(lapsing, Settlement(first))
    await settle(closing, Settlement(second))
    await closing.close()
    await harness.lapse()
    await harness.nothing_is_left()


async def message_comes_at_once_when_it_is_released(harness: BrokerHarness) -> None:
    """`release` without delay gives the message back ahead of what waits in its priority."""
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "release"))
    assert ids(await harness.take(consumer)) == [delivery.id]


@needs(Ability.PRIORITIES, Ability.AHEAD_AT_ONCE)
async def urgent_message_comes_first_when_another_is_released(harness: BrokerHarness) -> None:
    """A released message is ahead in its own priority only."""
    released, urgent = harness.envelope(priority=6), harness.envelope(priority=4)
    await harness.publish(released)
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await harness.publish(urgent)
    await settle(consumer, Settlement(delivery, "release"))
    assert ids(await harness.take(consumer, 2)) == [urgent.id, released.id]


async def released_messages_keep_their_order_when_they_are_of_one_batch(harness: BrokerHarness) -> None:
    """Messages released by one batch come again in the order of that batch."""
    await harness.publish(*(harness.envelope() for _ in range(4)))
    consumer = await harness.consumer()
    taken = await harness.take(consumer, 3)
    await settle(consumer, *(Settlement(delivery, "release") for delivery in taken))
    assert ids(await harness.take(consumer, 3)) == ids(taken)


async def no_loss_is_counted_when_a_started_message_is_released(harness: BrokerHarness) -> None:
    """A release is not counted as a loss, with a delay or without; the handing-out is counted."""
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer, 2)
    await begin(consumer, taken)
    await settle(consumer, Settlement(taken[0], "release"), Settlement(taken[1], "release", delay_s=0.05))
    again = await harness.take(consumer, 2)
    assert [(delivery.delivery_count, delivery.losses) for delivery in again] == [(2, 0), (2, 0)]


async def loss_is_counted_when_a_message_is_released_as_lost(harness: BrokerHarness) -> None:
    """A release that is `lost` is counted as a loss, with a delay or without, on top of those that there were."""
    consumer, delivery = await harness.lost()
    await settle(consumer, Settlement(delivery, "release", lost=True))
    (again,) = await harness.take(consumer)
    assert again.losses == delivery.losses + 1
    await settle(consumer, Settlement(again, "release", delay_s=0.05, lost=True))
    (last,) = await harness.take(consumer)
    assert (last.id, last.losses) == (delivery.id, delivery.losses + 2)
    assert await consumer.begin([Start(last)]) == [Verdict.STARTED_BEFORE]


async def message_is_unchanged_when_it_is_released(harness: BrokerHarness) -> None:
    """A released message keeps its content, its priority and its time."""
    await harness.publish(harness.envelope(body=b"kept", priority=7, ttl_s=60.0))
    consumer = await harness.consumer()
    (before,) = await harness.take(consumer)
    await settle(consumer, Settlement(before, "release"))
    (after,) = await harness.take(consumer)
    assert (after.id, after.body, after.content_type) == (before.id, before.body, before.content_type)
    assert (after.priority, after.expires_at) == (before.priority, before.expires_at)
    assert after.receipt != before.receipt


async def message_is_kept_back_when_it_is_released_with_a_delay(harness: BrokerHarness) -> None:
    """A message released with a delay does not come before it is over."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "release", delay_s=60.0))
    await harness.nothing_comes(consumer)


async def message_comes_last_when_its_delay_is_over(harness: BrokerHarness) -> None:
    """A message released with a delay comes when it is over, behind what waited in its line."""
    waiting = harness.envelope()
    await harness.publish(harness.envelope(), waiting)
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "release", delay_s=0.05))
    await asyncio.sleep(0.05 + DUE_LATE_S)  # both can be taken: it is their order that counts
    assert ids(await harness.take(consumer, 2)) == [waiting.id, delivery.id]


async def new_message_takes_the_place_when_one_is_replaced(harness: BrokerHarness) -> None:
    """`replace` removes the message and publishes another, against which nothing is counted."""
    consumer, delivery = await harness.lost()
    envelope = harness.envelope(id=delivery.id, body=b"retry", priority=4)
    await settle(consumer, Settlement(delivery, "replace", envelope=envelope))
    (after,) = await harness.take(consumer)
    assert (after.id, after.body, after.priority) == (delivery.id, b"retry", envelope.priority)
    assert (after.delivery_count, after.losses) == (1, 0)
    await settle(consumer, Settlement(after))
    await consumer.close()
    await harness.nothing_is_left()


async def new_message_is_kept_back_when_its_envelope_has_a_delay(harness: BrokerHarness) -> None:
    """What `replace` publishes is due when its envelope says so."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "replace", envelope=harness.envelope(delay_s=60.0)))
    await harness.nothing_comes(consumer)


async def message_is_gone_when_it_is_dead(harness: BrokerHarness) -> None:
    """`dead` takes the message out of its queue."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "dead", reason="Reject", detail="no good"))
    await consumer.close()
    await harness.nothing_is_left()


async def each_is_carried_out_when_the_batch_is_mixed(harness: BrokerHarness) -> None:
    """One batch may hold all the actions."""
    await harness.publish(*(harness.envelope() for _ in range(6)))
    consumer = await harness.consumer()
    acked, released, delayed, replaced, parked, dead = await harness.take(consumer, 6)
    envelope = harness.envelope()
    await settle(
        consumer,
        Settlement(acked),
        Settlement(released, "release"),
        Settlement(delayed, "release", delay_s=60.0),
        Settlement(replaced, "replace", envelope=envelope),
        Settlement(parked, "park", line=LINE),
        Settlement(dead, "dead", reason="Reject"),
    )
    await consumer.close()
    heir = await harness.consumer()
    assert ids(await harness.take(heir, 2)) == [released.id, envelope.id]
    assert ids(await heir.unpark({LINE: 10})) == [parked.id]
    await harness.nothing_comes(heir)


async def settlement_is_refused_when_another_owns_the_message(harness: BrokerHarness) -> None:
    """A settlement of a delivery that another consumer has got is returned; the rest of its batch is carried out."""
    await harness.publish(harness.envelope())
    loser = await harness.consumer(lease=harness.lease)
    (lost,) = await harness.take(loser)
    await harness.lapse()
    heir = await harness.consumer()
    taken = await harness.take(heir)
    await harness.publish(harness.envelope(), harness.envelope())
    own = await harness.take(loser, 2)
    refused = await loser.settle([Settlement(own[0]), Settlement(lost), Settlement(own[1])])
    assert refused == [lost]
    await loser.close()
    await settle(heir, Settlement(taken[0]))
    await harness.nothing_is_left()


async def settlement_is_refused_when_the_delivery_is_settled(harness: BrokerHarness) -> None:
    """A second settlement of a delivery is returned, in a later batch as in the same."""
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    first, second = await harness.take(consumer, 2)
    assert await consumer.settle([Settlement(first), Settlement(second), Settlement(first, "release")]) == [first]
    assert await consumer.settle([Settlement(second, "release")]) == [second]
    await harness.nothing_comes(consumer)


async def settlement_is_refused_when_the_message_was_handed_out_again(harness: BrokerHarness) -> None:
    """A receipt is good for one handing-out: an old one is refused, though the same consumer has the message again."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (old,) = await harness.take(consumer)
    await settle(consumer, Settlement(old, "release"))
    (new,) = await harness.take(consumer)
    assert await consumer.begin([Start(old), Start(new)]) == [Verdict.LOST, Verdict.RUN]
    assert await consumer.settle([Settlement(old)]) == [old]
    await settle(consumer, Settlement(new))


async def new_owner_keeps_it_when_a_stale_ack_comes(harness: BrokerHarness) -> None:
    """A refused `ack` has no effect: the message stays with its new owner, and waits again when that gives it back."""
    await _stale(harness, Settlement)


async def new_owner_keeps_it_when_a_stale_release_comes(harness: BrokerHarness) -> None:
    """A refused `release` has no effect: nobody else gets the message."""
    await _stale(harness, lambda delivery: Settlement(delivery, "release"))


async def new_owner_keeps_it_when_a_stale_delay_comes(harness: BrokerHarness) -> None:
    """A refused `release` with a delay has no effect: the message does not come a second time."""
    await _stale(harness, lambda delivery: Settlement(delivery, "release", delay_s=0.01))


async def nothing_is_published_when_a_stale_replacement_comes(harness: BrokerHarness) -> None:
    """A refused `replace` has no effect: its envelope is not published."""
    await _stale(harness, lambda delivery: Settlement(delivery, "replace", envelope=harness.envelope()))


async def new_owner_keeps_it_when_a_stale_burial_comes(harness: BrokerHarness) -> None:
    """A refused `dead` has no effect: the message stays with its new owner."""
    await _stale(harness, lambda delivery: Settlement(delivery, "dead", reason="Reject"))


async def _stale(harness: BrokerHarness, settlement: Callable[[Delivery], Settlement]) -> None:
    await harness.publish(harness.envelope())
    loser = await harness.consumer(lease=harness.lease)
    (lost,) = await harness.take(loser)
    await harness.lapse()
    heir = await harness.consumer()
    (taken,) = await harness.take(heir)
    assert await loser.settle([settlement(lost)]) == [lost]
    await harness.nothing_is_left()
    await settle(heir, Settlement(taken, "release"))
    third = await harness.consumer()
    (again,) = await harness.take(third)
    losses = 1 if Ability.SEES_STARTS in harness.lacks else 0
    assert (again.id, again.delivery_count, again.losses) == (lost.id, 3, losses)
    await harness.nothing_comes(third)


CLAUSES: Final = (
    message_is_gone_when_it_is_acknowledged,
    message_comes_at_once_when_it_is_released,
    urgent_message_comes_first_when_another_is_released,
    released_messages_keep_their_order_when_they_are_of_one_batch,
    no_loss_is_counted_when_a_started_message_is_released,
    loss_is_counted_when_a_message_is_released_as_lost,
    message_is_unchanged_when_it_is_released,
    message_is_kept_back_when_it_is_released_with_a_delay,
    message_comes_last_when_its_delay_is_over,
    new_message_takes_the_place_when_one_is_replaced,
    new_message_is_kept_back_when_its_envelope_has_a_delay,
    message_is_gone_when_it_is_dead,
    each_is_carried_out_when_the_batch_is_mixed,
    settlement_is_refused_when_another_owns_the_message,
    settlement_is_refused_when_the_delivery_is_settled,
    settlement_is_refused_when_the_message_was_handed_out_again,
    new_owner_keeps_it_when_a_stale_ack_comes,
    new_owner_keeps_it_when_a_stale_release_comes,
    new_owner_keeps_it_when_a_stale_delay_comes,
    nothing_is_published_when_a_stale_replacement_comes,
    new_owner_keeps_it_when_a_stale_burial_comes,
)
