"""Doubles for `settle_contract`."""

from collections.abc import Sequence

import msgspec

from aiotask.brokers.memory import MemorySubscription
from aiotask.connections.memory import MessageStore
from aiotask.message import Delivery, Settlement
from aiotask.testing import admin_contract
from aiotask.testing import settle_contract as c

from .registry import breaks


@breaks(c.message_is_gone_when_it_is_acknowledged)
class AcknowledgesNothing(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        return await super().settle([settlement for settlement in batch if settlement.action != "ack"])


@breaks(c.message_comes_at_once_when_it_is_released)
class ReleasesToTheEnd(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        super().give_back(deliveries)
        for delivery in deliveries:
            self.queue(delivery.queue).line(delivery.priority).rotate(-1)


@breaks(c.urgent_message_comes_first_when_another_is_released)
class ReleasesAheadOfAll(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        super().give_back(deliveries)
        for delivery in deliveries:
            queue = self.queue(delivery.queue)
            queue.line(-1).append(queue.line(delivery.priority).popleft())


@breaks(c.released_messages_keep_their_order_when_they_are_of_one_batch)
class ReleasesBackwards(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        super().give_back(deliveries[::-1])


@breaks(c.no_loss_is_counted_when_a_started_message_is_released)
class CountsAReleaseAsALoss(MessageStore):
    def give_back_later(self, delivery: Delivery, delay_s: float) -> None:
        delivery.losses += 1
        super().give_back_later(delivery, delay_s)


@breaks(c.loss_is_counted_when_a_message_is_released_as_lost)
class CountsNoLossOfARelease(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        settlement.lost = False
        super()._carry_out(own, settlement, ahead)


@breaks(c.loss_is_counted_when_a_message_is_released_as_lost)
class CountsALossOnce(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        settlement.lost = settlement.lost and own.losses < 2
        super()._carry_out(own, settlement, ahead)


@breaks(c.message_is_unchanged_when_it_is_released)
class ForgetsTheTime(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        super().give_back([msgspec.structs.replace(delivery, expires_at=None) for delivery in deliveries])


@breaks(c.message_is_kept_back_when_it_is_released_with_a_delay)
class ReleasesAtOnce(MessageStore):
    def give_back_later(self, delivery: Delivery, delay_s: float) -> None:
        self.give_back([delivery])


@breaks(c.message_comes_last_when_its_delay_is_over)
class PromotesToTheFront(MessageStore):
    def promote(self, now: float) -> None:
        while self.delayed and self.delayed[0][0] <= now:
            delivery = self.delayed.pop(0)[2]
            self.queue(delivery.queue).line(delivery.priority).appendleft(delivery)


@breaks(c.new_message_takes_the_place_when_one_is_replaced)
class InheritsTheLosses(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        super()._carry_out(own, settlement, ahead)
        if settlement.envelope is not None:
            self._messages.queue(own.queue).line(settlement.envelope.priority)[-1].losses = own.losses


@breaks(c.new_message_takes_the_place_when_one_is_replaced)
class ReplacesByNothing(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        if settlement.action != "replace":
            super()._carry_out(own, settlement, ahead)


@breaks(c.new_message_is_kept_back_when_its_envelope_has_a_delay)
class ReplacesAtOnce(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        assert settlement.envelope is not None
        settlement.envelope.delay_s = None
        super()._carry_out(own, settlement, ahead)


@breaks(c.message_is_gone_when_it_is_dead)
class RaisesTheDead(MemorySubscription):
    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        ahead.append(own)


@breaks(c.each_is_carried_out_when_the_batch_is_mixed)
class KnowsOneActionABatch(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        return await super().settle([settlement for settlement in batch if settlement.action == batch[0].action])


@breaks(c.settlement_is_refused_when_another_owns_the_message, c.settlement_is_refused_when_the_delivery_is_settled)
class RefusesInSilence(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        await super().settle(batch)
        return []


@breaks(c.settlement_is_refused_when_another_owns_the_message)
class StopsAtARefusal(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        for settlement in batch:
            if refused := await super().settle([settlement]):
                return refused
        return []


@breaks(c.settlement_is_refused_when_the_delivery_is_settled)
class SettlesOnceInSilence(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        return await super().settle(list({settlement.delivery: settlement for settlement in batch[::-1]}.values()))


@breaks(c.settlement_is_refused_when_the_message_was_handed_out_again)
class TakesAnyReceipt(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        by_id = {delivery.id: delivery for delivery in self._holding.deliveries.values()}
        for settlement in batch:
            settlement.delivery = by_id.get(settlement.delivery.id, settlement.delivery)
        return await super().settle(batch)


class Fenceless(MemorySubscription):
    """Carries out one action also on what another consumer has got."""

    action = ""
    delayed = False
    steals = True

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        refused = await super().settle(batch)
        ahead: list[Delivery] = []
        for settlement in batch:
            if (
                settlement.delivery in refused
                and settlement.action == self.action
                and bool(settlement.delay_s) == self.delayed
            ):
                stolen = self._steal() if self.steals else settlement.delivery
                if settlement.action != "ack":
                    self._carry_out(stolen, settlement, ahead)
        self._messages.give_back(ahead)
        return refused

    def _steal(self) -> Delivery:
        (other,) = self._messages.holdings
        ((receipt, stolen),) = other.deliveries.items()
        del other.deliveries[receipt]
        other.forget([receipt])
        return stolen


@breaks(c.new_owner_keeps_it_when_a_stale_ack_comes)
class AcksWhatIsOthers(Fenceless):
    action = "ack"


@breaks(c.new_owner_keeps_it_when_a_stale_release_comes)
class ReleasesWhatIsOthers(Fenceless):
    action = "release"


@breaks(c.new_owner_keeps_it_when_a_stale_delay_comes)
class DelaysWhatIsOthers(Fenceless):
    action = "release"
    delayed = True
    steals = False


@breaks(c.nothing_is_published_when_a_stale_replacement_comes)
class ReplacesWhatIsOthers(Fenceless):
    action = "replace"
    steals = False


@breaks(c.new_owner_keeps_it_when_a_stale_burial_comes)
class BuriesWhatIsOthers(Fenceless):
    action = "dead"


@breaks(admin_contract.no_letter_is_left_when_a_stale_burial_comes)
class BuriesACopy(Fenceless):
    action = "dead"
    steals = False
