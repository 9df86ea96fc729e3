"""The clauses of `aiotask.protocols.QueueAdmin`, for brokers that have it. The storage must hold nothing else."""

import asyncio
from typing import Final

from aiotask.message import DEAD_BODY_BYTES, Delivery, Envelope, QueueDepth, Settlement
from aiotask.testing.harness import LINE, Ability, BrokerHarness, begin, ids, settle


async def _bury(harness: BrokerHarness, *envelopes: Envelope) -> list[Delivery]:
    """Publish each and dead-letter it, one after the other, so that each is newer than the one before."""
    queues = {envelope.queue for envelope in envelopes}
    consumer = await harness.consumer(*queues)
    buried = []
    for envelope in envelopes:
        await harness.publish(envelope)
        (delivery,) = await harness.take(consumer)
        await settle(consumer, Settlement(delivery, "dead", reason="Reject", detail="it's <no> good\nat all"))
        buried.append(delivery)
    await consumer.close()
    return buried


async def queues_are_named_when_they_hold_anything(harness: BrokerHarness) -> None:
    """`queues` names every queue with waiting, delayed, parked, handed-out or dead messages, sorted; no other.

    Where nobody can tell what is delayed and handed out (`Ability.COUNTS_HELD`), not those that hold nothing else.
    """
    admin = await harness.admin()
    ready, delayed, reserved, dead, empty, parked = (f"{harness.queue}-{kind}" for kind in "dcbaef")
    await _bury(harness, harness.envelope(queue=dead))
    await harness.publish(
        harness.envelope(queue=ready),
        harness.envelope(queue=delayed, delay_s=60.0),
        harness.envelope(queue=reserved),
        harness.envelope(queue=empty),
    )
    await harness.park(harness.envelope(queue=parked))
    await harness.take(await harness.consumer(reserved))
    emptier = await harness.consumer(empty)
    await settle(emptier, Settlement((await harness.take(emptier))[0]))
    held = [] if Ability.COUNTS_HELD in harness.lacks else [reserved, delayed]
    assert await admin.queues() == [dead, *held, ready, parked]


async def depths_are_counted_when_a_queue_holds_of_each(harness: BrokerHarness) -> None:
    """`depths` counts what is ready, delayed, parked, handed out and dead in each queue, in the order asked.

    Where nobody can tell what is delayed and handed out (`Ability.COUNTS_HELD`), those are 0.
    """
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    await _bury(harness, harness.envelope())
    for line in ("a", "b"):
        await harness.park(harness.envelope(priority=8), *(harness.envelope() for _ in range(2)), line=line)
    await harness.publish(*(harness.envelope() for _ in range(5)))
    await harness.take(await harness.consumer(), 2)
    await harness.publish(
        harness.envelope(priority=0), *(harness.envelope(delay_s=60.0) for _ in range(3)), harness.envelope(queue=other)
    )
    delayed, reserved = (0, 0) if Ability.COUNTS_HELD in harness.lacks else (3, 2)
    assert await admin.depths([other, f"{harness.queue}-unknown", harness.queue]) == [
        QueueDepth(other, ready=1),
        QueueDepth(f"{harness.queue}-unknown"),
        QueueDepth(harness.queue, ready=4, delayed=delayed, parked=6, reserved=reserved, dead=1),
    ]


async def waiting_messages_are_dropped_when_a_queue_is_purged(harness: BrokerHarness) -> None:
    """`purge` drops what waits, is delayed or parked in the queues named, and returns how many.

    Where nobody can (`Ability.COUNTS_HELD`), what is delayed stays.
    """
    admin = await harness.admin()
    spared = harness.envelope(queue=f"{harness.queue}-third")
    await harness.park(spared, harness.envelope(), harness.envelope(priority=8))
    others = [harness.envelope(queue=f"{harness.queue}-other"), harness.envelope(queue=f"{harness.queue}-third")]
    delayed = [harness.envelope(delay_s=0.05), harness.envelope(delay_s=60.0)]
    if Ability.COUNTS_HELD in harness.lacks:
        delayed = []
    await harness.publish(harness.envelope(), harness.envelope(priority=9), *delayed)
    await harness.publish(*others)
    assert await admin.purge([harness.queue, others[0].queue]) == 5 + len(delayed)
    consumer = await harness.consumer(harness.queue, *(envelope.queue for envelope in others))
    assert ids(await harness.take(consumer)) == [others[1].id]
    assert ids(await consumer.unpark({LINE: 10})) == [spared.id]
    await harness.nothing_comes(consumer)
    assert await admin.purge([harness.queue]) == 0


