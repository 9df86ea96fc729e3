"""Doubles for `headers_contract`."""

from collections.abc import Sequence
from typing import Any

import msgspec

from aiotask.brokers.memory import MemoryBroker, MemorySubscription
from aiotask.connections.memory import MessageStore
from aiotask.message import DeadLetter, Delivery, Envelope, Settlement, Start, Verdict
from aiotask.testing import headers_contract as c

from .brokers import Altering
from .registry import breaks


@breaks(c.message_has_expired_when_its_reader_says_so)
class KnowsBetterWhenItExpires(MemorySubscription):
    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        for start in batch:
            start.delivery.expires_at = None
        return await super().begin(batch)


BARE: dict[str, Any] = {"headers": None, "properties": None}


@breaks(c.ability_is_told_when_headers_are_carried)
class SaysThatItCarriesNone(MemoryBroker):
    carries_headers = False  # type: ignore[assignment]


@breaks(c.headers_and_properties_come_when_they_were_sent)
class CarriesNoProperties(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"properties": None}


@breaks(c.headers_and_properties_come_when_they_were_sent)
class MakesTextsOfHeaders(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"headers": envelope.headers and {key: str(value) for key, value in envelope.headers.items()}}


@breaks(c.headers_are_none_when_the_message_has_none)
class ShowsItsOwnHeaders(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {"headers": {"publish-id": "1"} | (envelope.headers or {})}


@breaks(c.headers_come_when_it_was_delayed)
class DelaysTheBodyAlone(Altering):
    def altered(self, envelope: Envelope) -> dict[str, Any]:
        return {} if envelope.delay_s is None else BARE


@breaks(c.headers_come_when_it_was_released)
class ReleasesTheBodyAlone(MessageStore):
    def give_back_later(self, delivery: Delivery, delay_s: float) -> None:
        super().give_back_later(msgspec.structs.replace(delivery, **BARE), delay_s)


@breaks(c.headers_come_when_it_was_released, c.headers_come_when_it_was_lost)
class GivesBackTheBodyAlone(MessageStore):
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        super().give_back([msgspec.structs.replace(delivery, **BARE) for delivery in deliveries])

    def reclaim(self, now: float) -> None:
        for holding in self.holdings:
            for delivery in holding.deliveries.values():
                delivery.headers = delivery.properties = None
        super().reclaim(now)


@breaks(c.headers_come_when_it_was_parked)
class ParksTheBodyAlone(MessageStore):
    def park(self, delivery: Delivery, line: str) -> None:
        super().park(msgspec.structs.replace(delivery, **BARE), line)


@breaks(c.headers_come_when_it_is_replaced)
class ReplacesTheBodyAlone(MemorySubscription):
    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        for settlement in batch:
            if settlement.envelope is not None:
                settlement.envelope = msgspec.structs.replace(settlement.envelope, **BARE)
        return await super().settle(batch)


@breaks(c.headers_come_when_a_dead_letter_is_read_and_replayed)
class BuriesTheBodyAlone(MessageStore):
    def bury(self, delivery: Delivery, settlement: Settlement) -> None:
        super().bury(msgspec.structs.replace(delivery, **BARE), settlement)


@breaks(c.headers_come_when_a_dead_letter_is_read_and_replayed)
class ReplaysTheBodyAlone(MemoryBroker):
    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        self._messages.dead[:] = [self._bare(letter) for letter in self._messages.dead]
        return await super().replay_dead(ids)

    def _bare(self, letter: DeadLetter) -> DeadLetter:
        return msgspec.structs.replace(letter, **BARE)
