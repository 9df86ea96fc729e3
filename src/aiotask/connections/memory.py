"""The store that a memory broker and a memory backend share: messages, rows, and who waits for either.

Nothing here is bound to an event loop: what it holds outlives the adapters and the loop that put it there. Every
method is one step without an `await`, which makes it atomic for all that run on one loop.
"""

import asyncio
import contextlib
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from typing import Final

import msgspec

from aiotask.message import DEAD_BODY_BYTES, DEFAULT_PRIORITY, DeadLetter, Delivery, Envelope, Settlement

SCAN_MOST_S: Final = 5.0
"""Longest time between two looks for lapsed leases; a quarter of the lease when that is shorter."""

_RECLAIMED: Final = -1
"""The rank of the line of reclaimed messages: ahead of priority 0."""

_GRAIN_S: Final = 4
"""Expired rows are dropped by the bucket, so many seconds late at most; readers see them gone at once."""


class MemoryLink:
    """One store, to be given to the broker and the backend that belong together."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Make an empty store.

        Args:
            clock: The broker's clock: epoch seconds. Due times, leases and expiries go by it.
        """
        self.clock = clock
        self.messages = MessageStore(clock)
        self.rows = RowStore(clock)


def wake(waiter: "asyncio.Future[None]") -> None:
    """Resolve `waiter`, also when it belongs to another thread's loop; one whose loop is closed is nobody's."""
    loop = waiter.get_loop()
    if loop is asyncio.get_running_loop():
        _resolve(waiter)
    elif not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # it was closed just now
            loop.call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemoryQueue:
    """What waits in one queue, a line for each rank in use, and who waits for it."""

    __slots__ = ("lines", "name", "usual", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.usual: deque[Delivery] = deque()
        self.lines: dict[int, deque[Delivery]] = {_RECLAIMED: deque(), DEFAULT_PRIORITY: self.usual}
        self.waiters: set[asyncio.Future[None]] = set()

    def line(self, rank: int) -> deque[Delivery]:
        """Return the line of `rank`; `lines` stays in the order of the ranks."""
        line = self.lines.get(rank)
        if line is None:
            line = deque()
            self.lines = dict(sorted([*self.lines.items(), (rank, line)]))
        return line

    def wake(self) -> None:
        """Let every waiting `receive` look again."""
        waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            wake(waiter)


class Holding:
    """What one consumer has in hand. Only the loop's thread changes it; a lease keeper's thread reads and appends."""

    __slots__ = ("deliveries", "lease_s", "renewals", "scan_s", "started", "until")

    def __init__(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.scan_s = min(lease_s / 4, SCAN_MOST_S)
        """Seconds between two looks for lapsed leases."""
        self.deliveries: dict[int, Delivery] = {}
        """By receipt. What is not in here is not the consumer's (any more): this is the fence."""
        self.until: dict[int, float] = {}
        self.started: set[int] = set()
        self.renewals: deque[tuple[Sequence[int], float]] = deque()
        """What the keeper renewed and no scan has looked at yet. A deque, so that neither side needs a lock."""

    def hold(self, taken: Sequence[Delivery], until: float) -> None:
        """Lease `taken`."""
        receipts = [delivery.receipt for delivery in taken]
        self.deliveries.update(zip(receipts, taken, strict=True))
        self.until.update(dict.fromkeys(receipts, until))

    def forget(self, receipts: Sequence[int]) -> None:
        """Drop what else is known of receipts that are out of `deliveries`."""
        for receipt in receipts:
            del self.until[receipt]
        self.started.difference_update(receipts)

    def lapsed(self, now: float) -> list[int]:
        """Return the receipts whose lease is over, after counting in what was renewed."""
        until = self.until
        while self.renewals:
            receipts, renewed_until = self.renewals.popleft()
            for receipt in receipts:
                if receipt in until:
                    until[receipt] = renewed_until
        return [receipt for receipt, end in until.items() if end <= now]


class MessageStore:
    """Queues, delayed messages, what is handed out, and dead letters.

    A waiting message is kept as the `Delivery` that its next taker gets. Its receipt is drawn when it joins a line and
    so is its place in the order too; what goes ahead of a line draws from below zero. Each handing-out is a `Delivery`
    of its own, with a receipt of its own.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.queues: dict[str, MemoryQueue] = {}
        self.delayed: list[tuple[float, int, Delivery]] = []
        """A heap over all queues: due time, order of arrival."""
        self.dead: list[DeadLetter] = []
        """The newest last."""
        self.holdings: set[Holding] = set()
        """Those that hold something."""
        self._behind = itertools.count(1).__next__
        self._ahead = itertools.count(-1, -1).__next__
        self._scan_at = math.inf

    def queue(self, name: str) -> MemoryQueue:
        """Return the queue of that name, made where it doesn't exist."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = MemoryQueue(name)
        return queue

    def add(self, batch: Sequence[Envelope]) -> None:
        """Put new messages at the end of their lines, or among the delayed."""
        if self.delayed:
            self.promote(self.clock())  # what was due before stands ahead
        behind = self._behind
        queue: MemoryQueue | None = None
        name = ""
        for envelope in batch:
            if queue is None or envelope.queue != name:
                name = envelope.queue
                queue = self.queue(name)
                append = queue.usual.append
            if (
                envelope.priority == DEFAULT_PRIORITY
                and envelope.delay_s is None
                and envelope.due_at is None
                and envelope.ttl_s is None
            ):
                append(
                    Delivery(
                        envelope.id,
                        name,
                        envelope.body,
                        envelope.content_type,
                        DEFAULT_PRIORITY,
                        behind(),
                        1,
                        0,
                        envelope.expires_at,
                    )
                )
                if queue.waiters:
                    queue.wake()
            else:
                self._add_special(queue, envelope)

    def _add_special(self, queue: MemoryQueue, envelope: Envelope) -> None:
        now = self.clock()
        due_at = envelope.due_at if envelope.delay_s is None else now + envelope.delay_s
        delivery = Delivery(
            envelope.id,
            queue.name,
            envelope.body,
            envelope.content_type,
            envelope.priority,
            self._behind(),
            expires_at=envelope.expires_at if envelope.ttl_s is None else now + envelope.ttl_s,
        )
        if due_at is not None and due_at > now:
            self._delay(delivery, due_at)
        else:
            queue.line(envelope.priority).append(delivery)
            queue.wake()

    def _delay(self, delivery: Delivery, due_at: float) -> None:
        entry = (due_at, delivery.receipt, delivery)
        heappush(self.delayed, entry)
        if self.delayed[0] is entry:
            self.queue(delivery.queue).wake()  # those who wait there sleep until a later time

    def promote(self, now: float) -> None:
        """Put what is due at the end of its line."""
        delayed = self.delayed
        while delayed and delayed[0][0] <= now:
            delivery = heappop(delayed)[2]
            delivery.receipt = self._behind()
            queue = self.queue(delivery.queue)
            queue.line(delivery.priority).append(delivery)
            queue.wake()

    def take(self, queues: Sequence[MemoryQueue], limit: int, holding: Holding) -> list[Delivery]:
        """Lease up to `limit` due messages to the owner of `holding`.

        Reclaimed ones come first, then by priority, then in the order in which they became due, over all `queues`.
        """
        now = self.clock()
        if now >= self._scan_at:
            self.reclaim(now)
        if self.delayed and self.delayed[0][0] <= now:
            self.promote(now)
        taken: list[Delivery] = []
        if len(queues) == 1:
            for line in queues[0].lines.values():
                if line:
                    room = limit - len(taken)
                    popleft = line.popleft
                    taken += [popleft() for _ in range(min(room, len(line)))]
        else:
            for rank in sorted({rank for queue in queues for rank in queue.lines}):
                _merge([queue.lines[rank] for queue in queues if queue.lines.get(rank)], limit, taken)
        if taken:
            holding.hold(taken, now + holding.lease_s)
            self.holdings.add(holding)
            self._scan_at = min(self._scan_at, now + holding.scan_s)
        return taken

    def reclaim(self, now: float) -> None:
        """Take what is leased no longer from its consumers and put it ahead of all that waits.

        Cost: proportional to all that is handed out; called at most once in `Holding.scan_s`.
        """
        lapsed = []
        self._scan_at = math.inf
        for holding in tuple(self.holdings):
            receipts = holding.lapsed(now)
            lapsed += [(holding.deliveries.pop(receipt), receipt in holding.started) for receipt in receipts]
            holding.forget(receipts)
            if holding.deliveries:
                self._scan_at = min(self._scan_at, now + holding.scan_s)
            else:
                self.holdings.discard(holding)
        lapsed.sort(key=_by_priority)
        for delivery, started in lapsed:
            queue = self.queue(delivery.queue)
            queue.line(_RECLAIMED).append(_again(delivery, self._behind(), delivery.losses + started))
            queue.wake()

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put `deliveries` ahead of what waits in their lines, in their order. Not counted as a loss."""
        for delivery in reversed(deliveries):
            queue = self.queue(delivery.queue)
            queue.line(delivery.priority).appendleft(_again(delivery, self._ahead(), delivery.losses))
            queue.wake()

    def give_back_later(self, delivery: Delivery, delay_s: float) -> None:
        """Put `delivery` among the delayed."""
        self._delay(_again(delivery, self._behind(), delivery.losses), self.clock() + delay_s)

    def bury(self, delivery: Delivery, settlement: Settlement) -> None:
        """Put `delivery` among the dead letters."""
        letter = DeadLetter(
            id=delivery.id,
            queue=delivery.queue,
            reason=settlement.reason,
            detail=settlement.detail,
            died_at=self.clock(),
            body=delivery.body[:DEAD_BODY_BYTES],
            body_bytes=len(delivery.body),
            content_type=delivery.content_type,
            priority=delivery.priority,
        )
        self.dead.append(letter)

    def purge(self, name: str) -> int:
        """Drop what waits or is delayed in one queue; return how many."""
        kept = [entry for entry in self.delayed if entry[2].queue != name]
        dropped = len(self.delayed) - len(kept)
        self.delayed[:] = kept
        heapify(self.delayed)
        for line in self.queue(name).lines.values():
            dropped += len(line)
            line.clear()
        return dropped


def _merge(lines: list[deque[Delivery]], limit: int, taken: list[Delivery]) -> None:
    """Move from `lines` to `taken` in the order of the receipts, until `taken` has `limit`."""
    while lines and len(taken) < limit:
        lines.sort(key=_head)
        line = lines[0]
        bound = _head(lines[1]) if len(lines) > 1 else math.inf
        while line and len(taken) < limit and _head(line) < bound:
            taken.append(line.popleft())
        if not line:
            del lines[0]


def _head(line: deque[Delivery]) -> int:
    receipt: int = line[0].receipt
    return receipt


def _by_priority(lapsed: tuple[Delivery, bool]) -> tuple[int, int]:
    return lapsed[0].priority, lapsed[0].receipt


def _again(delivery: Delivery, receipt: int, losses: int) -> Delivery:
    """Return the next handing-out of the message of `delivery`."""
    return Delivery(
        delivery.id,
        delivery.queue,
        delivery.body,
        delivery.content_type,
        delivery.priority,
        receipt,
        delivery.delivery_count + 1,
        losses,
        delivery.expires_at,
    )


class Row(msgspec.Struct):
    """A stored outcome, encoded."""

    id: str
    data: bytes
    final: bool
    expires_at: float | None


class RowStore:
    """Rows by task id, and who watches them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._watchers: dict[str, set[Callable[[Row], None]]] = {}
        self._ids_by_expiry: dict[int, list[str]] = {}
        self._expiries: list[int] = []
        """A heap of the keys of `_ids_by_expiry`."""

    def store(self, rows: Sequence[Row]) -> None:
        """Keep `rows` and push them to who watches; what has a final row already is left alone."""
        now = self._clock()
        if self._expiries:
            self.sweep(now)
        kept = self._rows
        watchers = self._watchers
        for row in rows:
            old = kept.get(row.id)
            if old is not None and old.final and not _expired(old, now):
                continue
            kept[row.id] = row
            if row.expires_at is not None and (old is None or old.expires_at != row.expires_at):
                self._expire(row.id, row.expires_at)
            if watchers and (pushes := watchers.get(row.id)):
                for push in pushes:
                    push(row)

    def fetch(self, ids: Sequence[str]) -> list[Row | None]:
        """Return the row of each id, or None where there is none that has not expired."""
        now = self._clock()
        found = [self._rows.get(id_) for id_ in ids]
        return [None if row is None or _expired(row, now) else row for row in found]

    def forget(self, ids: Sequence[str]) -> int:
        """Drop the rows of `ids`; return how many there were."""
        now = self._clock()
        dropped = [self._rows.pop(id_, None) for id_ in ids]
        return sum(row is not None and not _expired(row, now) for row in dropped)

    def sweep(self, now: float) -> None:
        """Drop what has expired.

        Cost: a comparison when nothing has.
        """
        while self._expiries and (self._expiries[0] + 1) * _GRAIN_S <= now:
            for id_ in self._ids_by_expiry.pop(heappop(self._expiries)):
                row = self._rows.get(id_)
                if row is not None and _expired(row, now):
                    del self._rows[id_]

    def add_watcher(self, ids: Sequence[str], push: Callable[[Row], None]) -> None:
        """Call `push` with each row of `ids` as it is stored."""
        for id_ in ids:
            self._watchers.setdefault(id_, set()).add(push)

    def remove_watcher(self, ids: Sequence[str], push: Callable[[Row], None]) -> None:
        """Undo `add_watcher`."""
        for id_ in ids:
            watchers = self._watchers.get(id_, set())
            watchers.discard(push)
            if not watchers:
                self._watchers.pop(id_, None)

    def _expire(self, id_: str, expires_at: float) -> None:
        key = int(expires_at // _GRAIN_S)
        ids = self._ids_by_expiry.get(key)
        if ids is None:
            self._ids_by_expiry[key] = [id_]
            heappush(self._expiries, key)
        else:
            ids.append(id_)


def _expired(row: Row, now: float) -> bool:
    return row.expires_at is not None and row.expires_at <= now
