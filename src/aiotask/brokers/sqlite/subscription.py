"""One consumer of a SQLite broker: takes, starts and settles messages, and keeps its leases."""

import asyncio
import contextlib
import logging
import math
import os
import random
import sqlite3
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from aiotask.brokers.sqlite import messages, parking, presence, taking
from aiotask.connections.sqlite.database import FileRefused, may_pass
from aiotask.connections.sqlite.link import SqliteLink
from aiotask.connections.sqlite.rows import to_json
from aiotask.connections.sqlite.storage import LinkClosed, Step
from aiotask.connections.translating import Translation
from aiotask.exceptions import BrokerConnectionError, BrokerError, BrokerFull
from aiotask.message import Delivery, Finish, Settlement, Start, Verdict
from aiotask.protocols import Renewal, ResultBackend

T = TypeVar("T")

ERRORS: Final = Translation(BrokerConnectionError, BrokerError, BrokerFull)

_SCAN_MOST_S: Final = 5.0
"""Longest time between two looks for lapsed leases; a quarter of the lease when that is shorter.

A lease is lost when it had lapsed at two looks so far apart. Where time has passed for nobody (the machine slept, its
clock was set, the file was locked) this gives the owner the time to renew it.
"""
_BRIEF: Final = 0.25
"""Part of that time which a look may wait for the file."""
_TICK_S: Final = 0.002
"""Twice the grain of SQL's clock: a due time that differs by less is the one that is waited for."""
_RENEW_TIMEOUT_S: Final = 5.0
_REPEAT_S: Final = 0.1
_REPEAT_MOST_S: Final = 2.0

_log = logging.getLogger(__name__)


