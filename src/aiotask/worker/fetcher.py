"""Asks the broker for exactly as many messages as there is room for, one `receive` outstanding."""

import asyncio
import logging
from collections.abc import Callable

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.protocols import FusedStart, Subscription
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
        startable: Callable[[], int],
        is_connected: Callable[[], bool],
    ) -> None:
        """Wire the stage.

        Args:
            subscription: Where messages come from.
            room: What the worker holds; a message is counted from here until its outcome is handed to the settler.
            hand_on: Takes each batch, at once.
            behind: Returns what to wait for while the settler is behind, or None.
            nothing_is_under_way: Tells whether every outcome is written, since a retry is only a message again once it
                is, and nothing is parked.
            startable: Returns how many of what comes could start the moment it comes.
            is_connected: Tells whether the broker can be seen; nothing comes from one that can't.
        """
        self._subscription = subscription
        self._fused = subscription if isinstance(subscription, FusedStart) else None
        self._room = room
        self._hand_on = hand_on
        self._behind = behind
        self._nothing_is_under_way = nothing_is_under_way
        self._startable = startable
        self._is_connected = is_connected

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
            starts = 0 if self._fused is None else min(self._startable(), self._room.free)
            # What could start is asked for alone: what comes beside it would only wait, and have all after it wait.
            asked = starts or self._room.free
            idle = self._is_idle()
            received = await self._receive(asked, starts, 0.0 if burst else _WAIT_S)
            if received is None:
                continue
            full = len(received) == asked
            if received:
                self._room.take(len(received))
                self._hand_on(received)
                if not full:
                    await asyncio.sleep(0)  # what has come may start first
            elif burst and idle and self._is_idle() and self._is_connected():
                # Idle before, too: what was written while the broker was asked is a message that it may not have seen.
                return
            else:
                await asyncio.sleep(_GATHER_S)  # a link that is closed answers at once, and for ever

    def _is_idle(self) -> bool:
        return self._room.used == 0 and self._nothing_is_under_way()

    async def _receive(self, count: int, starts: int, wait: float) -> list[Delivery] | None:
        """Return what has come; None when the broker could not say."""
        try:
            if self._fused is not None and starts:
                return await self._fused.receive_and_begin(count, wait, starts)
            return await self._subscription.receive(count, wait)
        except BrokerError as error:
            # The adapter reconnects by itself; what reaches this place is news for the log, not an end.
            logger.error("Can't receive: %s", error)
            await asyncio.sleep(_BACKOFF_S)
            return None

    async def _gather(self) -> None:
        try:
            async with asyncio.timeout(_GATHER_S):
                await self._room.wait_for(max(1, self._room.limit // 4))
        except TimeoutError:
            pass
