"""Doubles for `admin_contract`."""

from collections.abc import Sequence

import msgspec

from aiotask.brokers.memory import MemoryBroker
from aiotask.connections.memory import MessageStore
from aiotask.message import DeadLetter, Delivery, Envelope, QueueDepth, Settlement
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
class PurgesEveryQueue(MemoryBroker):
    async def purge(self, queues: Sequence[str]) -> int:
        dropped = await super().purge(queues)
        await super().purge(list(self._messages.queues))
        return dropped


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
    async def take_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        letters = await super().take_dead(ids)
        self._drop_dead(letters)
        return letters


@breaks(c.letters_are_found_when_their_ids_are_given)
class FindsOneLetterForAnId(MemoryBroker):
    async def take_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        return list({letter.id: letter for letter in await super().take_dead(ids)}.values())


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
        self._drop_dead(await self.take_dead(ids))
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
