"""The clauses of `aiotask.protocols.FusedFinish`, for subscriptions that have it."""

import asyncio
from typing import Any, Final

from aiotask.message import Finish, Settlement
from aiotask.states import RETRY, STARTED, SUCCESS
from aiotask.testing.harness import FinishHarness, finish, ids, meta, settle, store


async def backend_fuses_when_it_shares_the_link(harness: FinishHarness) -> None:
    """`fuses` is true of a backend on the same link."""
    consumer, backend = await harness.pair()
    assert consumer.fuses(backend)


class _Stranger:
    """A backend of nobody's."""


async def backend_does_not_fuse_when_it_is_a_stranger(harness: FinishHarness) -> None:
    """`fuses` is false of a backend of another kind."""
    consumer, _ = await harness.pair()
    stranger: Any = _Stranger()
    assert not consumer.fuses(stranger)


async def row_is_stored_when_a_delivery_is_finished(harness: FinishHarness) -> None:
    """`finish` stores the row, for every process to read."""
    consumer, backend = await harness.pair()
    await harness.publish(harness.envelope())
    (delivery,) = await harness.take(consumer)
    await finish(consumer, Finish(Settlement(delivery), backend.encode(meta(SUCCESS, delivery.id, 42), 60.0)))
    _, other = await harness.pair()
    (stored,) = await other.fetch([delivery.id])
    assert stored is not None
    assert (stored.state, stored.result) == (SUCCESS, 42)


async def follow_ups_are_published_when_a_delivery_is_finished(harness: FinishHarness) -> None:
    """`finish` publishes the follow-ups, in their order, with their delays."""
    consumer, backend = await harness.pair()
    await harness.publish(harness.envelope())
    (delivery,) = await harness.take(consumer)
    first, second, third = harness.envelope(), harness.envelope(delay_s=60.0), harness.envelope()
    row = backend.encode(meta(SUCCESS, delivery.id), 60.0)
    await finish(consumer, Finish(Settlement(delivery), row, (first, second, third)))
    assert ids(await harness.take(consumer, 2)) == [first.id, third.id]
    await harness.nothing_comes(consumer)


async def message_is_gone_when_it_is_finished(harness: FinishHarness) -> None:
    """`finish` settles: an acknowledged message comes back neither by closing nor by a lapsed lease."""
    consumer, _ = await harness.pair(lease=harness.lease)
    await harness.publish(harness.envelope(), harness.envelope())
    first, second = await harness.take(consumer, 2)
    await finish(consumer, Finish(Settlement(first)))
    await settle(consumer, Settlement(second))
    await harness.lapse()
    await consumer.close()
    await harness.nothing_is_left()


async def each_settlement_is_carried_out_when_finishes_differ(harness: FinishHarness) -> None:
    """A batch of finishes may hold all the actions of a settlement."""
    consumer, backend = await harness.pair()
    await harness.publish(*(harness.envelope() for _ in range(4)))
    acked, released, replaced, dead = await harness.take(consumer, 4)
    retry = harness.envelope(id=replaced.id)
    await finish(
        consumer,
        Finish(Settlement(acked)),
        Finish(Settlement(released, "release")),
        Finish(Settlement(replaced, "replace", envelope=retry), backend.encode(meta(RETRY, replaced.id), 60.0)),
        Finish(Settlement(dead, "dead", reason="Reject")),
    )
    await consumer.close()
    heir = await harness.consumer()
    assert ids(await harness.take(heir, 2)) == [released.id, retry.id]
    await harness.nothing_comes(heir)
    (stored,) = await backend.fetch([replaced.id])
    assert stored is not None
    assert stored.state == RETRY


async def nothing_is_stored_when_a_finish_has_no_row(harness: FinishHarness) -> None:
    """A finish without a row stores nothing of its delivery, and the rows of its batch all the same."""
    consumer, backend = await harness.pair()
    await harness.publish(harness.envelope(), harness.envelope())
    silent, telling = await harness.take(consumer, 2)
    row = backend.encode(meta(SUCCESS, telling.id), 60.0)
    await finish(consumer, Finish(Settlement(silent)), Finish(Settlement(telling), row))
    nothing, stored = await backend.fetch([silent.id, telling.id])
    assert nothing is None
    assert stored is not None


async def nothing_happens_when_the_finish_is_refused(harness: FinishHarness) -> None:
    """A finish of a delivery that is no longer ours is returned; it stores and publishes nothing."""
    consumer, backend = await harness.pair(lease=harness.lease)
    await harness.publish(harness.envelope())
    (lost,) = await harness.take(consumer)
    await harness.lapse()
    heir = await harness.consumer()
    (taken,) = await harness.take(heir)
    late = Finish(Settlement(lost), backend.encode(meta(SUCCESS, lost.id), 60.0), (harness.envelope(),))
    assert await consumer.finish([late]) == [lost]
    assert await backend.fetch([lost.id]) == [None]
    await harness.nothing_is_left()
    await settle(heir, Settlement(taken))


