"""Tasks that may only run so many times at once: their places, and what is parked in the broker until one is free."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.protocols import Subscription
from aiotask.worker.execution import Execution

logger = logging.getLogger("aiotask.worker")

_LOOK_S = 1.0
"""How often a worker with free places looks for what other workers have parked. It is told of nothing that they do."""


class Lines:
    """Counts the places of each limited task, and takes from its waiting line as fast as places become free.

    What has no place goes to the line at once, so that it is in nobody's way; it is taken from there once. A worker
    without limited tasks never asks the broker for any line.
    """

    def __init__(
        self,
        tasks: Mapping[str, Any],
        subscription: Subscription,
        hand_on: Callable[[list[Delivery]], None],
        is_connected: Callable[[], bool],
    ) -> None:
        """Wire the stage.

        Args:
            tasks: The registry; it may grow.
            subscription: Holds the lines.
            hand_on: Takes what comes out of them; a place is kept for each.
            is_connected: Tells whether the broker can be seen; the lines of one that can't look empty.
        """
        self._tasks = tasks
        self._subscription = subscription
        self._hand_on = hand_on
        self._is_connected = is_connected
        self._used: Counter[str] = Counter()
        self._waiting = self._limited()
        """Tasks whose lines may hold something, for all that this worker knows."""
        self._parking: dict[Delivery, str] = {}
        self._on_their_way: Counter[str] = Counter()
        """How many of each task are in `_parking`: they come before later ones, though no line has them yet."""
        self._asking = False
        self._wake = asyncio.Event()

    def enter(self, execution: Execution) -> bool:
        """Take a place for an execution of a limited task; False when it has to be parked.

        As long as others wait in the line, who comes goes to its end.
        """
        if execution.place is not None:
            return True
        task = execution.task
        assert task is not None and task.concurrency is not None  # noqa: S101, PT018 - only then is it asked
        name = task.name
        if name not in self._waiting and not self._on_their_way[name] and self._used[name] < task.concurrency:
            self._used[name] += 1
            execution.place = name
            return True
        self._parking[execution.delivery] = name
        self._on_their_way[name] += 1
        return False

    def leave(self, execution: Execution) -> None:
        """Give the place of an execution back, if it has one."""
        name = execution.place
        if name is not None:
            execution.place = None
            self._used[name] -= 1
            if name in self._waiting:
                self._wake.set()

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """Note that these are off our hands: what was to be parked is in its line now."""
        if not self._parking:
            return
        for delivery in deliveries:
            name = self._parking.pop(delivery, None)
            if name is not None:
                self._on_their_way[name] -= 1
                self._waiting.add(name)
                self._wake.set()

    def are_empty(self) -> bool:
        """Tell whether nothing is parked, as far as this worker knows."""
        return not (self._waiting or self._parking or self._asking)

    async def run(self) -> None:
        """Take what is parked, until cancelled."""
        while True:
            await self._take(self._waiting)
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._wake.wait()
            except TimeoutError:
                self._waiting |= self._limited()
            self._wake.clear()

    async def _take(self, names: set[str]) -> None:
        wanted = {name: free for name in names if (free := self._free(name)) > 0}
        if not wanted:
            return
        # Reserved meanwhile: what is received in that moment must not overtake the line. What is parked in that moment
        # notes its line again.
        self._used.update(wanted)
        self._waiting.difference_update(wanted)
        self._asking = True
        taken: list[Delivery] | None = None
        try:
            taken = await self._subscription.unpark(wanted)
        except BrokerError as error:
            logger.error("Can't take what is parked, trying again: %s", error)
        finally:
            self._asking = False
            came = Counter(delivery.line for delivery in taken or ())
            for name, count in wanted.items():
                self._used[name] -= count - came[name]
                if taken is None or came[name] == count or not self._is_connected():
                    self._waiting.add(name)
        if taken:
            self._hand_on(taken)

    def _limited(self) -> set[str]:
        return {name for name, task in self._tasks.items() if task.concurrency is not None}

    def _free(self, name: str) -> int:
        task = self._tasks.get(name)
        return 0 if task is None or task.concurrency is None else task.concurrency - self._used[name]
