"""Doubles for `admin_contract`."""

from collections.abc import Hashable, Sequence

import msgspec

from aiotask.brokers.memory import MemoryBroker, MemoryLeaseKeeper, MemorySubscription
from aiotask.connections.memory import Consumer, MemoryQueue, MessageStore
from aiotask.message import DeadLetter, Delivery, Envelope, QueueDepth, Settlement
from aiotask.protocols import Renewal
from aiotask.testing import admin_contract as c

from .registry import breaks


@breaks(c.queues_are_named_when_they_hold_anything)
class NamesEmptyQueues(MemoryBroker):
    async def queues(self) -> list[str]:
        return sorted(self._messages.queues)


@breaks(c.queues_are_named_when_they_hold_anything)
class NamesQueuesUnsorted(MemoryBroker):
    async def queues(self) -> list[str]:
        return (await super().queues())[::-1]


@breaks(c.queues_are_named_when_they_hold_anything)
class KnowsNoParkedQueue(MemoryBroker):
    async def queues(self) -> list[str]:
        names = await super().queues()
        return [name for name in names if not self._messages.queue(name).parked]


@breaks(c.depths_are_counted_when_a_queue_holds_of_each)
class CountsParkedAsReady(MemoryBroker):
    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        depths = await super().depths(queues)
        return [msgspec.structs.replace(depth, ready=depth.ready + depth.parked, parked=0) for depth in depths]


@breaks(c.depths_are_counted_when_a_queue_holds_of_each)
class CountsDelayedAsReady(MemoryBroker):
    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        depths = await super().depths(queues)
        return [msgspec.structs.replace(depth, ready=depth.ready + depth.delayed, delayed=0) for depth in depths]


@breaks(c.waiting_messages_are_dropped_when_a_queue_is_purged)
class SparesTheDelayed(MemoryBroker):
    async def purge(self, queues: Sequence[str]) -> int:
        delayed = list(self._messages.delayed)
        dropped = await super().purge(queues)
        self._messages.delayed[:] = delayed
        return dropped


@breaks(c.waiting_messages_are_dropped_when_a_queue_is_purged)
class SparesTheParked(MemoryBroker):
    async def purge(self, queues: Sequence[str]) -> int:
        parked = {name: dict(self._messages.queue(name).parked) for name in queues}
        dropped = await super().purge(queues)
        for name, lines in parked.items():
            self._messages.queue(name).parked.update(lines)
        return dropped


@breaks(c.waiting_messages_are_dropped_when_a_queue_is_purged)
class PurgesEveryQueue(MemoryBroker):
    async def purge(self, queues: Sequence[str]) -> int:
        dropped = await super().purge(queues)
        await super().purge(list(self._messages.queues))
        return dropped


@breaks(c.consumers_are_counted_when_they_subscribe)
class CountsItsOwnConsumers(MemoryBroker):
    async def consumers(self, queues: Sequence[str]) -> list[int]:
        own = [queue.name for subscription in self._subscriptions for queue in subscription._queues]
        return [own.count(name) for name in queues]


@breaks(c.consumers_are_counted_when_they_subscribe)
class TellsWhetherThereAreConsumers(MemoryBroker):
    async def consumers(self, queues: Sequence[str]) -> list[int]:
        return [min(number, 1) for number in await super().consumers(queues)]


@breaks(c.consumer_counts_for_its_new_queues_when_others_are_set)
class CountsForItsFirstQueues(MemorySubscription):
    async def set_queues(self, queues: Sequence[str]) -> None:
        self._queues = self._named(queues)


@breaks(c.consumer_counts_no_more_when_it_is_closed)
class LeavesItsTrace(MemorySubscription):
    async def close(self) -> None:
        await super().close()
        self._announced([queue.name for queue in self._queues])

    def _announced(self, queues: Sequence[str]) -> list[MemoryQueue]:
        closed, self._closed = self._closed, False
        named = super()._announced(queues)
        self._closed = closed
        return named


class Fades(MemorySubscription):
    """Counts for a lease from when it was last heard of."""

    def _announced(self, queues: Sequence[str]) -> list[MemoryQueue]:
        named = super()._announced(queues)
        self.show_itself()
        self._messages.consumers[self._holding] = Consumer(self, named)  # type: ignore[arg-type]
        return named

    def show_itself(self) -> None:
        self._shown_at = self._link.clock()

    def is_closed(self) -> bool:
        return self._link.clock() >= self._shown_at + self._holding.lease_s

    def lease_keeper(self) -> MemoryLeaseKeeper:
        subscription = self

        class Keeper(MemoryLeaseKeeper):
            def renew(self, receipts: Sequence[Hashable]) -> Renewal:
                subscription.renewed()
                return super().renew(receipts)

        return Keeper(self._link, self._holding)

    def renewed(self) -> None:
        self.show_itself()


