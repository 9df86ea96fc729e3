"""Doubles for `broker_contract`."""

import asyncio
import heapq
from collections.abc import Sequence
from typing import Any

import msgspec

from aiotask.brokers.memory import MemoryBroker, MemorySubscription
from aiotask.connections.memory import Holding, MessageStore
from aiotask.exceptions import BrokerError
from aiotask.message import Delivery, Envelope
from aiotask.testing import broker_contract as c

from .registry import breaks


@breaks(c.link_is_up_when_the_broker_is_open)
class NeverConnected(MemoryBroker):
    connected = False  # type: ignore[assignment]


@breaks(c.link_is_down_when_the_broker_is_closed)
class AlwaysConnected(MemoryBroker):
    connected = True  # type: ignore[assignment]


@breaks(c.closing_does_nothing_when_the_broker_is_closed)
class ClosesOnce(MemoryBroker):
    complained = False

    async def close(self) -> None:
        if not self._open and not self.complained:
            self.complained = True
            self._must_be_open()
        await super().close()


@breaks(c.messages_flow_when_a_closed_broker_is_opened_again)
class ForgetsAtClosing(MemoryBroker):
    async def close(self) -> None:
        await super().close()
        self._messages.queues.clear()


@breaks(c.message_is_stored_when_publish_returns)
class PublishesByAndBy(MemoryBroker):
    async def publish(self, batch: Sequence[Envelope]) -> None:
        asyncio.get_running_loop().call_later(0.01, self._later, batch)

    def _later(self, batch: Sequence[Envelope]) -> None:
        if self._open:
            self._messages.add(batch)


class Altering(MemoryBroker):
    """Publishes something else than it is given."""

    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {}

    async def publish(self, batch: Sequence[Envelope]) -> None:
        await super().publish([msgspec.structs.replace(envelope, **self.altered(envelope)) for envelope in batch])


@breaks(c.every_message_is_stored_when_a_batch_is_mixed)
class OneQueueForABatch(MemoryBroker):
    async def publish(self, batch: Sequence[Envelope]) -> None:
        await super().publish([envelope for envelope in batch if envelope.queue == batch[0].queue])


@breaks(c.both_messages_come_when_they_share_an_id)
class OneMessageForAnId(MemoryBroker):
    async def publish(self, batch: Sequence[Envelope]) -> None:
        await super().publish(list({envelope.id: envelope for envelope in batch}.values()))


@breaks(c.queue_is_made_when_it_is_subscribed)
class MakesNoQueues(MemoryBroker):
    async def subscribe(self, queues: Sequence[str], **options: Any) -> MemorySubscription:
        if not self._messages.queues.keys() >= set(queues):
            raise BrokerError("no such queue")
        return await super().subscribe(queues, **options)


@breaks(c.delivery_says_what_was_published_when_it_is_received)
class LosesTheContentType(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"content_type": "application/octet-stream"}


@breaks(c.delivery_never_expires_when_no_time_was_given)
class ExpiresByItself(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"expires_at": envelope.expires_at or self.link.clock() + 3600}


@breaks(c.expiry_counts_from_publishing_when_a_time_to_live_is_given)
class LivesTooLong(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"ttl_s": envelope.ttl_s and envelope.ttl_s + 0.5}


@breaks(c.message_comes_when_its_due_time_has_passed)
class KnowsNoPast(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"due_at": envelope.due_at and abs(envelope.due_at - self.link.clock()) + self.link.clock()}


@breaks(c.message_is_kept_back_when_it_is_not_due)
class KnowsNoDelay(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"delay_s": None, "due_at": None}


@breaks(c.delayed_message_comes_in_time_when_a_consumer_waits)
class DelaysTooLong(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"delay_s": envelope.delay_s and envelope.delay_s + 0.55}


@breaks(c.delayed_message_comes_in_time_when_a_consumer_waits)
class DelaysTooShort(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"delay_s": envelope.delay_s and envelope.delay_s - 0.05}


@breaks(c.message_comes_at_its_time_when_a_due_time_is_given)
class DueTooLate(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"due_at": envelope.due_at and envelope.due_at + 0.55}


@breaks(c.message_comes_at_its_time_when_a_due_time_is_given)
class DueTooEarly(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"due_at": envelope.due_at and envelope.due_at - 0.05}


@breaks(c.message_comes_in_time_when_a_later_one_was_waited_for)
class SleepsUntilTheFirstItKnew(MessageStore):
    def _delay(self, delivery: Delivery, due_at: float) -> None:
        heapq.heappush(self.delayed, (due_at, delivery.receipt, delivery))


@breaks(c.messages_come_as_published_when_they_share_a_priority)
class LastInFirstOut(MemoryBroker):
    async def publish(self, batch: Sequence[Envelope]) -> None:
        await super().publish(batch[::-1])