async def the_rest_is_done_when_one_finish_is_refused(harness: FinishHarness) -> None:
    """Each finish is judged by itself: one that is refused does not hold up the others of its batch."""
    consumer, backend = await harness.pair(lease=harness.lease)
    await harness.publish(harness.envelope())
    (lost,) = await harness.take(consumer)
    await harness.lapse()
    await harness.take(await harness.consumer())
    await harness.publish(harness.envelope(), harness.envelope())
    own = await harness.take(consumer, 2)
    after = [harness.envelope() for _ in range(3)]
    batch = [
        Finish(Settlement(delivery), backend.encode(meta(SUCCESS, delivery.id), 60.0), (follow_up,))
        for delivery, follow_up in zip([own[0], lost, own[1]], after, strict=True)
    ]
    assert await consumer.finish(batch) == [lost]
    first, refused, second = await backend.fetch([own[0].id, lost.id, own[1].id])
    assert first is not None
    assert second is not None
    assert refused is None
    heir = await harness.consumer()
    assert ids(await harness.take(heir, 2)) == [after[0].id, after[2].id]
    await harness.nothing_comes(heir)


async def follow_ups_come_once_when_a_delivery_is_finished_twice(harness: FinishHarness) -> None:
    """A second finish of a delivery is refused, in a later batch as in the same: its follow-ups come once."""
    consumer, backend = await harness.pair()
    await harness.publish(harness.envelope())
    (delivery,) = await harness.take(consumer)
    follow_up = harness.envelope()
    done = Finish(Settlement(delivery), backend.encode(meta(SUCCESS, delivery.id), 60.0), (follow_up,))
    assert await consumer.finish([done, done]) == [delivery]
    assert await consumer.finish([done]) == [delivery]
    assert ids(await harness.take(consumer)) == [follow_up.id]
    await harness.nothing_comes(consumer)


async def final_row_stays_when_a_finish_brings_another(harness: FinishHarness) -> None:
    """Rows of a finish obey the rule of `store`: a final state is never replaced, another is."""
    consumer, backend = await harness.pair()
    await harness.publish(harness.envelope(), harness.envelope())
    final, running = await harness.take(consumer, 2)
    await store(backend, meta(SUCCESS, final.id, "first"), meta(STARTED, running.id))
    await finish(
        consumer,
        Finish(Settlement(final), backend.encode(meta(SUCCESS, final.id, "second"), 60.0)),
        Finish(Settlement(running), backend.encode(meta(SUCCESS, running.id, "second"), 60.0)),
    )
    stored = await backend.fetch([final.id, running.id])
    assert [row and row.result for row in stored] == ["first", "second"]


async def watchers_are_told_when_a_delivery_is_finished(harness: FinishHarness) -> None:
    """A row that `finish` stores reaches who watches its id, as one that `store` stores."""
    consumer, backend = await harness.pair()
    _, other = await harness.pair()
    await harness.publish(harness.envelope())
    (delivery,) = await harness.take(consumer)
    async with other.watch([delivery.id]) as changes:
        await finish(consumer, Finish(Settlement(delivery), backend.encode(meta(SUCCESS, delivery.id, 1), 60.0)))
        change = await harness.soon(anext(changes))
    assert (change.id, change.state, change.result) == (delivery.id, SUCCESS, 1)


async def row_is_there_when_a_follow_up_comes(harness: FinishHarness) -> None:
    """All or nothing: who receives a follow-up finds the row stored."""
    consumer, backend = await harness.pair()
    other, elsewhere = await harness.pair()
    await other.set_queues([f"{harness.queue}-next"])
    for _ in range(5):
        await harness.publish(harness.envelope())
        (delivery,) = await harness.take(consumer)
        row = backend.encode(meta(SUCCESS, delivery.id), 60.0)
        follow_up = harness.envelope(queue=f"{harness.queue}-next")
        finishing = asyncio.create_task(finish(consumer, Finish(Settlement(delivery), row, (follow_up,))))
        await harness.take(other)
        stored = await elsewhere.fetch([delivery.id])
        await finishing
        assert stored != [None], "the follow-up came before the row"


async def follow_up_is_there_when_the_row_comes(harness: FinishHarness) -> None:
    """All or nothing: who finds the row stored finds the follow-up published."""
    consumer, backend = await harness.pair()
    other, elsewhere = await harness.pair()
    await other.set_queues([f"{harness.queue}-next"])
    for _ in range(5):
        await harness.publish(harness.envelope())
        (delivery,) = await harness.take(consumer)
        row = backend.encode(meta(SUCCESS, delivery.id), 60.0)
        follow_up = harness.envelope(queue=f"{harness.queue}-next")
        finishing = asyncio.create_task(finish(consumer, Finish(Settlement(delivery), row, (follow_up,))))
        stored = False
        while not (stored or finishing.done()):
            stored = await elsewhere.fetch([delivery.id]) != [None]
            await asyncio.sleep(0)  # a fetch need not yield
        came = await other.receive(1, 0.0)
        await finishing
        assert ids(came) == [follow_up.id], "the row came before the follow-up"


CLAUSES: Final = (
    backend_fuses_when_it_shares_the_link,
    backend_does_not_fuse_when_it_is_a_stranger,
    row_is_stored_when_a_delivery_is_finished,
    follow_ups_are_published_when_a_delivery_is_finished,
    message_is_gone_when_it_is_finished,
    each_settlement_is_carried_out_when_finishes_differ,
    nothing_is_stored_when_a_finish_has_no_row,
    nothing_happens_when_the_finish_is_refused,
    the_rest_is_done_when_one_finish_is_refused,
    follow_ups_come_once_when_a_delivery_is_finished_twice,
    final_row_stays_when_a_finish_brings_another,
    watchers_are_told_when_a_delivery_is_finished,
    row_is_there_when_a_follow_up_comes,
    follow_up_is_there_when_the_row_comes,
)
