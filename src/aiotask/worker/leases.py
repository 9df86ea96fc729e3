"""Keeps the leases of what the worker holds, from a thread: a blocked event loop loses none, and is found out."""

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.protocols import LeaseKeeper

logger = logging.getLogger("aiotask.worker")

_LOOK_S = 0.5
_STALL_NEWS_S = 1.0
_CLOCK_JUMP_S = 1.0
_STOP_S = 5.0


class Leases:
    """Renews what is held every few seconds, and watches the loop from outside."""

    def __init__(
        self,
        keeper: LeaseKeeper,
        *,
        renewal: float,
        stall_limit: float,
        lost: Callable[[list[Delivery]], None],
        describe: Callable[["asyncio.Task[Any] | None"], str],
        stalled: Callable[[float], None],
    ) -> None:
        """Set up the thread; `start` starts it.

        Args:
            keeper: Renews; used in the thread only.
            renewal: Seconds between renewals.
            stall_limit: Seconds after which a blocked loop loses its leases.
            lost: Told, on the loop, what another worker has got.
            describe: Names the task that an asyncio task runs; called in the thread.
            stalled: Called in the thread, once, when the limit is passed, with the seconds.
        """
        self._keeper = keeper
        self._renewal = renewal
        self._stall_limit = stall_limit
        self._lost = lost
        self._describe = describe
        self._stalled = stalled
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._held: dict[Hashable, Delivery] = {}
        self._stop = threading.Event()
        self._answered_mono = time.monotonic()
        self._asked_mono = self._answered_mono
        self._thread = threading.Thread(target=self._run, name="aiotask-leases", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def stop(self, patience: float | None = None) -> None:
        """End the thread, and wait for it; one that is in a renewal without answer is left after `patience` seconds."""
        self._stop.set()
        if self._thread.is_alive():
            await asyncio.to_thread(self._thread.join, _STOP_S if patience is None else patience)

    def hold(self, deliveries: list[Delivery]) -> None:
        """Keep the leases of these from now on."""
        held = self._held
        for delivery in deliveries:
            held[delivery.receipt] = delivery

    def drop(self, deliveries: Iterable[Delivery]) -> None:
        """Keep these no longer."""
        pop = self._held.pop
        for delivery in deliveries:
            pop(delivery.receipt, None)

    # In the thread

    def _run(self) -> None:
        next_renewal = time.monotonic() + self._renewal
        clocks_apart = time.time() - time.monotonic()
        reported = False
        while not self._stop.wait(min(_LOOK_S, self._renewal)):
            blocked = self._blocked_for()
            if blocked < _STALL_NEWS_S:
                reported = False
            elif not reported:
                reported = True
                self._report(blocked)
            if blocked > self._stall_limit:
                self._stalled(blocked)
                break
            # When the machine slept or its clock was set, the leases may have lapsed: at once, before they are missed.
            apart_before, clocks_apart = clocks_apart, time.time() - time.monotonic()
            if time.monotonic() >= next_renewal or abs(clocks_apart - apart_before) > _CLOCK_JUMP_S:
                next_renewal = time.monotonic() + self._renewal
                self._renew()
        self._keeper.close()

    def _blocked_for(self) -> float:
        """Return for how many seconds the loop has not answered; 0 while it does."""
        if self._answered_mono >= self._asked_mono:
            self._asked_mono = time.monotonic()
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:
                self._stop.set()  # the loop is closed: nothing is held any more
            return 0.0
        return time.monotonic() - self._asked_mono

    def _answer(self) -> None:
        self._answered_mono = time.monotonic()

    def _report(self, blocked: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no stack)"
        culprit = self._describe(asyncio.current_task(self._loop))
        logger.warning("The event loop is blocked for %.1f s by %s:\n%s", blocked, culprit, stack)

    def _renew(self) -> None:
        receipts = self._receipts()
        if not receipts:
            return
        try:
            renewal = self._keeper.renew(receipts)
        except BrokerError as error:
            logger.error("Can't renew %d leases, trying again: %s", len(receipts), error)
            return
        lost = [delivery for receipt in renewal.lost if (delivery := self._held.pop(receipt, None)) is not None]
        if lost:
            self._loop.call_soon_threadsafe(self._lost, lost)

    def _receipts(self) -> list[Hashable]:
        while True:
            try:
                return list(self._held)
            except RuntimeError:
                continue  # the loop has changed it meanwhile
