"""The clauses of leases, of losses and of the verdicts of `begin`. Part of `broker_contract.CLAUSES`."""

import asyncio
import time
from typing import Final

from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import Subscription
from aiotask.testing.harness import Ability, BrokerHarness, begin, ids, needs, settle

_STARTED_BY_THEN_S: Final = 1.0
"""A message that expires so late has been started before, on a busy machine too."""


async def message_stays_ours_when_its_lease_lasts(harness: BrokerHarness) -> None:
    """A received message is not handed to another consumer while its lease lasts, started or not."""
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer, 2)
    await begin(consumer, taken[:1])
    await harness.nothing_is_left()


async def message_goes_to_another_when_its_lease_lapses(harness: BrokerHarness) -> None:
    """A message whose lease lapses is handed to another consumer."""
    envelope = harness.envelope(body=b"again", priority=2, expires_at=harness.now() + 3600)
    await harness.publish(envelope)
    doomed = await harness.consumer(lease=harness.lease)
    (before,) = await harness.take(doomed)
    await harness.lapse()
    heir = await harness.consumer()
    (after,) = await harness.take(heir)
    assert (after.id, after.queue, after.body) == (envelope.id, envelope.queue, envelope.body)
    assert (after.content_type, after.priority) == (envelope.content_type, envelope.priority)
    assert after.expires_at == before.expires_at
    assert after.delivery_count == 2
    assert after.receipt != before.receipt


async def waiting_consumer_gets_it_when_a_lease_lapses(harness: BrokerHarness) -> None:
    """A lapsed message reaches a consumer that waits already, on an otherwise idle queue."""
    await harness.publish(harness.envelope())
    doomed = await harness.consumer(lease=harness.lease)
    await harness.take(doomed)
    heir = await harness.consumer(lease=harness.lease)
    waiting = asyncio.create_task(heir.receive(1, 3 * harness.lease + harness.patience))
    await asyncio.sleep(0.05)  # the receive should wait by now; the clause holds if it does not
    await harness.lapse()
    assert len(await harness.soon(waiting)) == 1


async def message_stays_when_only_shorter_leases_lapse(harness: BrokerHarness) -> None:
    """A lease lasts as long as its own subscription asked for."""
    await harness.publish(harness.envelope())
    patient = await harness.consumer()
    await harness.take(patient)
    await harness.consumer(lease=harness.lease)
    await harness.lapse()
    await harness.nothing_is_left()


@needs(Ability.LEASE_ENDS)
async def message_stays_when_its_lease_is_renewed(harness: BrokerHarness) -> None:
    """A renewal extends a lease to a full one from then: the message goes to nobody before that, and then it does."""
    await harness.publish(harness.envelope())
    owner = await harness.consumer(lease=harness.lease)
    (delivery,) = await harness.take(owner)
    keeper = owner.lease_keeper()
    heir = await harness.consumer()
    waiting = asyncio.create_task(heir.receive(1, 4 * harness.lease + harness.patience))
    renewed = 0.0
    for _ in range(3):
        await asyncio.sleep(harness.lease * 0.4)
        renewed = time.monotonic()
        assert not (await asyncio.to_thread(keeper.renew, [delivery.receipt])).lost
    taken = await waiting
    came_after = time.monotonic() - renewed
    keeper.close()
    assert ids(taken) == [delivery.id]
    assert came_after >= harness.lease - 0.01, f"handed out {came_after:.3f} s after a renewal for {harness.lease} s"


async def renewal_steals_nothing_when_another_owns_the_message(harness: BrokerHarness) -> None:
    """A keeper never takes a message back from a consumer that has got it: it says that it is lost."""
    await harness.publish(harness.envelope())
    loser = await harness.consumer(lease=harness.lease)
    (before,) = await harness.take(loser)
    keeper = loser.lease_keeper()
    await harness.lapse()
    heir = await harness.consumer()
    (after,) = await harness.take(heir)
    await asyncio.to_thread(keeper.renew, [before.receipt])
    keeper.close()
    assert await loser.begin([Start(before)]) == [Verdict.LOST]
    await begin(heir, [after])
    await settle(heir, Settlement(after))


async def renewal_names_what_is_lost_when_others_are_kept(harness: BrokerHarness) -> None:
    """`renew` returns exactly the receipts that another consumer owns, and keeps the rest."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer(lease=harness.lease)
    (lost,) = await harness.take(consumer)
    await harness.lapse()
    heir = await harness.consumer()
    await harness.take(heir)
    await harness.publish(harness.envelope())
    (kept,) = await harness.take(consumer)
    keeper = consumer.lease_keeper()
    renewal = await asyncio.to_thread(keeper.renew, [lost.receipt, kept.receipt])
    keeper.close()
    assert list(renewal.lost) == [lost.receipt]


async def renewal_names_the_message_when_it_is_settled(harness: BrokerHarness) -> None:
    """`renew` returns a receipt that is gone because its delivery is settled."""
    await harness.publish(harness.envelope(), harness.envelope())
    consumer = await harness.consumer()
    settled, kept = await harness.take(consumer, 2)
    await settle(consumer, Settlement(settled))
    await asyncio.sleep(0)  # until then it may count as being settled, of which nothing is lost
    keeper = consumer.lease_keeper()
    renewal = await asyncio.to_thread(keeper.renew, [settled.receipt, kept.receipt])
    keeper.close()
    assert list(renewal.lost) == [settled.receipt]


async def message_stays_ours_when_the_keeper_is_closed(harness: BrokerHarness) -> None:
    """`LeaseKeeper.close` leaves the leases as they are."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer)
    keeper = consumer.lease_keeper()
    await asyncio.to_thread(keeper.renew, [taken[0].receipt])
    await asyncio.to_thread(keeper.close)
    await harness.nothing_is_left()
    await begin(consumer, taken)


