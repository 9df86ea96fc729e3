"""The messages of a memory broker: what waits, is delayed, parked, handed out or dead, and who waits for it."""

import asyncio
import contextlib
import itertools
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Final, NamedTuple

from aiotask.message import (
    DEAD_BODY_BYTES,
    DEFAULT_PRIORITY,
    REVOKED_KEPT,
    DeadLetter,
    Delivery,
    Envelope,
    Settlement,
)
from aiotask.newest import keep_newest

SCAN_MOST_S: Final = 5.0
"""Longest time between two looks for lapsed leases; a quarter of the lease when that is shorter."""

_RECLAIMED: Final = -1
"""The rank of the line of reclaimed messages: ahead of priority 0."""


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
    """What waits in one queue, a line for each rank in use, what is parked there, and who waits for it."""

    __slots__ = ("lines", "name", "parked", "usual", "waiters")

    def __init__(self, name: str) -> None:
        self.name = name
        self.usual: deque[Delivery] = deque()
        self.lines: dict[int, deque[Delivery]] = {_RECLAIMED: deque(), DEFAULT_PRIORITY: self.usual}
        self.parked: dict[str, list[tuple[int, int, Delivery]]] = {}
        """The waiting lines in use, by name. Each is a heap: priority, order of parking."""
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


class Consumer(NamedTuple):
    """A subscription, and what it takes from."""

    loop: asyncio.AbstractEventLoop
    queues: Sequence[MemoryQueue]


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
        self.revoked: OrderedDict[str, None] = OrderedDict()
        """The task ids that must not start, the newest last."""
        self.holdings: set[Holding] = set()
        """Those that hold something."""
        self.consumers: dict[Holding, Consumer] = {}
        """Who has not closed."""
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
                and envelope.headers is None
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
            headers=envelope.headers,
            properties=envelope.properties,
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
            self._lease(taken, holding, now)
        return taken

    def _lease(self, taken: Sequence[Delivery], holding: Holding, now: float) -> None:
        holding.hold(taken, now + holding.lease_s)
        self.holdings.add(holding)
        self._scan_at = min(self._scan_at, now + holding.scan_s)

    def park(self, delivery: Delivery, line: str) -> None:
        """Put `delivery` at the end of its priority in a waiting line of its queue. Nothing is counted."""
        parked = _again(delivery, self._behind(), delivery.losses)
        parked.delivery_count = delivery.delivery_count
        parked.line = line
        waiting = self.queue(delivery.queue).parked.setdefault(line, [])
        heappush(waiting, (parked.priority, parked.receipt, parked))

    def unpark(self, queues: Sequence[MemoryQueue], lines: Mapping[str, int], holding: Holding) -> list[Delivery]:
        """Lease up to so many messages of each of `lines`, over all `queues`, to the owner of `holding`."""
        taken: list[Delivery] = []
        for line, limit in lines.items():
            for _ in range(limit):
                queue = min((queue for queue in queues if line in queue.parked), key=_first_in(line), default=None)
                if queue is None:
                    break
                waiting = queue.parked[line]
                taken.append(heappop(waiting)[2])
                if not waiting:
                    del queue.parked[line]
        if taken:
            self._lease(taken, holding, self.clock())
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
            headers=delivery.headers,
            properties=delivery.properties,
        )
        self.dead.append(letter)

    def revoke(self, ids: Sequence[str]) -> None:
        """Keep `ids` as revoked; of all, the newest."""
        keep_newest(self.revoked, ids, REVOKED_KEPT)

    def consumed(self) -> list[str]:
        """Return the name of each queue as often as somebody takes from it. One whose loop is closed is nobody."""
        self.consumers = {who: consumer for who, consumer in self.consumers.items() if not consumer.loop.is_closed()}
        return [queue.name for consumer in self.consumers.values() for queue in consumer.queues]

    def purge(self, name: str) -> int:
        """Drop what waits, is delayed or parked in one queue; return how many."""
        kept = [entry for entry in self.delayed if entry[2].queue != name]
        dropped = len(self.delayed) - len(kept)
        self.delayed[:] = kept
        heapify(self.delayed)
        queue = self.queue(name)
        for line in queue.lines.values():
            dropped += len(line)
            line.clear()
        dropped += sum(map(len, queue.parked.values()))
        queue.parked.clear()
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


def _first_in(line: str) -> Callable[[MemoryQueue], tuple[int, int]]:
    return lambda queue: queue.parked[line][0][:2]


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
        None,
        delivery.headers,
        delivery.properties,
    )
