"""Doubles for `revoke_contract`."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiotask.brokers.memory import MemoryBroker, MemorySubscription
from aiotask.connections.memory import Holding, MemoryQueue, MessageStore
from aiotask.exceptions import BrokerError
from aiotask.message import Delivery, Envelope, Settlement, Start, Verdict
from aiotask.testing import revoke_contract as c

from .registry import breaks
from .starts import StartingSubscription


class Exempting(MemorySubscription):
    """Lets some of what is revoked run."""

    def exempts(self, delivery: Delivery) -> bool:
        """Tell whether it is to run; each double below says so itself."""
        raise NotImplementedError

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [
            Verdict.RUN if verdict is Verdict.REVOKED and self.exempts(start.delivery) else verdict
            for start, verdict in zip(batch, verdicts, strict=True)
        ]


@breaks(c.only_what_is_revoked_is_refused_when_it_waits, c.message_is_refused_when_the_subscription_is_older)
class RevokesNothing(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        pass


@breaks(
    c.only_what_is_revoked_is_refused_when_it_waits,
    c.message_is_refused_when_it_was_handed_out_before,
    c.message_is_refused_when_the_subscription_is_older,
)
class RevokesAll(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [Verdict.REVOKED] * len(batch) if self._messages.revoked else verdicts


@breaks(c.only_what_is_revoked_is_refused_when_it_waits)
class TakesAwayWhatItRefuses(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        refused = [start for start, verdict in zip(batch, verdicts, strict=True) if verdict is Verdict.REVOKED]
        await self.settle([Settlement(start.delivery) for start in refused])
        return verdicts


@breaks(c.message_is_refused_when_it_is_delayed)
class ForgetsWhatIsDelayed(MessageStore):
    def promote(self, now: float) -> None:
        for _, _, delivery in self.delayed:
            self.revoked.pop(delivery.id, None)
        super().promote(now)


@breaks(c.message_is_refused_when_it_is_parked)
class ForgetsWhatIsParked(MessageStore):
    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        taken = super().unpark(queues, lines, holding)
        for delivery in taken:
            self.revoked.pop(delivery.id, None)
        return taken


@breaks(c.message_is_refused_when_it_was_handed_out_before)
class AsksWhenItHandsOut(Exempting):
    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        taken = await super().receive(max_items, wait)
        for delivery in taken:
            if delivery.id in self._messages.revoked:
                delivery.line = "revoked"
        return taken

    def exempts(self, delivery: Delivery) -> bool:
        return delivery.line != "revoked"


@breaks(c.message_is_refused_when_it_was_released)
class ForgetsWhatIsGivenBack(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.revoked.pop(delivery.id, None)
        super().give_back(deliveries)


@breaks(c.message_is_refused_when_it_was_released)
class ForgetsWhatIsGivenBackForLater(MessageStore):
    def give_back_later(self, delivery: Delivery, delay_s: float) -> None:
        self.revoked.pop(delivery.id, None)
        super().give_back_later(delivery, delay_s)


@breaks(c.message_is_refused_when_it_was_lost, c.revoke_is_judged_first_when_it_was_lost_too_often_and_has_expired)
class StartsAgainWhatWasLost(Exempting):
    def exempts(self, delivery: Delivery) -> bool:
        return delivery.losses > 0


@breaks(c.message_is_refused_when_it_replaces_one)
class ForgetsWhatIsReplaced(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        super()._carry_out(own, settlement, ahead)
        self._messages.revoked.pop(own.id, None)


@breaks(c.message_is_refused_when_it_replaces_one)
class RefusesToReplaceWhatIsRevoked(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        refused = [each.delivery for each in batch if each.delivery.id in self._messages.revoked]
        return refused or await super().settle(batch)


@breaks(c.message_is_refused_when_it_is_sent_after_the_revoke)
class ForgetsWhatIsSentAgain(MessageStore):
    def add(self, batch: Sequence[Envelope]) -> None:
        for envelope in batch:
            self.revoked.pop(envelope.id, None)
        super().add(batch)


@breaks(c.message_is_refused_when_it_is_sent_after_the_revoke)
class RevokesInOneQueue(Exempting):
    def exempts(self, delivery: Delivery) -> bool:
        return delivery.queue.endswith("-other")


@breaks(c.message_is_refused_when_the_subscription_is_older)
class KnowsWhatWasRevokedBefore(Exempting):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._known = set(self._messages.revoked)

    def exempts(self, delivery: Delivery) -> bool:
        return delivery.id not in self._known


@breaks(c.message_is_left_alone_when_it_was_begun_before)
class TakesAwayWhatWasBegun(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        super().revoke(ids)
        for holding in self.holdings:
            taken = [receipt for receipt, delivery in holding.deliveries.items() if delivery.id in ids]
            for receipt in taken:
                del holding.deliveries[receipt]
            holding.forget(taken)


@breaks(c.loss_is_judged_first_when_a_lost_one_is_revoked)
class AsksNoOwner(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        verdicts = await super().begin(batch)
        return [
            Verdict.REVOKED if start.delivery.id in self._messages.revoked else verdict
            for start, verdict in zip(batch, verdicts, strict=True)
        ]


@breaks(c.revoke_is_judged_first_when_it_was_lost_too_often_and_has_expired)
class AsksTheTimeFirst(Exempting):
    def exempts(self, delivery: Delivery) -> bool:
        return delivery.expires_at is not None


@breaks(c.verdicts_are_in_order_when_some_of_a_batch_are_revoked)
class SortsVerdicts(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        return sorted(await super().begin(batch), key=lambda verdict: verdict.value)


@breaks(c.verdicts_are_in_order_when_some_of_a_batch_are_revoked)
class KeepsTheLastCall(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        self.revoked.clear()
        super().revoke(ids)


@breaks(c.every_id_is_revoked_when_there_are_many)
class RevokesOneBatch(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        super().revoke(ids[:1000])


@breaks(c.id_is_still_revoked_when_many_are_newer)
class KeepsFewer(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        super().revoke(ids)
        for id_ in list(self.revoked)[:-90_000]:
            del self.revoked[id_]


@breaks(c.id_is_still_revoked_when_many_are_newer)
class TakesForOldWhatIsRevokedAgain(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        super().revoke([id_ for id_ in ids if id_ not in self.revoked])


@breaks(c.nothing_changes_when_an_id_is_revoked_again)
class RefusesToRevokeAgain(MemoryBroker):
    async def revoke(self, ids: Sequence[str]) -> None:
        if any(id_ in self._messages.revoked for id_ in ids):
            raise BrokerError("It was revoked before.")
        await super().revoke(ids)


@breaks(c.nothing_changes_when_an_id_is_revoked_again)
class AllowsWhatIsRevokedAgain(MessageStore):
    def revoke(self, ids: Sequence[str]) -> None:
        again = [id_ for id_ in ids if id_ in self.revoked]
        super().revoke(ids)
        for id_ in again:
            del self.revoked[id_]


@breaks(c.message_is_refused_when_the_broker_was_closed_and_opened)
class ForgetsWhenItIsClosed(MemoryBroker):
    async def close(self) -> None:
        await super().close()
        self._messages.revoked.clear()


@breaks(c.error_is_raised_when_the_broker_is_closed)
class SaysNothingWhenItIsClosed(MemoryBroker):
    def _must_be_open(self) -> None:
        pass


@breaks(c.message_is_left_to_be_judged_when_it_was_revoked)
class BeginsWhatIsRevoked(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        delivery.begun = may_start
        return delivery


@breaks(c.message_is_left_to_be_judged_when_it_was_revoked)
class BeginsNothingWhileAnythingIsRevoked(StartingSubscription):
    def handed(self, delivery: Delivery, *, may_start: bool) -> Delivery:
        return super().handed(delivery, may_start=may_start and not self._messages.revoked)
