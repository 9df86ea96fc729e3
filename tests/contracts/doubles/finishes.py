"""Doubles for `finish_contract`."""

import asyncio
from collections.abc import Sequence

import msgspec

from aiotask.brokers.memory import MemorySubscription
from aiotask.connections.memory import Row
from aiotask.message import Delivery, Finish, Settlement
from aiotask.outcome import TaskMeta
from aiotask.protocols import ResultBackend
from aiotask.states import SUCCESS
from aiotask.testing import finish_contract as c
from aiotask.wire.rows import encode_meta

from .registry import breaks


@breaks(c.backend_fuses_when_it_shares_the_link)
class FusesWithNone(MemorySubscription):
    def fuses(self, backend: ResultBackend) -> bool:
        return False


@breaks(c.backend_does_not_fuse_when_it_is_a_stranger)
class FusesWithAll(MemorySubscription):
    def fuses(self, backend: ResultBackend) -> bool:
        return True


class Altering(MemorySubscription):
    """Finishes something else than it is given."""

    def altered(self, finish: Finish) -> Finish:
        return finish

    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        return await super().finish([self.altered(finish) for finish in batch])


@breaks(c.row_is_stored_when_a_delivery_is_finished)
class StoresNothing(Altering):
    def altered(self, finish: Finish) -> Finish:
        return Finish(finish.settlement, None, finish.follow_ups)


@breaks(c.follow_ups_are_published_when_a_delivery_is_finished)
class PublishesNothing(Altering):
    def altered(self, finish: Finish) -> Finish:
        return Finish(finish.settlement, finish.row)


@breaks(c.follow_ups_are_published_when_a_delivery_is_finished)
class PublishesAtOnce(Altering):
    def altered(self, finish: Finish) -> Finish:
        at_once = [msgspec.structs.replace(envelope, delay_s=None) for envelope in finish.follow_ups]
        return Finish(finish.settlement, finish.row, tuple(at_once))


@breaks(c.each_settlement_is_carried_out_when_finishes_differ)
class AcknowledgesAll(Altering):
    def altered(self, finish: Finish) -> Finish:
        return Finish(Settlement(finish.settlement.delivery), finish.row, finish.follow_ups)


@breaks(c.nothing_is_stored_when_a_finish_has_no_row)
class StoresARowOfItsOwn(Altering):
    def altered(self, finish: Finish) -> Finish:
        id_ = finish.settlement.delivery.id
        row = Row(id_, encode_meta(TaskMeta(id=id_, state=SUCCESS)), final=True, expires_at=None)
        return Finish(finish.settlement, finish.row or row, finish.follow_ups)


@breaks(c.message_is_gone_when_it_is_finished)
class SettlesNothing(MemorySubscription):
    def _settle(self, batch: Sequence[Settlement]) -> list[int]:
        return []

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        return [batch[at].delivery for at in super()._settle(batch)]


@breaks(c.nothing_happens_when_the_finish_is_refused)
class StoresWhatItRefuses(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        self._link.rows.store([finish.row for finish in batch])
        return await super().finish(batch)


@breaks(c.nothing_happens_when_the_finish_is_refused, c.follow_ups_come_once_when_a_delivery_is_finished_twice)
class PublishesWhatItRefuses(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        refused = await super().finish([Finish(finish.settlement, finish.row) for finish in batch])
        self._messages.add([envelope for finish in batch for envelope in finish.follow_ups])
        return refused


@breaks(c.the_rest_is_done_when_one_finish_is_refused)
class DoesAllOfABatchOrNothing(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        deliveries = [finish.settlement.delivery for finish in batch]
        lost = [delivery for delivery in deliveries if delivery.receipt not in self._holding.deliveries]
        return lost or await super().finish(batch)


@breaks(c.final_row_stays_when_a_finish_brings_another)
class ReplacesFinalRows(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        self._link.rows.forget([finish.settlement.delivery.id for finish in batch])
        return await super().finish(batch)


@breaks(c.watchers_are_told_when_a_delivery_is_finished)
class TellsNobody(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        watchers, self._link.rows._watchers = self._link.rows._watchers, {}
        refused = await super().finish(batch)
        self._link.rows._watchers = watchers
        return refused


@breaks(c.row_is_there_when_a_follow_up_comes)
class PublishesFirst(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        self._messages.add([envelope for finish in batch for envelope in finish.follow_ups])
        await asyncio.sleep(0.02)
        return await super().finish([Finish(finish.settlement, finish.row) for finish in batch])


@breaks(c.follow_up_is_there_when_the_row_comes)
class StoresFirst(MemorySubscription):
    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        self._link.rows.store([finish.row for finish in batch])
        await asyncio.sleep(0.02)
        return await super().finish(batch)
