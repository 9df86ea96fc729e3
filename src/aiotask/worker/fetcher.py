"""Asks the broker for exactly as many messages as there is room for, one `receive` outstanding."""

import asyncio
import logging
from collections.abc import Callable

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.protocols import Subscription
from aiotask.worker.slots import Slots

logger = logging.getLogger("aiotask.worker")

_WAIT_S = 5.0
_GATHER_S = 0.002
_BACKOFF_S = 0.5


class Fetcher:
    """Takes messages while there is room, and hands them on in batches."""

    def __init__(
        self,
        subscription: Subscription,
        room: Slots,
        hand_on: Callable[[list[Delivery]], None],
        behind: Callable[[], asyncio.Future[None] | None],
        nothing_is_under_way: Callable[[], bool],
    ) -> None:
        """Wire the stage.

        Args:
            subscription: Where messages come from.
            room: What the worker holds; a message is counted from here until its outcome is handed to the settler.
            hand_on: Takes each batch, at once.
            behind: Returns what to wait for while the settler is behind, or None.
            nothing_is_under_way: Tells whether every outcome is written, since a retry is only a message again once it
                is, and nothing is parked.
        """
        self._subscription = subscription
        self._room = room
        self._hand_on = hand_on
        self._behind = behind
        self._nothing_is_under_way = nothing_is_under_way

    async def run(self, *, burst: bool = False) -> None:
        """Fetch until cancelled; with `burst` until nothing is due and nothing is held."""
        full = False
        while True:
            await self._room.wait_for(1)
            behind = self._behind()
            if behind is not None:
                await behind
                continue
            if full and self._room.free < self._room.limit // 4:
                # There is more where the last batch came from: a moment's patience makes the next one larger.
                await self._gather()
            asked = self._room.free
            idle = self._is_idle()
            received = await self._receive(asked, 0.0 if burst else _WAIT_S)
            full = len(received) == asked
            if received:
                self._room.take(len(received))
                self._hand_on(received)
            elif burst:
                # Before, too: what was written while the broker was asked is a message that it may not have seen.
                if idle and self._is_idle():
                    return
                await asyncio.sleep(_GATHER_S)

    def _is_idle(self) -> bool:
        return self._room.used == 0 and self._nothing_is_under_way()

    async def _receive(self, count: int, wait: float) -> list[Delivery]:
        try:
            return await self._subscription.receive(count, wait)
        except BrokerError as error:
            # The adapter reconnects by itself; what reaches this place is news for the log, not an end.
            logger.error("Can't receive: %s", error)
            await asyncio.sleep(_BACKOFF_S)
            return []

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(_GATHER_S):
                await self._room.wait_for(max(1, self._room.limit // 4))
        except TimeoutError:
            pass
