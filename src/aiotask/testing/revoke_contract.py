"""The clauses of `aiotask.protocols.Revoking`; `START_CLAUSES` are for those whose subscriptions are `FusedStart`, too.

A subscription that is told may learn of a revoke a moment later: clauses on one that was there before wait until a
message of the id that was revoked last is refused. One that is made later has to know at once.
"""

from collections.abc import Sequence
from typing import Final, cast

from aiotask.exceptions import BrokerError
from aiotask.message import REVOKED_KEPT, Delivery, Settlement, Start, Verdict, new_id
from aiotask.protocols import FusedStart, Revoking, Subscription
from aiotask.testing.harness import (
    LINE,
    Ability,
    BrokerHarness,
    RevokingBroker,
    StartingSubscription,
    begin,
    ids,
    needs,
    settle,
)

_MANY: Final = 10_000
"""More than any broker takes in one of its own steps."""


async def _revoker(harness: BrokerHarness) -> RevokingBroker:
    broker = await harness.broker()
    assert isinstance(broker, Revoking), "it has no revoke()"
    return cast("RevokingBroker", broker)


async def _revoke(harness: BrokerHarness, *task_ids: str) -> None:
    """Revoke by a broker of its own."""
    await (await _revoker(harness)).revoke(task_ids)


async def _learned(harness: BrokerHarness, consumer: Subscription, task_id: str) -> None:
    """Wait until a message of `task_id` is refused to `consumer`, for which no other message waits."""

    async def is_refused() -> bool:
        await harness.publish(harness.envelope(id=task_id))
        [probe] = await harness.take(consumer)
        [verdict] = await consumer.begin([Start(probe)])
        await settle(consumer, Settlement(probe))
        return verdict is Verdict.REVOKED

    await harness.until(is_refused, f"REVOKED of {task_id}, which was revoked")


async def _judged(consumer: Subscription, deliveries: Sequence[Delivery], *, acks_late: bool = False) -> list[str]:
    return [verdict.name for verdict in await consumer.begin([Start(delivery, acks_late) for delivery in deliveries])]


async def only_what_is_revoked_is_refused_when_it_waits(harness: BrokerHarness) -> None:
    """A message that waits is REVOKED when its task was revoked; one beside it runs. It is settled as any other."""
    revoked, other = harness.envelope(), harness.envelope()
    await harness.publish(revoked, other)
    await _revoke(harness, revoked.id)
    consumer = await harness.consumer()
    taken = await harness.take(consumer, 2)
    assert ids(taken) == [revoked.id, other.id]
    assert await _judged(consumer, taken) == ["REVOKED", "RUN"]
    await settle(consumer, *map(Settlement, taken))
    await harness.nothing_is_left()


async def message_is_refused_when_it_is_delayed(harness: BrokerHarness) -> None:
    """What is delayed is REVOKED when it comes."""
    envelope = harness.envelope(delay_s=0.05)
    await harness.publish(envelope)
    await _revoke(harness, envelope.id)
    consumer = await harness.consumer()
    assert await _judged(consumer, await harness.take(consumer)) == ["REVOKED"]


async def message_is_refused_when_it_is_parked(harness: BrokerHarness) -> None:
    """What is parked is REVOKED when it is taken."""
    envelope = harness.envelope()
    await harness.park(envelope)
    await _revoke(harness, envelope.id)
    consumer = await harness.consumer()
    taken = await consumer.unpark({LINE: 1})
    assert ids(taken) == [envelope.id]
    assert await _judged(consumer, taken) == ["REVOKED"]


async def message_is_refused_when_it_was_handed_out_before(harness: BrokerHarness) -> None:
    """What was handed out before the revoke and not begun is REVOKED; what was handed out beside it is not."""
    revoked, other = harness.envelope(), harness.envelope()
    await harness.publish(revoked, other)
    consumer = await harness.consumer()
    taken = await harness.take(consumer, 2)
    await _revoke(harness, revoked.id)
    await _learned(harness, consumer, revoked.id)
    assert await _judged(consumer, taken) == ["REVOKED", "RUN"]


async def message_is_refused_when_it_was_released(harness: BrokerHarness) -> None:
    """What was given back, at once or for later, is REVOKED with whoever gets it."""
    at_once, later = harness.envelope(), harness.envelope()
    await harness.publish(at_once, later)
    holder = await harness.consumer()
    first, second = await harness.take(holder, 2)
    await _revoke(harness, at_once.id, later.id)
    await settle(holder, Settlement(first, "release"), Settlement(second, "release", 0.05))
    await holder.close()
    heir = await harness.consumer()
    assert await _judged(heir, await harness.take(heir, 2)) == ["REVOKED", "REVOKED"]