class SqliteSubscription:
    """A `Subscription` and `FusedFinish` on a `SqliteLink`. What it receives is leased by rows in the file.

    Lapsed leases are reclaimed by whoever receives, of all queues; no service runs for it. While `receive` waits, the
    storage thread looks for changes, and nothing happens in the event loop.
    """

    def __init__(
        self,
        link: SqliteLink,
        queues: Sequence[str],
        *,
        consumer: str,
        lease: float,
        max_losses: int,
        forget: Callable[["SqliteSubscription"], None],
    ) -> None:
        self.consumer = consumer
        self._link = link
        # Never another's, so that closing hands back nothing but our own.
        self._owner = f"{consumer}#{os.urandom(4).hex()}"
        self._queues = to_json(list(dict.fromkeys(queues)))
        self._lease_s = lease
        self._max_losses = max_losses
        self._forget = forget
        self._scan_s = min(_SCAN_MOST_S, lease / 4)
        self._scan_at = 0.0
        # When lapsed leases were seen first, by the broker's clock and by the loop's. Who has just come was not held up
        # together with their owners: what had lapsed before its first look is lost.
        self._seen: tuple[float, float] | None = (math.inf, -math.inf)
        self._waiters: set[_Waiter] = set()
        self._closed = False

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        """See `Subscription`; `[]` at once when it is closed.

        Cost: one commit that does not wait for the disk when there is work, else a read.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        waiter: _Waiter | None = None
        try:
            while not self._closed:
                taken, pause = await self._take(max_items)
                left = deadline - loop.time()
                if self._closed:
                    break
                if taken or left <= 0:
                    return list(taken)
                if waiter is not None:
                    await waiter.wait(min(left, pause))
                else:  # changes are seen from now on; what came between the first look and now, by a second
                    waiter = _Waiter(loop, self._due_in_s)
                    self._waiters.add(waiter)
                    self._link.observe(waiter)
        except LinkClosed:
            return []
        finally:
            if waiter is not None:
                self._waiters.discard(waiter)
                self._link.unobserve(waiter)
        return []  # what was taken meanwhile was handed back by `close`

    async def _take(self, max_items: int) -> tuple[Sequence[Delivery], float]:
        """Return what there is, and in how many seconds to look again when that is nothing."""
        now = asyncio.get_running_loop().time()
        scan = now >= self._scan_at
        if scan:
            self._scan_at = now + self._scan_s * random.uniform(0.8, 1.0)  # noqa: S311 - spreads processes
        lost_by = -math.inf
        if scan and self._seen is not None and now - self._seen[1] >= self._scan_s:
            lost_by = self._seen[0]
        wanted = taking.Wanted(
            self._owner, self._queues, max_items, self._lease_s, scan, lost_by, time.monotonic(), self._scan_s * _BRIEF
        )
        taken = await self._leased(
            partial(taking.take, wanted=wanted), probe=partial(taking.nothing_to_take, wanted=wanted)
        )
        if taken is None:
            return (), _REPEAT_MOST_S
        if scan:
            self._note_lapse(taken.lapse, judged=lost_by > -math.inf)
        pause = self._scan_at - now
        return taken.deliveries, max(0.0, pause if taken.due_in_s is None else min(pause, taken.due_in_s))

    async def _leased(self, step: Step[taking.Taken], *, probe: Step[taking.Taken | None]) -> taking.Taken | None:
        """Return what `step` leases to us, None while the file can't be used. Cancelled, it is given back."""
        future = self._link.run(
            step,
            probe=probe,
            durable=False,  # a lease that a power failure forgets leaves its message where it waited
            undo=self._give_back,
        )
        try:
            return await future
        except (sqlite3.Error, FileRefused) as error:
            _log.warning("No messages can be taken from %s: %s", self._link.path, error)
            return None
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())
            raise

    def _note_lapse(self, lapse: taking.Lapse | None, *, judged: bool) -> None:
        """Plan the next look for lapsed leases by what this one has found, and has left."""
        now = asyncio.get_running_loop().time()
        if lapse is None:
            self._seen = None
            return
        lapses_in = lapse.until - lapse.looked_at
        if lapses_in > 0:
            self._seen = None
            self._scan_at = min(self._scan_at, now + lapses_in + 0.001)
            return
        if self._seen is None or judged:
            self._seen = lapse.looked_at, now
        self._scan_at = min(self._scan_at, self._seen[1] + self._scan_s)

    def _due_in_s(self, connection: sqlite3.Connection) -> float | None:
        return taking.due_in_s(connection, self._queues)

    def _give_back(self, taken: taking.Taken) -> None:
        """Give back what a cancelled call had taken. Nobody waits for it; where it fails, the lease lapses."""
        leases = [delivery.receipt for delivery in taken.deliveries]
        if leases:
            with contextlib.suppress(LinkClosed):
                self._link.run(partial(messages.give_back, leases=leases)).add_done_callback(_ignore)

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        """See `Subscription`; `[]` when it is closed.

        Cost: one commit that does not wait for the disk when there is something, else a read.
        """
        if self._closed:
            return []
        wanted = parking.Wanted(
            self._owner, self._queues, {line: limit for line, limit in lines.items() if limit > 0}, self._lease_s
        )
        try:
            taken = await self._leased(
                partial(parking.unpark, wanted=wanted), probe=partial(parking.nothing_to_unpark, wanted=wanted)
            )
        except LinkClosed:
            return []
        # What was taken meanwhile was handed back by `close`.
        return [] if taken is None or self._closed else list(taken.deliveries)

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """See `Subscription`. Repeated while the file is locked or full, as `settle` is.

        Cost: one commit.
        """
        return await self._persist(partial(messages.begin, batch=batch, max_losses=self._max_losses))

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        """See `Subscription`.

        Raises:
            BrokerError: The file can't hold this batch, or the link is closed.

        Cost: one commit.
        """
        refused = await self._persist(partial(messages.settle, batch=batch))
        return [batch[position].delivery for position in refused]

    def fuses(self, backend: ResultBackend) -> bool:
        """See `FusedFinish`: true of a `SqliteBackend` on the same link."""
        return getattr(backend, "link", None) is self._link

    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        """See `FusedFinish`; repeated as `settle` is.

        Cost: one commit.
        """
        refused = await self._persist(partial(messages.finish, batch=batch))
        return [batch[position].settlement.delivery for position in refused]

    async def _persist(self, step: Step[T]) -> T:
        """Run `step`, again and again while the file is locked or full. When it runs, the fence tells what is lost."""
        with self._link.translating(ERRORS):
            pause = _REPEAT_S
            while True:
                try:
                    return await self._link.run(step)
                except (sqlite3.Error, FileRefused) as error:
                    if self._closed or not may_pass(error):
                        raise
                    _log.warning("%s can't be written, trying again in %s s: %s", self._link.path, pause, error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _REPEAT_MOST_S)

    def lease_keeper(self) -> "SqliteLeaseKeeper":
        """See `Subscription`."""
        return SqliteLeaseKeeper(self._link, self._owner, self._lease_s)

    async def set_queues(self, queues: Sequence[str]) -> None:
        """See `Subscription`; a waiting `receive` follows at once."""
        self._queues = to_json(list(dict.fromkeys(queues)))
        self._wake()
        await self.announce()

    async def announce(self) -> None:
        """Let it be counted as a consumer of its queues. `receive` repeats that: a failure is only told."""
        step = partial(presence.announce, consumer=self._owner, queues=self._queues, lease_s=self._lease_s)
        try:
            if not self._closed:
                await self._link.run(step, durable=False)
        except (sqlite3.Error, FileRefused, LinkClosed) as error:
            _log.warning("%s can't be told who consumes, trying again later: %s", self._link.path, error)

    def _wake(self) -> None:
        for waiter in self._waiters:
            waiter.wake()

    async def close(self) -> None:
        """See `Subscription`; a waiting `receive` returns `[]`."""
        if self._closed:
            return
        self._closed = True
        self._forget(self)
        self._wake()
        with self._link.translating(ERRORS), contextlib.suppress(LinkClosed):
            await self._link.run(partial(_leave, consumer=self._owner))


