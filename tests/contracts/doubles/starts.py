"""Doubles for `start_contract`, on a memory subscription that can start what it hands out."""

import asyncio
from collections.abc import Hashable, Mapping, Sequence

import msgspec

from aiotask.brokers.memory import MemoryLeaseKeeper, MemorySubscription
from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import Renewal
from aiotask.testing import start_contract as c

from .registry import breaks


class StartingSubscription(MemorySubscription):
    """A sound one: the doubles are broken in one thing each."""

    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        taken = await self.receive(max_items, wait)
        return [self.handed(delivery, may_start=place < starts) for place, delivery in enumerate(taken)]

    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        if (
            not may_start
            or delivery.id in self._messages.revoked
            or self._judge(delivery, acks_late=False) is not Verdict.RUN
        ):
            return delivery
        self._holding.started.add(delivery.receipt)
        return msgspec.structs.replace(delivery, begun=True)


@breaks(c.only_the_first_come_begun_when_not_all_may_start, c.starts_are_counted_over_all_lines_when_priorities_differ)
class StartsAll(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        return await super().receive_and_begin(max_items, wait, max_items)


@breaks(c.only_the_first_come_begun_when_not_all_may_start)
class AlwaysStarts(StartingSubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        return [self.handed(delivery, may_start=True) for delivery in await super().receive(max_items, wait)]


@breaks(c.starts_are_counted_over_all_lines_when_priorities_differ)
class StartsTheLeastUrgent(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        taken = await self.receive(max_items, wait)
        return [self.handed(delivery, may_start=at >= len(taken) - starts) for at, delivery in enumerate(taken)]


@breaks(c.no_more_come_than_were_asked_for_when_more_may_start)
class TakesAllThatMayStart(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        return (await super().receive_and_begin(max(max_items, starts), wait, starts))[:max_items]


@breaks(c.call_waits_as_receive_does_when_nothing_is_due)
class NeverWaits(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        return await super().receive_and_begin(max_items, 0.0, starts)


@breaks(
    c.only_what_was_begun_is_lost_when_leases_lapse,
    c.begun_message_counts_as_lost_when_the_subscription_is_closed,
)
class OnlySaysSo(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        delivery = super().handed(delivery, may_start=may_start)
        self._holding.started.clear()
        return delivery


@breaks(c.only_what_was_begun_is_lost_when_leases_lapse)
class StartsMoreThanItSays(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        self._holding.started.add(delivery.receipt)
        return super().handed(delivery, may_start=may_start)


@breaks(c.begun_message_stays_when_its_lease_is_renewed)
class RenewsWhatIsOnlyReceived(StartingSubscription):
    def lease_keeper(self) -> MemoryLeaseKeeper:
        holding = self._holding

        class Keeper(MemoryLeaseKeeper):
            def renew(self, receipts: Sequence[Hashable]) -> Renewal:
                started = [receipt for receipt in receipts if receipt in holding.started]
                return Renewal([*started, *super().renew([each for each in receipts if each not in started]).lost])

        return Keeper(self._link, holding)


@breaks(c.begun_message_stays_when_its_lease_is_renewed)
class ForgetsStartsWhenItRenews(StartingSubscription):
    def lease_keeper(self) -> MemoryLeaseKeeper:
        holding = self._holding

        class Keeper(MemoryLeaseKeeper):
            def renew(self, receipts: Sequence[Hashable]) -> Renewal:
                holding.started.clear()
                return super().renew(receipts)

        return Keeper(self._link, holding)


@breaks(c.message_is_left_to_be_judged_when_it_was_lost_before)
class AsksNotWhatWasLost(StartingSubscription):
    def _judge(self, own: Delivery, *, acks_late: bool) -> Verdict:
        return super()._judge(msgspec.structs.replace(own, losses=0), acks_late=acks_late)


@breaks(c.message_is_left_to_be_judged_when_it_has_expired)
class AsksNoTime(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        timeless = msgspec.structs.replace(delivery, expires_at=None)
        return msgspec.structs.replace(super().handed(timeless, may_start=may_start), expires_at=delivery.expires_at)


@breaks(c.message_is_left_to_be_judged_when_it_has_expired)
class StartsNothingThatExpires(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        return super().handed(delivery, may_start=may_start and delivery.expires_at is None)


@breaks(c.nothing_is_lost_when_a_begun_message_is_settled_unrun)
class CountsEachEndAsALoss(StartingSubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        begun = self._holding.started
        return await super().settle(
            [msgspec.structs.replace(each, lost=each.lost or each.delivery.receipt in begun) for each in batch]
        )


@breaks(c.nothing_is_lost_when_a_begun_message_is_settled_unrun)
class SaysSoWhenItComesAgain(StartingSubscription):
    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        return [msgspec.structs.replace(delivery, begun=True) for delivery in await super().unpark(lines)]


@breaks(c.begun_message_may_run_when_it_is_begun_again)
class TakesASecondStartForALoss(StartingSubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [
            Verdict.STARTED_BEFORE if start.delivery.begun and not start.acks_late else verdict
            for start, verdict in zip(batch, verdicts, strict=True)
        ]


@breaks(c.begun_message_may_run_when_it_is_begun_again)
class AsksNoOwnerOfWhatIsBegun(StartingSubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [
            Verdict.RUN if start.delivery.begun else verdict for start, verdict in zip(batch, verdicts, strict=True)
        ]


@breaks(c.no_start_is_counted_when_the_call_was_cancelled)
class CountsWhatNobodyGot(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        taken = await super().receive_and_begin(max_items, wait, starts)
        try:
            await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            lost = [Settlement(delivery, "release", lost=True) for delivery in taken]
            if lost:
                await self.settle(lost)
            raise
        return taken


@breaks(c.no_start_is_counted_when_the_call_was_cancelled)
class KeepsWhatNobodyGot(StartingSubscription):
    async def receive_and_begin(self, max_items: int, wait: float, starts: int) -> list[Delivery]:
        taken = await super().receive_and_begin(max_items, wait, starts)
        await asyncio.sleep(0.002)
        return taken