async def message_is_refused_when_it_was_lost(harness: BrokerHarness) -> None:
    """What was started, revoked, and lost with its consumer is not started again."""
    envelope = harness.envelope()
    await harness.publish(envelope)
    doomed = await harness.consumer(lease=harness.lease)
    await begin(doomed, await harness.take(doomed))
    await _revoke(harness, envelope.id)
    await harness.lapse()
    heir = await harness.consumer()
    assert await _judged(heir, await harness.take(heir), acks_late=True) == ["REVOKED"]


async def message_is_refused_when_it_replaces_one(harness: BrokerHarness) -> None:
    """A new message of the same id, as a retry is one, is REVOKED; to put it in its place is no error."""
    envelope = harness.envelope()
    await harness.publish(envelope)
    holder = await harness.consumer()
    [delivery] = await harness.take(holder)
    await begin(holder, [delivery])
    await _revoke(harness, envelope.id)
    await settle(holder, Settlement(delivery, "replace", envelope=envelope))
    await holder.close()
    heir = await harness.consumer()
    assert await _judged(heir, await harness.take(heir)) == ["REVOKED"]


async def message_is_refused_when_it_is_sent_after_the_revoke(harness: BrokerHarness) -> None:
    """A message that is sent after its task was revoked is REVOKED, in whatever queue."""
    task_id, queues = new_id(), [harness.queue, f"{harness.queue}-other"]
    await _revoke(harness, task_id)
    await harness.publish(*(harness.envelope(id=task_id, queue=queue) for queue in queues))
    consumer = await harness.consumer(*queues)
    assert await _judged(consumer, await harness.take(consumer, 2)) == ["REVOKED", "REVOKED"]


async def message_is_refused_when_the_subscription_is_older(harness: BrokerHarness) -> None:
    """A subscription that was there before the revoke refuses, too, and goes on with the rest."""
    consumer = await harness.consumer()
    task_id = new_id()
    await _revoke(harness, task_id)
    await _learned(harness, consumer, task_id)
    await harness.publish(harness.envelope())
    assert await _judged(consumer, await harness.take(consumer)) == ["RUN"]


async def message_is_left_alone_when_it_was_begun_before(harness: BrokerHarness) -> None:
    """What was begun before the revoke stays its consumer's, who settles it."""
    envelope = harness.envelope()
    await harness.publish(envelope)
    consumer = await harness.consumer()
    taken = await harness.take(consumer)
    await begin(consumer, taken)
    await _revoke(harness, envelope.id)
    await _learned(harness, consumer, envelope.id)
    await harness.nothing_is_left()
    await settle(consumer, Settlement(taken[0]))


@needs(Ability.LEASE_ENDS)
async def loss_is_judged_first_when_a_lost_one_is_revoked(harness: BrokerHarness) -> None:
    """LOST is asked before REVOKED: what another consumer has got is not ours to end."""
    envelope = harness.envelope()
    await harness.publish(envelope)
    loser = await harness.consumer(lease=harness.lease)
    before = await harness.take(loser)
    await _revoke(harness, envelope.id)
    await harness.lapse()
    await harness.take(await harness.consumer())
    assert await _judged(loser, before) == ["LOST"]


async def revoke_is_judged_first_when_it_was_lost_too_often_and_has_expired(harness: BrokerHarness) -> None:
    """REVOKED is asked before STARTED_BEFORE, TOO_MANY_STARTS and EXPIRED."""
    consumer, lost = await harness.lost(max_losses=1)
    late = harness.envelope(expires_at=harness.now() - 1)
    await harness.publish(late)
    [expired] = await harness.take(consumer)
    await _revoke(harness, lost.id, late.id)
    await _learned(harness, consumer, late.id)
    assert await _judged(consumer, [lost, expired], acks_late=True) == ["REVOKED", "REVOKED"]
    assert await _judged(consumer, [lost, expired], acks_late=False) == ["REVOKED", "REVOKED"]


async def verdicts_are_in_order_when_some_of_a_batch_are_revoked(harness: BrokerHarness) -> None:
    """In a batch each verdict stands in its place; what was revoked by several calls adds up."""
    batch = [harness.envelope() for _ in range(30)]
    await harness.publish(*batch)
    await _revoke(harness, *ids(batch[::3]))
    await _revoke(harness, *ids(batch[1::3]))
    consumer = await harness.consumer()
    taken = {delivery.id: delivery for delivery in await harness.take(consumer, len(batch))}
    verdicts = await _judged(consumer, [taken[envelope.id] for envelope in batch])
    assert verdicts == ["REVOKED", "REVOKED", "RUN"] * 10