async def consumers_are_counted_when_they_subscribe(harness: BrokerHarness) -> None:
    """`consumers` counts the subscriptions of each queue, in the order asked, whatever process they are of."""
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    await harness.consumer()
    await harness.consumer(harness.queue, other)
    assert await admin.consumers([other, f"{harness.queue}-unknown", harness.queue]) == [1, 0, 2]


async def consumer_counts_for_its_new_queues_when_others_are_set(harness: BrokerHarness) -> None:
    """A subscription counts for the queues that it was given last."""
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    consumer = await harness.consumer()
    await consumer.set_queues([other])
    assert await admin.consumers([harness.queue, other]) == [0, 1]


async def consumer_counts_no_more_when_it_is_closed(harness: BrokerHarness) -> None:
    """A closed subscription is not counted."""
    admin = await harness.admin()
    gone, _ = await harness.consumer(), await harness.consumer()
    await harness.nothing_comes(gone)
    await gone.close()
    assert await admin.consumers([harness.queue]) == [1]


async def consumer_still_counts_when_it_waits_for_longer_than_a_lease(harness: BrokerHarness) -> None:
    """A subscription that is in `receive` is there, however long nothing comes."""
    admin = await harness.admin()
    consumer = await harness.consumer(lease=harness.lease)

    async def counted() -> bool:
        return await admin.consumers([harness.queue]) == [1]

    waiting = asyncio.create_task(consumer.receive(1, 3600.0))
    for _ in range(2):
        await harness.lapse()
        await harness.until(counted, "the consumer is counted")
    await harness.publish(harness.envelope())
    await waiting


async def consumer_still_counts_when_it_only_renews(harness: BrokerHarness) -> None:
    """A subscription that has its hands full, and so does not receive, is there while it renews its leases."""
    admin = await harness.admin()
    await harness.publish(harness.envelope())
    consumer = await harness.consumer(lease=harness.lease)
    (delivery,) = await harness.take(consumer)
    keeper = consumer.lease_keeper()
    for _ in range(4):
        await asyncio.sleep(harness.lease * 0.4)
        await asyncio.to_thread(keeper.renew, [delivery.receipt])
    keeper.close()
    assert await admin.consumers([harness.queue]) == [1]


async def other_messages_stay_when_a_queue_is_purged(harness: BrokerHarness) -> None:
    """`purge` leaves handed-out messages and dead letters."""
    admin = await harness.admin()
    (buried,) = await _bury(harness, harness.envelope())
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    taken = await harness.take(consumer)
    assert await admin.purge([harness.queue]) == 0
    await begin(consumer, taken)
    await settle(consumer, Settlement(taken[0]))
    assert [letter.id for letter in await admin.dead_letters()] == [buried.id]


async def letter_says_what_died_when_a_message_is_dead(harness: BrokerHarness) -> None:
    """A dead letter has the message, the reason and the detail, and when it was."""
    admin = await harness.admin()
    before = harness.now()
    envelope = harness.envelope(body=bytes(range(256)), priority=2)
    await _bury(harness, envelope)
    (letter,) = await admin.dead_letters()
    assert (letter.id, letter.queue, letter.priority) == (envelope.id, envelope.queue, envelope.priority)
    assert (letter.body, letter.body_bytes) == (envelope.body, 256)
    assert letter.content_type == envelope.content_type
    assert (letter.reason, letter.detail) == ("Reject", "it's <no> good\nat all")
    assert before - 0.01 <= letter.died_at <= harness.now() + 0.01


async def body_is_cut_when_a_long_message_is_dead(harness: BrokerHarness) -> None:
    """A dead letter keeps 64 KiB of the body and says how long it was; a body of just that length is whole."""
    admin = await harness.admin()
    whole, long = b"w" * DEAD_BODY_BYTES, b"l" * DEAD_BODY_BYTES + b"!"
    await _bury(harness, harness.envelope(body=whole), harness.envelope(body=long))
    cut, kept = await admin.dead_letters()
    assert (kept.body, kept.body_bytes) == (whole, DEAD_BODY_BYTES)
    assert (cut.body, cut.body_bytes) == (long[:DEAD_BODY_BYTES], DEAD_BODY_BYTES + 1)


async def newest_letters_come_first_when_there_are_many(harness: BrokerHarness) -> None:
    """`dead_letters` returns the newest first, `limit` of them, over all queues."""
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    buried = await _bury(harness, *(harness.envelope(queue=name) for name in (harness.queue, other, harness.queue)))
    assert [letter.id for letter in await admin.dead_letters()] == ids(buried)[::-1]
    assert [letter.id for letter in await admin.dead_letters(limit=2)] == ids(buried)[:0:-1]


