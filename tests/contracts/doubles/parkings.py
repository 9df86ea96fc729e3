"""Doubles for `park_contract`."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence

import msgspec

from aiotask.brokers.memory import MemoryBroker, MemoryLeaseKeeper, MemorySubscription
from aiotask.connections.memory import Holding, MemoryQueue, MessageStore
from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import Renewal
from aiotask.testing import park_contract as c

from .registry import breaks
from .settlements import Fenceless


@breaks(c.parked_message_is_kept_back_when_consumers_receive)
class ParksInTheQueue(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        self.give_back([delivery])


@breaks(c.parked_message_is_kept_back_when_consumers_receive, c.settlement_is_refused_when_the_delivery_is_parked)
class KeepsItsLease(MemorySubscription):
    def _settle(self, batch: Sequence[Settlement]) -> list[int]:
        held = dict(self._holding.deliveries)
        refused = super()._settle(batch)
        parked = [held.get(settlement.delivery.receipt) for settlement in batch if settlement.action == "park"]
        self._holding.hold([own for own in parked if own is not None], self._link.clock() + self._holding.lease_s)
        self._messages.holdings.add(self._holding)
        self._messages._scan_at = 0.0
        return refused


@breaks(c.settlement_is_refused_when_the_delivery_is_parked)
class ParksInSilence(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        await super().settle(batch)
        return []


class Unparks(MemorySubscription):
    """Does something with what it has unparked."""

    def unparked(self, taken: list[Delivery]) -> None:
        pass

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        taken = await super().unpark(lines)
        self.unparked(taken)
        return taken


@breaks(c.parked_message_comes_when_its_line_is_unparked)
class UnparksNothing(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        return []


@breaks(
    c.parked_message_comes_when_its_line_is_unparked,
    c.unparked_message_stays_ours_when_its_lease_lasts,
    c.parked_messages_go_to_one_when_many_unpark,
)
class LeavesACopyInTheLine(Unparks):
    def unparked(self, taken: list[Delivery]) -> None:
        for delivery in taken:
            if delivery.body == b"body":  # once
                self._messages.park(msgspec.structs.replace(delivery, body=b"copy"), delivery.line or "")


class Alters(Unparks):
    """Gets a field of what it unparks wrong."""

    fields: dict[str, object] = {}

    def unparked(self, taken: list[Delivery]) -> None:
        for delivery in taken:
            for name, value in self.fields.items():
                setattr(delivery, name, value)


@breaks(c.message_is_unchanged_when_it_is_unparked)
class NamesNoLine(Alters):
    fields = {"line": None}


@breaks(c.message_is_unchanged_when_it_is_unparked)
class ForgetsThePriority(Alters):
    fields = {"priority": 5}


@breaks(c.message_is_unchanged_when_it_is_unparked, c.start_is_refused_when_a_parked_message_has_expired)
class ForgetsTheExpiry(Alters):
    fields = {"expires_at": None}


@breaks(c.message_is_unchanged_when_it_is_unparked)
class LosesTheBody(Alters):
    fields = {"body": b""}


@breaks(c.nothing_is_counted_when_a_message_is_parked)
class CountsParkingAsALoss(Alters):
    fields = {"losses": 1}


@breaks(c.nothing_is_counted_when_a_message_is_parked)
class CountsTheDelivery(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(msgspec.structs.replace(delivery, delivery_count=delivery.delivery_count + 1), line)


@breaks(c.losses_stay_counted_when_a_message_is_parked)
class ForgivesWhatIsParked(Alters):
    fields = {"losses": 0}


@breaks(c.losses_stay_counted_when_a_message_is_parked)
class CountsDeliveriesAnew(Alters):
    fields = {"delivery_count": 1}


@breaks(c.no_line_is_named_when_a_message_comes_from_its_queue)
class NamesALineAlways(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        for delivery in taken:
            delivery.line = delivery.line or ""
        return taken


@breaks(c.start_is_refused_when_a_parked_message_has_expired)
class DropsWhatHasExpired(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        now = self._link.clock()
        return [delivery for delivery in await super().unpark(lines) if (delivery.expires_at or now) >= now]


@breaks(c.unpark_stops_at_its_numbers_when_more_is_parked)
class UnparksAll(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        return await super().unpark(dict.fromkeys(lines, 100))


@breaks(c.unpark_stops_at_its_numbers_when_more_is_parked)
class UnparksOneLineACall(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        (first, number), *_ = lines.items()
        return await super().unpark({first: number})


@breaks(c.other_lines_are_left_alone_when_one_is_unparked)
class HasOneLine(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(delivery, "the line")

    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        return super().unpark(queues, {"the line": sum(lines.values())}, holding)


@breaks(c.unpark_returns_at_once_when_nothing_is_parked)
class WaitsForWhatIsParked(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        while not (taken := await super().unpark(lines)):
            await asyncio.sleep(0.01)
        return taken


@breaks(c.unpark_returns_at_once_when_nothing_is_parked)
class TakesFromTheQueueToo(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        return await super().unpark(lines) or await self.receive(sum(lines.values()), 0.0)


@breaks(c.parked_messages_come_as_parked_when_they_share_a_priority)
class KeepsTheOrderOfPublishing(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(delivery, line)
        parked = self.queue(delivery.queue).parked[line]
        parked[:] = sorted((priority, int(held.id, 16), held) for priority, _, held in parked)


@breaks(c.parked_messages_come_as_parked_when_they_share_a_priority)
class TakesTheLastFirst(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(delivery, line)
        parked = self.queue(delivery.queue).parked[line]
        parked[:] = sorted((priority, -abs(number), held) for priority, number, held in parked)


@breaks(c.urgent_parked_messages_come_first_when_priorities_differ)
class ParksWithoutPriority(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(delivery, line)
        parked = self.queue(delivery.queue).parked[line]
        parked[:] = sorted((0, number, held) for _, number, held in parked)


@breaks(c.parked_message_stays_when_its_queue_is_not_subscribed)
class SeesEveryLine(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        return self._messages.unpark(list(self._messages.queues.values()), lines, self._holding)


@breaks(c.parked_message_stays_when_its_queue_is_not_subscribed)
class UnparksFromItsFirstQueues(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        self._first = getattr(self, "_first", self._queues)
        return self._messages.unpark(self._first, lines, self._holding)


@breaks(c.lines_of_every_queue_are_taken_when_several_are_subscribed)
class UnparksFromOneQueue(MessageStore):
    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        return super().unpark(queues[:1], lines, holding)


@breaks(c.lines_of_every_queue_are_taken_when_several_are_subscribed)
class UnparksSoManyOfEachQueue(MessageStore):
    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        taken = [delivery for queue in queues for delivery in super(type(self), self).unpark([queue], lines, holding)]
        return sorted(taken, key=lambda delivery: (delivery.priority, delivery.receipt))


@breaks(c.lines_of_every_queue_are_taken_when_several_are_subscribed)
class UnparksOneQueueFirst(MessageStore):
    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        taken: list[Delivery] = []
        for queue in queues:
            rest = {line: number - len(taken) for line, number in lines.items()}
            taken += super().unpark([queue], rest, holding)
        return taken


@breaks(c.parked_message_stays_when_its_broker_is_closed)
class ForgetsTheLinesAtClosing(MemoryBroker):
    async def close(self) -> None:
        await super().close()
        for queue in self._messages.queues.values():
            queue.parked.clear()


@breaks(c.parked_message_stays_when_its_broker_is_closed)
class EmptiesTheLinesAtClosing(MemoryBroker):
    async def close(self) -> None:
        await super().close()
        for queue in self._messages.queues.values():
            held = [delivery for parked in queue.parked.values() for _, _, delivery in parked]
            queue.parked.clear()
            self._messages.give_back(held)


@breaks(c.parked_messages_go_to_one_when_many_unpark)
class LosesARace(MemorySubscription):
    running = 0

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        LosesARace.running += 1
        try:
            await asyncio.sleep(0)
            alone = LosesARace.running == 1
            taken = await super().unpark(lines)
        finally:
            LosesARace.running -= 1
        return taken if alone else taken[1:]


@breaks(c.message_comes_when_an_unpark_was_cancelled)
class UnparksAfterTheCancelling(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        taken = await super().unpark(lines)
        await asyncio.sleep(0)
        return taken


@breaks(c.nothing_is_counted_when_an_unpark_was_cut_off_by_closing)
class BeginsAsItUnparks(Unparks):
    def unparked(self, taken: list[Delivery]) -> None:
        self._holding.started.update(dict.fromkeys(delivery.receipt for delivery in taken))


@breaks(c.unparked_message_stays_ours_when_its_lease_lasts)
class UnparksWithoutALease(Unparks):
    def unparked(self, taken: list[Delivery]) -> None:
        self._holding.until.update(dict.fromkeys([delivery.receipt for delivery in taken], 0.0))
        self._messages._scan_at = 0.0


@breaks(c.unparked_message_stays_ours_when_its_lease_is_renewed)
class RenewsWhatItReceived(MemorySubscription):
    def lease_keeper(self) -> MemoryLeaseKeeper:
        class Keeper(MemoryLeaseKeeper):
            def renew(self, receipts: Sequence[Hashable]) -> Renewal:
                held = self._holding.deliveries.values()
                unparked = {delivery.receipt for delivery in held if delivery.line is not None}
                super().renew([receipt for receipt in receipts if receipt not in unparked])
                return Renewal([])

        return Keeper(self._link, self._holding)


@breaks(c.unparked_message_stays_ours_when_its_lease_is_renewed)
class BeginsWhatItReceived(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [
            Verdict.LOST if start.delivery.line is not None else verdict
            for start, verdict in zip(batch, verdicts, strict=True)
        ]


class GoesBackIntoItsLine(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.line is None:
                super().give_back([delivery])
            else:
                self.park(delivery, delivery.line)


@breaks(
    c.unparked_message_comes_by_receive_when_it_is_released,
    c.unparked_message_comes_by_receive_when_the_subscription_is_closed,
)
class GivesBackIntoTheLine(GoesBackIntoItsLine):
    pass


@breaks(c.next_in_line_comes_when_one_before_it_was_lost)
class GivesATurnToWhatWasLost(MemorySubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        self._messages.reclaim(self._link.clock())
        lost = sum(len(queue.line(-1)) for queue in self._queues)
        return await super().unpark({line: number - lost for line, number in lines.items()})


@breaks(
    c.unparked_message_comes_by_receive_when_its_lease_lapses,
    c.next_in_line_comes_when_one_before_it_was_lost,
)
class ReclaimsIntoTheLine(MessageStore):
    def reclaim(self, now: float) -> None:
        lines = {delivery.id: delivery.line for holding in self.holdings for delivery in holding.deliveries.values()}
        super().reclaim(now)
        for queue in self.queues.values():
            for delivery in tuple(queue.line(-1)):
                line = lines.get(delivery.id)
                if line is not None:
                    queue.line(-1).remove(delivery)
                    self.park(delivery, line)


class RemembersTheLine(MessageStore):
    """Names the line once more when what came from it is received."""

    def __init__(self, clock: object) -> None:
        super().__init__(clock)  # type: ignore[arg-type]
        self._lines: dict[str, str] = {}

    def park(self, delivery: Delivery, line: str) -> None:
        self._lines[delivery.id] = line
        super().park(delivery, line)

    def take(self, queues: Sequence[MemoryQueue], limit: int, holding: Holding) -> list[Delivery]:
        taken = super().take(queues, limit, holding)
        for delivery in taken:
            delivery.line = self._lines.get(delivery.id)
        return taken


@breaks(
    c.unparked_message_comes_by_receive_when_its_lease_lapses,
    c.unparked_message_comes_by_receive_when_it_is_released,
    c.unparked_message_comes_by_receive_when_the_subscription_is_closed,
)
class NamesTheLineAgain(RemembersTheLine):
    pass


@breaks(c.unparked_message_comes_by_receive_when_the_subscription_is_closed)
class KeepsWhatItUnparked(MemorySubscription):
    async def close(self) -> None:
        for receipt, delivery in tuple(self._holding.deliveries.items()):
            if delivery.line is not None:
                del self._holding.deliveries[receipt]
        await super().close()


@breaks(c.new_owner_keeps_it_when_a_stale_parking_comes)
class ParksWhatIsOthers(Fenceless):
    action = "park"


@breaks(c.new_owner_keeps_it_when_a_stale_parking_comes)
class ParksAStaleCopy(Fenceless):
    action = "park"
    steals = False