@breaks(c.urgent_messages_come_first_when_priorities_differ)
class HasFewPriorities(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"priority": min(envelope.priority, 5)}


@breaks(c.urgent_message_overtakes_when_it_is_published_later)
class SortsABatchOnly(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"priority": 5}

    async def publish(self, batch: Sequence[Envelope]) -> None:
        await super().publish(sorted(batch, key=lambda envelope: envelope.priority))


@breaks(c.messages_come_as_they_become_due_when_delays_differ)
class KeepsTheOrderOfPublishing(MessageStore):
    def promote(self, now: float) -> None:
        due = sorted(entry for entry in self.delayed if entry[0] <= now)
        order = sorted(due, key=lambda entry: entry[1])
        self.delayed[: len(due)] = [
            (due_at, receipt, delivery) for (due_at, _, _), (_, receipt, delivery) in zip(due, order, strict=True)
        ]
        super().promote(now)


@breaks(c.receive_stops_at_its_limit_when_more_waits)
class TakesOneMore(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        return await super().receive(max_items + 1, wait)


@breaks(c.receive_returns_what_there_is_when_it_could_take_more)
class WaitsForAll(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        while taken and len(taken) < max_items:
            taken += await super().receive(max_items - len(taken), wait)
        return taken


@breaks(c.receive_waits_its_time_when_nothing_comes)
class DoesNotWait(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        await asyncio.sleep(0)
        return await super().receive(max_items, 0.0)


@breaks(c.receive_is_woken_when_a_message_is_published)
class SleepsItsTime(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        if not (taken := await super().receive(max_items, 0.0)):
            await asyncio.sleep(wait)
        return taken or await super().receive(max_items, 0.0)


@breaks(c.message_comes_when_a_receive_was_cancelled)
class TakesAfterTheCancelling(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        return await asyncio.shield(asyncio.ensure_future(super().receive(max_items, wait)))


@breaks(c.message_goes_to_one_when_many_consume)
class HandsOutTwice(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        self._messages.give_back([delivery for delivery in taken if delivery.delivery_count == 1])
        return taken


@breaks(c.message_stays_when_its_queue_is_not_subscribed)
class TakesFromEveryQueue(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        self._queues = list(self._messages.queues.values())
        return await super().receive(max_items, wait)


@breaks(c.messages_of_every_queue_come_when_several_are_subscribed)
class TakesFromOneQueue(MemoryBroker):
    async def subscribe(self, queues: Sequence[str], **options: Any) -> MemorySubscription:
        return await super().subscribe(queues[:1], **options)


@breaks(c.messages_of_every_queue_come_when_several_are_subscribed)
class EmptiesOneQueueFirst(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        queues = self._queues
        for queue in queues:
            self._queues = [queue]
            if taken := await super().receive(max_items, 0.0):
                break
        self._queues = queues
        return taken


@breaks(c.new_queues_are_consumed_when_they_are_set)
class KeepsItsQueues(MemorySubscription):
    async def set_queues(self, queues: Sequence[str]) -> None:
        pass


@breaks(c.old_queues_are_left_alone_when_others_are_set)
class AddsQueues(MemorySubscription):
    async def set_queues(self, queues: Sequence[str]) -> None:
        self._queues = [*self._queues, *self._named(queues)]


class HandsBack(MemorySubscription):
    def hand_back(self) -> None:
        held = list(self._holding.deliveries.values())
        self._holding.deliveries.clear()
        self._holding.forget([delivery.receipt for delivery in held])
        self._messages.give_back(held)


@breaks(c.received_message_stays_ours_when_other_queues_are_set)
class BeginsAnew(HandsBack):
    async def set_queues(self, queues: Sequence[str]) -> None:
        self.hand_back()
        await super().set_queues(queues)


@breaks(c.unsettled_messages_come_back_when_the_subscription_is_closed)
class KeepsWhatItHas(MemorySubscription):
    async def close(self) -> None:
        self._holding = Holding(self._holding.lease_s)
        await super().close()


@breaks(c.started_message_counts_as_lost_when_the_subscription_is_closed)
class ForgetsWhatWasStarted(MemorySubscription):
    async def close(self) -> None:
        self._holding.started.clear()
        await super().close()


@breaks(c.nothing_unstarted_counts_as_lost_when_the_subscription_is_closed)
class CountsClosingAsALoss(MemorySubscription):
    async def close(self) -> None:
        for delivery in self._holding.deliveries.values():
            delivery.losses += 1
        await super().close()


@breaks(c.closing_does_nothing_when_the_subscription_is_closed)
class ClosesTwice(HandsBack):
    async def close(self) -> None:
        closed = self._closed
        await super().close()
        if closed:
            (self._holding,) = self._messages.holdings
            self.hand_back()


@breaks(c.open_says_so_when_there_is_no_server)
class OpensAnyway(MemoryBroker):
    pass