async def letters_of_one_queue_come_when_it_is_named(harness: BrokerHarness) -> None:
    """`dead_letters` of queues returns theirs only."""
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    buried = await _bury(harness, harness.envelope(), harness.envelope(queue=other))
    assert [letter.id for letter in await admin.dead_letters([other])] == [buried[1].id]
    assert await admin.dead_letters([f"{harness.queue}-unknown"]) == []


async def letters_are_found_when_their_ids_are_given(harness: BrokerHarness) -> None:
    """`find_dead` returns the letters of the ids, the newest first, all of one id; they stay where they are."""
    admin = await harness.admin()
    envelope = harness.envelope()
    buried = await _bury(harness, envelope, harness.envelope(), envelope, harness.envelope())
    wanted = [buried[0].id, buried[3].id, "unknown"]
    for _ in range(2):
        found = [letter.id for letter in await admin.find_dead(wanted)]
        assert found == [buried[3].id, buried[0].id, buried[0].id]


async def message_comes_again_when_its_letter_is_replayed(harness: BrokerHarness) -> None:
    """`replay_dead` puts the message back, due now, unchanged, with nothing counted against it; the letter is gone."""
    admin = await harness.admin()
    consumer, delivery = await harness.lost(body=b"again", priority=1)
    await settle(consumer, Settlement(delivery, "dead", reason="WorkerLost"))
    (other,) = await _bury(harness, harness.envelope())
    assert await admin.replay_dead([delivery.id, "unknown"]) == [delivery.id]
    (again,) = await harness.take(consumer)
    assert (again.id, again.queue, again.body) == (delivery.id, delivery.queue, b"again")
    assert (again.content_type, again.priority) == (delivery.content_type, delivery.priority)
    assert (again.delivery_count, again.losses) == (1, 0)
    await harness.nothing_comes(consumer)
    assert [letter.id for letter in await admin.dead_letters()] == [other.id]


async def letter_stays_when_its_body_was_cut(harness: BrokerHarness) -> None:
    """`replay_dead` leaves a letter whose body was cut, and does not name it; the others are put back."""
    admin = await harness.admin()
    cut, whole = await _bury(harness, harness.envelope(body=b"l" * (DEAD_BODY_BYTES + 1)), harness.envelope())
    assert await admin.replay_dead([cut.id, whole.id]) == [whole.id]
    consumer = await harness.consumer()
    assert ids(await harness.take(consumer)) == [whole.id]
    await harness.nothing_comes(consumer)
    assert [letter.id for letter in await admin.dead_letters()] == [cut.id]


async def letters_are_dropped_when_they_are_purged(harness: BrokerHarness) -> None:
    """`purge_dead` drops the letters of the queues named, then of all, and returns how many; messages stay."""
    admin = await harness.admin()
    other = f"{harness.queue}-other"
    buried = await _bury(harness, harness.envelope(), harness.envelope(queue=other), harness.envelope(queue=other))
    waiting = harness.envelope(queue=other)
    await harness.publish(waiting)
    assert await admin.purge_dead([other]) == 2
    assert [letter.id for letter in await admin.dead_letters()] == [buried[0].id]
    assert await admin.purge_dead() == 1
    assert await admin.dead_letters() == []
    assert ids(await harness.take(await harness.consumer(other))) == [waiting.id]


async def no_letter_is_left_when_a_stale_burial_comes(harness: BrokerHarness) -> None:
    """A refused `dead` has no effect: there is no letter of it."""
    admin = await harness.admin()
    await harness.publish(harness.envelope())
    loser = await harness.consumer(lease=harness.lease)
    (lost,) = await harness.take(loser)
    await harness.lapse()
    await harness.take(await harness.consumer())
    assert await loser.settle([Settlement(lost, "dead", reason="Reject")]) == [lost]
    assert await admin.dead_letters() == []


CLAUSES: Final = (
    queues_are_named_when_they_hold_anything,
    depths_are_counted_when_a_queue_holds_of_each,
    waiting_messages_are_dropped_when_a_queue_is_purged,
    other_messages_stay_when_a_queue_is_purged,
    consumers_are_counted_when_they_subscribe,
    consumer_counts_for_its_new_queues_when_others_are_set,
    consumer_counts_no_more_when_it_is_closed,
    consumer_still_counts_when_it_waits_for_longer_than_a_lease,
    consumer_still_counts_when_it_only_renews,
    letter_says_what_died_when_a_message_is_dead,
    body_is_cut_when_a_long_message_is_dead,
    newest_letters_come_first_when_there_are_many,
    letters_of_one_queue_come_when_it_is_named,
    letters_are_found_when_their_ids_are_given,
    message_comes_again_when_its_letter_is_replayed,
    letter_stays_when_its_body_was_cut,
    letters_are_dropped_when_they_are_purged,
    no_letter_is_left_when_a_stale_burial_comes,
)
