"""Doubles for `lease_contract`."""

from collections.abc import Hashable, Sequence
from typing import Any

from aiotask.brokers.memory import MemoryBroker, MemoryLeaseKeeper, MemorySubscription
from aiotask.connections.memory import MessageStore
from aiotask.message import Delivery, Settlement, Start, Verdict
from aiotask.protocols import Renewal
from aiotask.testing import lease_contract as c

from .registry import breaks


@breaks(c.message_stays_ours_when_its_lease_lasts)
class LeasesWhenItStarts(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        self._holding.until.update(dict.fromkeys([delivery.receipt for delivery in taken], 0.0))
        self._messages._scan_at = 0.0
        return taken


@breaks(c.message_goes_to_another_when_its_lease_lapses)
class NeverReclaims(MessageStore):
    def reclaim(self, now: float) -> None:
        pass


@breaks(c.waiting_consumer_gets_it_when_a_lease_lapses)
class ReclaimsWhenAsked(MemorySubscription):
    def _serve(self) -> None:
        pass


@breaks(c.message_stays_when_only_shorter_leases_lapse)
class HasOneLeaseForAll(MemoryBroker):
    async def subscribe(self, queues: Sequence[str], **options: Any) -> MemorySubscription:
        options["lease"] = min(options["lease"], 0.5)
        return await super().subscribe(queues, **options)


@breaks(c.message_stays_when_its_lease_is_renewed)
class RenewsNothing(MemoryLeaseKeeper):
    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        return Renewal([])


@breaks(c.message_stays_when_its_lease_is_renewed)
class RenewsByHalf(MemoryLeaseKeeper):
    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        renewal = super().renew(receipts)
        kept, until = self._holding.renewals.pop()
        self._holding.renewals.append((kept, until - self._holding.lease_s / 2))
        return renewal


@breaks(c.renewal_steals_nothing_when_another_owns_the_message)
class Steals(MemorySubscription):
    def lease_keeper(self) -> MemoryLeaseKeeper:
        subscription = self

        class Keeper(MemoryLeaseKeeper):
            def renew(self, receipts: Sequence[Hashable]) -> Renewal:
                (other,) = subscription._messages.holdings - {self._holding}
                (taken,) = other.deliveries.values()
                other.deliveries.clear()
                other.forget([taken.receipt])
                taken.receipt = receipts[0]
                self._holding.hold([taken], self._clock() + 60)
                return super().renew(receipts)

        return Keeper(self._link, self._holding)


@breaks(c.renewal_names_what_is_lost_when_others_are_kept, c.renewal_names_the_message_when_it_is_settled)
class TellsOfNoLoss(MemoryLeaseKeeper):
    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        super().renew(receipts)
        return Renewal([])


@breaks(c.renewal_names_what_is_lost_when_others_are_kept, c.renewal_names_the_message_when_it_is_settled)
class LosesAllOrNone(MemoryLeaseKeeper):
    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        return Renewal(receipts if super().renew(receipts).lost else [])


@breaks(c.message_stays_ours_when_the_keeper_is_closed)
class EndsTheLeases(MemoryLeaseKeeper):
    def close(self) -> None:
        self._holding.forget(list(self._holding.deliveries))
        self._holding.deliveries.clear()


@breaks(c.loss_is_counted_when_a_started_message_lapses)
class CountsNoLoss(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        self._holding.started.clear()
        return verdicts


@breaks(c.loss_is_counted_when_a_started_message_lapses)
class CountsToOne(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        self._holding.started -= {start.delivery.receipt for start in batch if start.delivery.losses}
        return verdicts


@breaks(c.no_loss_is_counted_when_an_unstarted_message_lapses)
class CountsReceivingAsAStart(MemorySubscription):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        self._holding.started.update(delivery.receipt for delivery in taken)
        return taken


@breaks(c.no_loss_is_counted_when_the_start_was_refused)
class CountsAsking(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        self._holding.started.update(start.delivery.receipt for start in batch)
        return await super().begin(batch)


@breaks(c.losses_stay_counted_when_a_message_is_given_back)
class ForgivesWhatIsGivenBack(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            delivery.losses = 0
        super().give_back(deliveries)


@breaks(c.reclaimed_message_comes_first_when_urgent_ones_wait)
class ReclaimsToTheEnd(MessageStore):
    def reclaim(self, now: float) -> None:
        super().reclaim(now)
        for queue in self.queues.values():
            while queue.line(-1):
                delivery = queue.line(-1).popleft()
                queue.line(delivery.priority).append(delivery)


@breaks(c.verdicts_come_in_order_when_the_batch_is_mixed)
class JudgesBackwards(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        return (await super().begin(batch))[::-1]


@breaks(c.start_is_lost_when_another_owns_the_message)
class AsksTheTimeFirst(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        late = [(start.delivery.expires_at or 1e12) < self._link.clock() for start in batch]
        verdicts = await super().begin(batch)
        return [Verdict.EXPIRED if past else verdict for past, verdict in zip(late, verdicts, strict=True)]


class Misjudges(MemorySubscription):
    """Takes one verdict for another."""

    instead: dict[Verdict, Verdict] = {}

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        return [self.instead.get(verdict, verdict) for verdict in await super().begin(batch)]


@breaks(c.start_is_lost_when_the_delivery_is_settled, c.start_is_lost_when_another_owns_the_message)
class AsksNoOwner(Misjudges):
    instead = {Verdict.LOST: Verdict.RUN}


@breaks(c.start_is_refused_when_one_was_lost_while_acknowledged_early)
class AllIsLate(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        return await super().begin([Start(start.delivery, acks_late=True) for start in batch])


@breaks(c.start_is_allowed_when_one_was_lost_while_acknowledged_late)
class AllIsEarly(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        return await super().begin([Start(start.delivery, acks_late=False) for start in batch])


@breaks(c.start_is_refused_when_too_many_were_lost)
class AllowsOneMore(MemoryBroker):
    async def subscribe(self, queues: Sequence[str], **options: Any) -> MemorySubscription:
        options["max_losses"] += 1
        return await super().subscribe(queues, **options)


@breaks(c.start_is_allowed_when_one_was_lost_while_acknowledged_late)
class AllowsOneLess(MemoryBroker):
    async def subscribe(self, queues: Sequence[str], **options: Any) -> MemorySubscription:
        options["max_losses"] -= 1
        return await super().subscribe(queues, **options)


@breaks(c.start_is_refused_when_the_message_has_expired)
class KnowsNoTime(Misjudges):
    instead = {Verdict.EXPIRED: Verdict.RUN}


@breaks(c.start_is_allowed_when_the_message_has_not_expired)
class KnowsNoFuture(MemorySubscription):
    def _judge(self, own: Delivery, *, acks_late: bool) -> Verdict:
        return Verdict.EXPIRED if own.expires_at is not None else super()._judge(own, acks_late=acks_late)


@breaks(c.loss_is_judged_first_when_an_early_one_is_lost_too_often)
class AsksTheNumberFirst(MemorySubscription):
    def _judge(self, own: Delivery, *, acks_late: bool) -> Verdict:
        return super()._judge(own, acks_late=acks_late or own.losses >= self._max_losses)


@breaks(
    c.number_is_judged_first_when_one_lost_too_often_has_expired,
    c.loss_is_judged_first_when_an_early_one_is_lost_too_often,
)
class AsksTheTimeBeforeLosses(MemorySubscription):
    def _judge(self, own: Delivery, *, acks_late: bool) -> Verdict:
        if own.expires_at is not None and own.expires_at < self._link.clock():
            return Verdict.EXPIRED
        return super()._judge(own, acks_late=acks_late)


@breaks(c.delivery_stays_ours_when_its_start_is_refused)
class GivesBackWhatItRefuses(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        refused = {start.delivery for start, verdict in zip(batch, verdicts, strict=True) if verdict is not Verdict.RUN}
        await self.settle([Settlement(delivery, "release") for delivery in refused])
        return verdicts