async def loss_is_counted_when_a_started_message_lapses(harness: BrokerHarness) -> None:
    """A lease that lapses after the start counts as one loss, each time."""
    _, delivery = await harness.lost(times=2)
    assert (delivery.delivery_count, delivery.losses) == (3, 2)


@needs(Ability.SEES_STARTS)
async def no_loss_is_counted_when_an_unstarted_message_lapses(harness: BrokerHarness) -> None:
    """A lease that lapses before the start is no loss."""
    await harness.publish(harness.envelope())
    doomed = await harness.consumer(lease=harness.lease)
    await harness.take(doomed)
    await harness.lapse()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 0


@needs(Ability.SEES_STARTS)
async def no_loss_is_counted_when_the_start_was_refused(harness: BrokerHarness) -> None:
    """A delivery that `begin` did not let run is not started: no loss when its lease lapses."""
    await harness.publish(harness.envelope(expires_at=harness.now() - 1))
    doomed = await harness.consumer(lease=harness.lease)
    (delivery,) = await harness.take(doomed)
    assert await doomed.begin([Start(delivery)]) == [Verdict.EXPIRED]
    await harness.lapse()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 0


async def losses_stay_counted_when_a_message_is_given_back(harness: BrokerHarness) -> None:
    """A message that was lost, and then given back unharmed, is still one that was lost."""
    consumer, delivery = await harness.lost()
    await settle(consumer, Settlement(delivery, "release"))
    (delivery,) = await harness.take(consumer)
    assert delivery.losses == 1
    await consumer.close()
    (delivery,) = await harness.take(await harness.consumer())
    assert delivery.losses == 1


@needs(Ability.PRIORITIES, Ability.AHEAD_AT_ONCE)
async def reclaimed_message_comes_first_when_urgent_ones_wait(harness: BrokerHarness) -> None:
    """A reclaimed message comes ahead of all that waits, whatever the priorities."""
    reclaimed = harness.envelope(priority=9)
    await harness.publish(reclaimed)
    doomed = await harness.consumer(lease=harness.lease)
    await harness.take(doomed)
    urgent = harness.envelope(priority=0)
    await harness.publish(urgent)
    await harness.lapse()
    heir = await harness.consumer()
    assert ids(await harness.take(heir, 2)) == [reclaimed.id, urgent.id]


async def verdicts_come_in_order_when_the_batch_is_mixed(harness: BrokerHarness) -> None:
    """`begin` returns a verdict for each start, in the order of its batch."""
    late = {"expires_at": harness.now() - 1}
    await harness.publish(harness.envelope(), harness.envelope(**late), harness.envelope(), harness.envelope(**late))
    consumer = await harness.consumer()
    deliveries = await harness.take(consumer, 4)
    await settle(consumer, Settlement(deliveries[0]))
    verdicts = await consumer.begin([Start(delivery) for delivery in deliveries])
    assert verdicts == [Verdict.LOST, Verdict.EXPIRED, Verdict.RUN, Verdict.EXPIRED]


async def start_is_lost_when_another_owns_the_message(harness: BrokerHarness) -> None:
    """A delivery that another consumer has got meanwhile is LOST, before all else is asked."""
    await harness.publish(harness.envelope(expires_at=harness.now() - 1))
    loser = await harness.consumer(lease=harness.lease)
    (before,) = await harness.take(loser)
    await harness.lapse()
    await harness.take(await harness.consumer())
    assert await loser.begin([Start(before)]) == [Verdict.LOST]