def _leave(connection: sqlite3.Connection, consumer: str) -> None:
    messages.give_back_all(connection, consumer)
    presence.withdraw(connection, consumer)


class SqliteLeaseKeeper:
    """A `LeaseKeeper` that goes straight to the link's storage thread, whatever the event loop is doing."""

    def __init__(self, link: SqliteLink, consumer: str, lease_s: float) -> None:
        self._link = link
        self._consumer = consumer
        self._lease_s = lease_s

    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        """See `LeaseKeeper`. Waits 5 s at most.

        Cost: one commit that does not wait for the disk.
        """
        leases = [receipt for receipt in receipts if isinstance(receipt, int)]
        step = partial(messages.renew, leases=leases, consumer=self._consumer, lease_s=self._lease_s)
        with self._link.translating(ERRORS):
            try:
                return Renewal(self._link.call(step, timeout=_RENEW_TIMEOUT_S, durable=False))
            except TimeoutError as error:
                raise BrokerError(
                    f"The leases in {self._link.path} could not be renewed within {_RENEW_TIMEOUT_S:g} s."
                ) from error

    def close(self) -> None:
        """Hold nothing."""


class _Waiter:
    """A `receive` that waits, as an observer of the link."""

    __slots__ = ("_due_in_s", "_future", "_until_mono", "_woken", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, due_in_s: Callable[[sqlite3.Connection], float | None]) -> None:
        self.loop = loop
        self._due_in_s = due_in_s
        self._future: asyncio.Future[None] | None = None
        self._until_mono = math.inf
        self._woken = False

    def look(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        """Wake the loop only when there is something to take before it would look again. In the storage thread."""
        due_in = self._due_in_s(connection)
        sooner = due_in is not None and time.monotonic() + due_in < self._until_mono - _TICK_S
        return self.wake if sooner else None

    def wake(self) -> None:
        """Let the `receive` look again."""
        self._woken = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait until it is woken, at most so long."""
        if not self._woken:
            self._future = self.loop.create_future()
            self._until_mono = time.monotonic() + seconds
            timer = self.loop.call_later(seconds, self.wake)
            try:
                await self._future
            finally:
                timer.cancel()
                self._until_mono = math.inf
        self._woken = False


def _ignore(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()