@breaks(c.consumer_still_counts_when_it_waits_for_longer_than_a_lease)
class FadesWhileItWaits(Fades):
    pass


@breaks(c.consumer_still_counts_when_it_only_renews)
class FadesWhileItRenews(Fades):
    def renewed(self) -> None:
        pass

    def is_closed(self) -> bool:
        return super().is_closed() and not self._waiters


@breaks(c.other_messages_stay_when_a_queue_is_purged)
class PurgesTheDead(MemoryBroker):
    async def purge(self, queues: Sequence[str]) -> int:
        await self.purge_dead(queues)
        return await super().purge(queues)


@breaks(c.letter_says_what_died_when_a_message_is_dead)
class CutsTheDetail(MessageStore):
    def bury(self, delivery: Delivery, settlement: Settlement) -> None:
        super().bury(delivery, msgspec.structs.replace(settlement, detail=settlement.detail.split("\n")[0]))


@breaks(c.body_is_cut_when_a_long_message_is_dead)
class CutsNothing(MessageStore):
    def bury(self, delivery: Delivery, settlement: Settlement) -> None:
        super().bury(delivery, settlement)
        self.dead[-1].body = delivery.body


@breaks(c.body_is_cut_when_a_long_message_is_dead)
class ForgetsTheLength(MessageStore):
    def bury(self, delivery: Delivery, settlement: Settlement) -> None:
        super().bury(delivery, settlement)
        self.dead[-1].body_bytes = len(self.dead[-1].body)


@breaks(c.newest_letters_come_first_when_there_are_many)
class OldestFirst(MemoryBroker):
    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        return (await super().dead_letters(queues, limit))[::-1]


@breaks(c.newest_letters_come_first_when_there_are_many)
class KnowsNoLimit(MemoryBroker):
    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        return await super().dead_letters(queues)


@breaks(c.letters_of_one_queue_come_when_it_is_named)
class ReturnsEveryLetter(MemoryBroker):
    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        return await super().dead_letters(None, limit)


@breaks(c.letters_are_found_when_their_ids_are_given)
class TakesLettersAway(MemoryBroker):
    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        letters = await super().find_dead(ids)
        self._drop_dead(letters)
        return letters


@breaks(c.letters_are_found_when_their_ids_are_given)
class FindsOneLetterForAnId(MemoryBroker):
    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        return list({letter.id: letter for letter in await super().find_dead(ids)}.values())


@breaks(c.message_comes_again_when_its_letter_is_replayed)
class ReplaysACopy(MemoryBroker):
    def _drop_dead(self, letters: Sequence[DeadLetter]) -> None:
        pass


@breaks(c.message_comes_again_when_its_letter_is_replayed)
class ReplaysWithoutPriority(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        for letter in self._messages.dead:
            letter.priority = 5
        return await super().replay_dead(ids)


@breaks(c.message_comes_again_when_its_letter_is_replayed)
class ReplaysTheCounts(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        put_back = await super().replay_dead(ids)
        for letter in self._messages.queues.values():
            for line in letter.lines.values():
                for delivery in line:
                    delivery.losses = 1
        return put_back


@breaks(c.letter_stays_when_its_body_was_cut)
class ReplaysStumps(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        for letter in self._messages.dead:
            letter.body_bytes = len(letter.body)
        return await super().replay_dead(ids)


@breaks(c.letter_stays_when_its_body_was_cut)
class DropsStumps(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        put_back = await super().replay_dead(ids)
        self._drop_dead(await self.find_dead(ids))
        return put_back


@breaks(c.letters_are_dropped_when_they_are_purged)
class PurgesEveryLetter(MemoryBroker):
    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        dropped = await super().purge_dead(queues)
        await super().purge_dead(None)
        return dropped


@breaks(c.letters_are_dropped_when_they_are_purged)
class PurgesMessagesToo(MemoryBroker):
    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        await self.purge(queues or [])
        return await super().purge_dead(queues)


@breaks(c.message_comes_again_when_its_letter_is_replayed)
class ReplaysLater(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        add = self._messages.add
        later: list[Envelope] = []
        self._messages.add = later.extend  # type: ignore[method-assign]
        put_back = await super().replay_dead(ids)
        self._messages.add = add  # type: ignore[method-assign]
        self._messages.add([msgspec.structs.replace(envelope, delay_s=60.0) for envelope in later])
        return put_back