async def start_is_lost_when_the_delivery_is_settled(harness: BrokerHarness) -> None:
    """A delivery that is settled is nobody's: LOST."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    (delivery,) = await harness.take(consumer)
    await settle(consumer, Settlement(delivery))
    assert await consumer.begin([Start(delivery)]) == [Verdict.LOST]


@needs(Ability.SEES_STARTS)
async def start_is_refused_when_one_was_lost_while_acknowledged_early(harness: BrokerHarness) -> None:
    """What was started and lost does not start again under early acknowledgement: STARTED_BEFORE."""
    consumer, delivery = await harness.lost()
    assert await consumer.begin([Start(delivery, acks_late=False)]) == [Verdict.STARTED_BEFORE]


async def start_is_allowed_when_one_was_lost_while_acknowledged_late(harness: BrokerHarness) -> None:
    """What was started and lost starts again under late acknowledgement, below `max_losses`."""
    consumer, delivery = await harness.lost(times=1, max_losses=2)
    assert await consumer.begin([Start(delivery, acks_late=True)]) == [Verdict.RUN]


async def start_is_refused_when_too_many_were_lost(harness: BrokerHarness) -> None:
    """What was lost `max_losses` times is not begun again: TOO_MANY_STARTS."""
    consumer, delivery = await harness.lost(times=2, max_losses=2)
    assert await consumer.begin([Start(delivery, acks_late=True)]) == [Verdict.TOO_MANY_STARTS]


async def start_is_refused_when_the_message_has_expired(harness: BrokerHarness) -> None:
    """A message past its time is EXPIRED, by `expires_at` as by `ttl_s`."""
    await harness.publish(harness.envelope(expires_at=harness.now() - 1), harness.envelope(ttl_s=0.05))
    consumer = await harness.consumer()
    deliveries = await harness.take(consumer, 2)
    await asyncio.sleep(0.1)
    starts = [Start(delivery) for delivery in deliveries]
    assert await consumer.begin(starts) == [Verdict.EXPIRED, Verdict.EXPIRED]


async def start_is_allowed_when_the_message_has_not_expired(harness: BrokerHarness) -> None:
    """A message before its time may run."""
    await harness.publish(harness.envelope(expires_at=harness.now() + 60), harness.envelope(ttl_s=60.0))
    consumer = await harness.consumer()
    await begin(consumer, await harness.take(consumer, 2))


@needs(Ability.SEES_STARTS)
async def loss_is_judged_first_when_an_early_one_is_lost_too_often(harness: BrokerHarness) -> None:
    """STARTED_BEFORE is asked before TOO_MANY_STARTS and EXPIRED."""
    consumer, delivery = await _lost_and_expired(harness)
    assert await consumer.begin([Start(delivery, acks_late=False)]) == [Verdict.STARTED_BEFORE]


async def number_is_judged_first_when_one_lost_too_often_has_expired(harness: BrokerHarness) -> None:
    """TOO_MANY_STARTS is asked before EXPIRED."""
    consumer, delivery = await _lost_and_expired(harness)
    assert await consumer.begin([Start(delivery, acks_late=True)]) == [Verdict.TOO_MANY_STARTS]


async def _lost_and_expired(harness: BrokerHarness) -> tuple[Subscription, Delivery]:
    expires_at = harness.now() + _STARTED_BY_THEN_S
    lost = await harness.lost(max_losses=1, expires_at=expires_at)
    await harness.pass_by(expires_at)
    return lost


async def delivery_stays_ours_when_its_start_is_refused(harness: BrokerHarness) -> None:
    """All verdicts but LOST leave the delivery with the consumer, who settles it."""
    consumer, delivery = await harness.lost(max_losses=1)
    await harness.publish(harness.envelope(expires_at=harness.now() - 1))
    (expired,) = await harness.take(consumer)
    if Ability.SEES_STARTS not in harness.lacks:
        assert await consumer.begin([Start(delivery)]) == [Verdict.STARTED_BEFORE]
    verdicts = await consumer.begin([Start(delivery, acks_late=True), Start(expired)])
    assert verdicts == [Verdict.TOO_MANY_STARTS, Verdict.EXPIRED]
    await harness.nothing_is_left()
    await settle(consumer, Settlement(delivery), Settlement(expired))


CLAUSES: Final = (
    message_stays_ours_when_its_lease_lasts,
    message_goes_to_another_when_its_lease_lapses,
    waiting_consumer_gets_it_when_a_lease_lapses,
    message_stays_when_only_shorter_leases_lapse,
    message_stays_when_its_lease_is_renewed,
    renewal_steals_nothing_when_another_owns_the_message,
    renewal_names_what_is_lost_when_others_are_kept,
    renewal_names_the_message_when_it_is_settled,
    message_stays_ours_when_the_keeper_is_closed,
    loss_is_counted_when_a_started_message_lapses,
    no_loss_is_counted_when_an_unstarted_message_lapses,
    no_loss_is_counted_when_the_start_was_refused,
    losses_stay_counted_when_a_message_is_given_back,
    reclaimed_message_comes_first_when_urgent_ones_wait,
    verdicts_come_in_order_when_the_batch_is_mixed,
    start_is_lost_when_another_owns_the_message,
    start_is_lost_when_the_delivery_is_settled,
    start_is_refused_when_one_was_lost_while_acknowledged_early,
    start_is_allowed_when_one_was_lost_while_acknowledged_late,
    start_is_refused_when_too_many_were_lost,
    start_is_refused_when_the_message_has_expired,
    start_is_allowed_when_the_message_has_not_expired,
    loss_is_judged_first_when_an_early_one_is_lost_too_often,
    number_is_judged_first_when_one_lost_too_often_has_expired,
    delivery_stays_ours_when_its_start_is_refused,
)