async def every_id_is_revoked_when_there_are_many(harness: BrokerHarness) -> None:
    """However many ids one call has, all of them are revoked when it returns."""
    many = [new_id() for _ in range(_MANY)]
    await _revoke(harness, *many)
    chosen = [*many[:: _MANY // 20], many[-1]]
    await harness.publish(*(harness.envelope(id=task_id) for task_id in chosen), harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer, len(chosen) + 1)
    assert await _judged(consumer, taken) == ["REVOKED"] * len(chosen) + ["RUN"]


async def id_is_still_revoked_when_many_are_newer(harness: BrokerHarness) -> None:
    """The newest 100,000 ids are kept, and what is revoked again is new."""
    old, first, again = harness.envelope(), harness.envelope(), harness.envelope()
    broker = await _revoker(harness)
    await broker.revoke([again.id])
    await broker.revoke([new_id() for _ in range(_MANY)])
    await broker.revoke([first.id, again.id])
    for _ in range(REVOKED_KEPT // _MANY - 1):
        await broker.revoke([new_id() for _ in range(_MANY)])
    await broker.revoke([new_id() for _ in range(_MANY - 2)])
    await harness.publish(first, again, old)
    consumer = await harness.consumer()
    assert await _judged(consumer, await harness.take(consumer, 3)) == ["REVOKED", "REVOKED", "RUN"]


async def nothing_changes_when_an_id_is_revoked_again(harness: BrokerHarness) -> None:
    """Revoking is idempotent, in one call as in several."""
    envelope = harness.envelope()
    await harness.publish(envelope, harness.envelope())
    broker = await _revoker(harness)
    try:
        await broker.revoke([envelope.id, envelope.id])
        await broker.revoke([envelope.id])
    except BrokerError as error:
        raise AssertionError("what is revoked could not be revoked again") from error
    consumer = await harness.consumer()
    assert await _judged(consumer, await harness.take(consumer, 2)) == ["REVOKED", "RUN"]


async def message_is_refused_when_the_broker_was_closed_and_opened(harness: BrokerHarness) -> None:
    """What was revoked is kept while nobody is connected, as messages are."""
    envelope = harness.envelope()
    broker = await _revoker(harness)
    await broker.publish([envelope])
    await broker.revoke([envelope.id])
    await broker.close()
    await broker.open()
    consumer = await harness.consumer(broker=broker)
    assert await _judged(consumer, await harness.take(consumer)) == ["REVOKED"]


async def error_is_raised_when_the_broker_is_closed(harness: BrokerHarness) -> None:
    """A closed broker raises a `BrokerError`: nobody may believe that it was kept."""
    broker = await _revoker(harness)
    await broker.close()
    try:
        await broker.revoke([new_id()])
    except BrokerError:
        return
    raise AssertionError("revoke() of a closed broker did not raise a BrokerError")


async def message_is_left_to_be_judged_when_it_was_revoked(harness: BrokerHarness) -> None:
    """`FusedStart`: what is revoked is not begun by the step that hands it out, and comes in its place."""
    batch = [harness.envelope() for _ in range(3)]
    await harness.publish(*batch)
    await _revoke(harness, batch[1].id)
    consumer = await harness.consumer()
    assert isinstance(consumer, FusedStart)
    starter = cast("StartingSubscription", consumer)
    taken = await starter.receive_and_begin(3, harness.patience, 3)
    assert ids(taken) == ids(batch)
    assert [delivery.begun for delivery in taken] == [True, False, True]
    assert await _judged(consumer, [taken[1]]) == ["REVOKED"]


CLAUSES: Final = (
    only_what_is_revoked_is_refused_when_it_waits,
    message_is_refused_when_it_is_delayed,
    message_is_refused_when_it_is_parked,
    message_is_refused_when_it_was_handed_out_before,
    message_is_refused_when_it_was_released,
    message_is_refused_when_it_was_lost,
    message_is_refused_when_it_replaces_one,
    message_is_refused_when_it_is_sent_after_the_revoke,
    message_is_refused_when_the_subscription_is_older,
    message_is_left_alone_when_it_was_begun_before,
    loss_is_judged_first_when_a_lost_one_is_revoked,
    revoke_is_judged_first_when_it_was_lost_too_often_and_has_expired,
    verdicts_are_in_order_when_some_of_a_batch_are_revoked,
    every_id_is_revoked_when_there_are_many,
    id_is_still_revoked_when_many_are_newer,
    nothing_changes_when_an_id_is_revoked_again,
    message_is_refused_when_the_broker_was_closed_and_opened,
    error_is_raised_when_the_broker_is_closed,
)

START_CLAUSES: Final = (message_is_left_to_be_judged_when_it_was_revoked,)
