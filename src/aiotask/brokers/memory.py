"""The broker that lives in this process: the reference for every other, and the double for tests.

It carries encoded envelopes, leases, fences, delays and dead letters as a server does; several subscriptions on one
link behave as several worker processes. What it adds to the specification (`aiotask.protocols`): durable means for as
long as the link lives, the broker's clock is the link's, and over several queues the order is that over one.
"""

import asyncio
from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

import msgspec

from aiotask.connections.memory import Consumer, Holding, MemoryLink, MemoryQueue, wake
from aiotask.exceptions import BrokerConnectionError
from aiotask.message import DeadLetter, Delivery, Envelope, Finish, QueueDepth, Settlement, Start, Verdict
from aiotask.protocols import Answering, Renewal, ResultBackend
from aiotask.wire.commands import carry_out, pack, unpack


class MemoryBroker:
    """A `Broker`, `QueueAdmin`, `HeaderCarrier`, `Revoking` and `RemoteControlled` on a `MemoryLink`.

    Its subscriptions are `FusedFinish`.
    """

    carries_headers: Literal[True] = True

    def __init__(self, link: MemoryLink) -> None:
        self.link = link
        self._messages = link.messages
        self._subscriptions: set[MemorySubscription] = set()
        self._open = False

    @property
    def connected(self) -> bool:
        """True while it is open."""
        return self._open

    async def open(self) -> None:
        """Never fails."""
        self._open = True

    async def close(self) -> None:
        """Close the subscriptions that are still open; the link keeps every message."""
        self._open = False
        for subscription in tuple(self._subscriptions):
            await subscription.close()

    async def publish(self, batch: Sequence[Envelope]) -> None:
        """Store `batch`.

        Raises:
            BrokerConnectionError: It is not open.
        """
        self._must_be_open()
        self._messages.add(batch)

    async def subscribe(
        self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int
    ) -> "MemorySubscription":
        """Begin to consume, on the running loop.

        Raises:
            BrokerConnectionError: It is not open.
        """
        self._must_be_open()
        subscription = MemorySubscription(
            self.link,
            queues,
            consumer=consumer,
            lease=lease,
            max_losses=max_losses,
            open_ones=self._subscriptions,
        )
        self._subscriptions.add(subscription)
        return subscription

    async def revoke(self, ids: Sequence[str]) -> None:
        """See `Revoking`.

        Raises:
            BrokerConnectionError: It is not open.
        """
        self._must_be_open()
        self._messages.revoke(ids)

    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        """See `RemoteControlled`."""
        with self.link.nodes.listening(node, partial(carry_out, commands)):
            yield

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """See `RemoteControlled`.

        Raises:
            BrokerConnectionError: It is not open.
        """
        self._must_be_open()
        answers = await self.link.nodes.ask(command, pack(arguments), destination, timeout)
        return {node: unpack(answer) for node, answer in answers.items()}

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerConnectionError("The memory broker is not open; call open() first.")

    async def queues(self) -> list[str]:
        """See `QueueAdmin`."""
        names = {letter.queue for letter in self._messages.dead}
        names.update(delivery.queue for _, _, delivery in self._messages.delayed)
        names.update(delivery.queue for delivery in self._handed_out())
        names.update(
            queue.name for queue in self._messages.queues.values() if queue.parked or any(queue.lines.values())
        )
        return sorted(names)

    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        """See `QueueAdmin`."""
        now = self.link.clock()
        self._messages.reclaim(now)
        self._messages.promote(now)
        depths = {name: QueueDepth(name) for name in queues}
        for name, depth in depths.items():
            if name in self._messages.queues:
                depth.ready = sum(map(len, self._messages.queues[name].lines.values()))
                depth.parked = sum(map(len, self._messages.queues[name].parked.values()))
        for _, _, delivery in self._messages.delayed:
            if delivery.queue in depths:
                depths[delivery.queue].delayed += 1
        for delivery in self._handed_out():
            if delivery.queue in depths:
                depths[delivery.queue].reserved += 1
        for letter in self._messages.dead:
            if letter.queue in depths:
                depths[letter.queue].dead += 1
        return [depths[name] for name in queues]

    def _handed_out(self) -> list[Delivery]:
        return [delivery for holding in self._messages.holdings for delivery in holding.deliveries.values()]

    async def consumers(self, queues: Sequence[str]) -> list[int]:
        """See `QueueAdmin`."""
        consumed = self._messages.consumed()
        return [consumed.count(name) for name in queues]

    async def purge(self, queues: Sequence[str]) -> int:
        """See `QueueAdmin`."""
        return sum(map(self._messages.purge, queues))

    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        found = [letter for letter in reversed(self._messages.dead) if queues is None or letter.queue in queues]
        return found[:limit]

    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        wanted = set(ids)
        return [letter for letter in reversed(self._messages.dead) if letter.id in wanted]

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        """See `QueueAdmin`; several letters of one id are put back in the order in which they died."""
        wanted = set(ids)
        back = [
            letter for letter in self._messages.dead if letter.id in wanted and letter.body_bytes == len(letter.body)
        ]
        self._drop_dead(back)
        self._messages.add(
            [
                Envelope(
                    letter.id,
                    letter.queue,
                    letter.body,
                    letter.content_type,
                    letter.priority,
                    headers=letter.headers,
                    properties=letter.properties,
                )
                for letter in back
            ]
        )
        put_back = {letter.id for letter in back}
        return [id_ for id_ in dict.fromkeys(ids) if id_ in put_back]

    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        """See `QueueAdmin`."""
        dropped = [letter for letter in self._messages.dead if queues is None or letter.queue in queues]
        self._drop_dead(dropped)
        return len(dropped)

    def _drop_dead(self, letters: Sequence[DeadLetter]) -> None:
        dropped = set(map(id, letters))
        self._messages.dead[:] = [letter for letter in self._messages.dead if id(letter) not in dropped]


class MemorySubscription:
    """A `Subscription` and `FusedFinish`. A small service of it reclaims, promotes and expires while it is open."""

    def __init__(
        self,
        link: MemoryLink,
        queues: Sequence[str],
        *,
        consumer: str,
        lease: float,
        max_losses: int,
        open_ones: set["MemorySubscription"],
    ) -> None:
        self.consumer = consumer
        self._link = link
        self._messages = link.messages
        self._max_losses = max_losses
        self._open_ones = open_ones
        self._holding = Holding(lease)
        self._waiters: set[asyncio.Future[None]] = set()
        self._closed = False
        self._queues = self._announced(queues)
        self._service = asyncio.get_running_loop().call_later(self._holding.scan_s, self._serve)

    def _announced(self, queues: Sequence[str]) -> list[MemoryQueue]:
        """Return the queues of these names; let it be known that they are consumed."""
        named = self._named(queues)
        if not self._closed:
            self._messages.consumers[self._holding] = Consumer(asyncio.get_running_loop(), named)
        return named

    def _named(self, queues: Sequence[str]) -> list[MemoryQueue]:
        return [self._messages.queue(name) for name in dict.fromkeys(queues)]

    def _serve(self) -> None:
        """Do what nobody's call would do while all wait, or nobody does. Each subscription does it for all."""
        now = self._link.clock()
        self._messages.reclaim(now)
        self._messages.promote(now)
        self._link.rows.sweep(now)
        self._service = asyncio.get_running_loop().call_later(self._holding.scan_s, self._serve)

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        """See `Subscription`; `[]` at once when it is closed.

        Cost: no timer and no wake-up when there is work; while waiting, one timer for the call.
        """
        deadline: float | None = None
        while not self._closed:
            taken = self._messages.take(self._queues, max_items, self._holding)
            if taken or wait <= 0:
                return taken
            loop = asyncio.get_running_loop()
            deadline = loop.time() + wait if deadline is None else deadline
            if loop.time() >= deadline:
                return taken
            await self._changed(loop, deadline)
        return []

    async def _changed(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Wait until there may be something to take, or `deadline` (loop time) has come."""
        waiter: asyncio.Future[None] = loop.create_future()
        if self._messages.delayed:
            deadline = min(deadline, loop.time() + self._messages.delayed[0][0] - self._link.clock())
        timer = loop.call_at(deadline, wake, waiter)
        queues = self._queues
        for queue in queues:
            queue.waiters.add(waiter)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)
            for queue in queues:
                queue.waiters.discard(waiter)

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        """See `Subscription`; `[]` when it is closed."""
        return [] if self._closed else self._messages.unpark(self._queues, lines, self._holding)

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """See `Subscription`."""
        held = self._holding.deliveries
        revoked = self._messages.revoked
        begun: list[int] = []
        verdicts: list[Verdict] = []
        for start in batch:
            receipt = start.delivery.receipt
            own = held.get(receipt)
            if own is None:
                verdict = Verdict.LOST
            elif revoked and own.id in revoked:
                verdict = Verdict.REVOKED
            elif own.losses or own.expires_at is not None:
                verdict = self._judge(own, acks_late=start.acks_late)
            else:
                verdict = Verdict.RUN
            if verdict is Verdict.RUN:
                begun.append(receipt)
            verdicts.append(verdict)
        self._holding.started.update(begun)
        return verdicts

    def _judge(self, own: Delivery, *, acks_late: bool) -> Verdict:
        if own.losses and not acks_late:
            return Verdict.STARTED_BEFORE
        if own.losses >= self._max_losses:
            return Verdict.TOO_MANY_STARTS
        if own.expires_at is not None and own.expires_at <= self._link.clock():
            return Verdict.EXPIRED
        return Verdict.RUN

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        """See `Subscription`."""
        return [batch[at].delivery for at in self._settle(batch)]

    def _settle(self, batch: Sequence[Settlement]) -> list[int]:
        """Carry out `batch`; return the positions of those refused."""
        pop = self._holding.deliveries.pop
        settled: list[int] = []
        ahead: list[Delivery] = []
        refused: list[int] = []
        for at, settlement in enumerate(batch):
            receipt = settlement.delivery.receipt
            own = pop(receipt, None)
            if own is None:
                refused.append(at)
                continue
            settled.append(receipt)
            if settlement.action != "ack":
                self._carry_out(own, settlement, ahead)
        self._holding.forget(settled)
        if ahead:
            self._messages.give_back(ahead)
        return refused

    def _carry_out(self, own: Delivery, settlement: Settlement, ahead: list[Delivery]) -> None:
        if settlement.lost:
            own = msgspec.structs.replace(own, losses=own.losses + 1)
        if settlement.action == "dead":
            self._messages.bury(own, settlement)
        elif settlement.action == "replace" and settlement.envelope is not None:
            self._messages.add([settlement.envelope])
        elif settlement.action == "park":
            self._messages.park(own, settlement.line)
        elif settlement.delay_s > 0:
            self._messages.give_back_later(own, settlement.delay_s)
        else:
            ahead.append(own)

    def fuses(self, backend: ResultBackend) -> bool:
        """See `FusedFinish`: true of a `MemoryBackend` on the same link."""
        return getattr(backend, "link", None) is self._link

    async def finish(self, batch: Sequence[Finish]) -> list[Delivery]:
        """See `FusedFinish`."""
        refused = self._settle([finish.settlement for finish in batch])
        done = batch if not refused else [finish for at, finish in enumerate(batch) if at not in refused]
        rows = [finish.row for finish in done if finish.row is not None]
        if rows:
            self._link.rows.store(rows)
        for finish in done:
            if finish.follow_ups:
                self._messages.add(finish.follow_ups)
        return [batch[at].settlement.delivery for at in refused]

    def lease_keeper(self) -> "MemoryLeaseKeeper":
        """See `Subscription`."""
        return MemoryLeaseKeeper(self._link, self._holding)

    async def set_queues(self, queues: Sequence[str]) -> None:
        """See `Subscription`; a waiting `receive` follows at once."""
        self._queues = self._announced(queues)
        self._wake()

    def _wake(self) -> None:
        for waiter in tuple(self._waiters):
            wake(waiter)

    async def close(self) -> None:
        """See `Subscription`; a waiting `receive` returns `[]`."""
        if self._closed:
            return
        self._closed = True
        self._service.cancel()
        self._open_ones.discard(self)
        started = self._holding.started
        held = [
            msgspec.structs.replace(delivery, losses=delivery.losses + 1) if receipt in started else delivery
            for receipt, delivery in self._holding.deliveries.items()
        ]
        self._holding.deliveries.clear()
        self._holding.forget([delivery.receipt for delivery in held])
        self._messages.holdings.discard(self._holding)
        self._messages.consumers.pop(self._holding, None)
        self._messages.give_back(held)
        self._wake()


class MemoryLeaseKeeper:
    """A `LeaseKeeper` that takes no lock: it leaves a note, which the next scan reads before it judges a lease."""

    def __init__(self, link: MemoryLink, holding: Holding) -> None:
        self._clock = link.clock
        self._holding = holding

    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        """See `LeaseKeeper`."""
        held = self._holding.deliveries
        kept: list[int] = []
        lost: list[Hashable] = []
        for receipt in receipts:
            if isinstance(receipt, int) and receipt in held:
                kept.append(receipt)
            else:
                lost.append(receipt)
        if kept:
            self._holding.renewals.append((kept, self._clock() + self._holding.lease_s))
        return Renewal(lost)

    def close(self) -> None:
        """Hold nothing."""
