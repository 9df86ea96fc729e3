"""Takes messages from the server as they are asked for: a channel that is made again, its consumers, what has come.

The server pushes. So that it pushes to nobody who has no room, there are consumers only while somebody receives, and
they are told how much there is room for.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from heapq import heapify, heappop, heappush
from typing import Any, Final

from aiotask.brokers.amqp.names import Kind, Source
from aiotask.brokers.amqp.packing import Receipt
from aiotask.brokers.amqp.readable import see_readable
from aiotask.brokers.amqp.steps import ABSENT
from aiotask.brokers.amqp.topology import Topology
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, LinkClosed, LinkDown, Received
from aiotask.connections.backoff import Backoff
from aiotask.connections.signals import Signal
from aiotask.exceptions import BrokerError

_TAKEN: Final = (Kind.SUSPECTS, Kind.RETURNED, Kind.MAIN)
_GROWTH: Final = 2
"""A consumer is replaced when there is room for so many times what it may have, since that costs some round trips. It
is never made smaller: who has no room for a while has none at all, and begins anew."""
_FEW: Final = 16
_SUSPECT_LOOKS: Final = 10
_SUSPECT_LOOK_S: Final = 0.02
_REFUSED_S: Final = 0.25
_REFUSED_MOST_S: Final = 10.0
"""Pauses before what was refused is tried again, doubling: each is an error in our log, and in the server's."""


class Consumer:
    """One consumer of the server's."""

    __slots__ = ("prefetch", "source", "tag", "unacked")

    def __init__(self, source: Source, prefetch: int) -> None:
        self.source = source
        self.prefetch = prefetch
        self.unacked = 0
        self.tag = f"aiotask.{os.urandom(6).hex()}"


class Intake:
    """What of the server's side a subscription has. Whoever uses it looks at what comes, by `arrived`."""

    def __init__(
        self,
        link: AmqpLink,
        topology: Topology,
        arrived: Callable[[Receipt], bool],
        lost: Callable[[AmqpChannel], None],
        prepared: Callable[[], Awaitable[None]],
    ) -> None:
        """Wire it; nothing is opened.

        Args:
            link: The subscription's own, opened by it.
            topology: Makes the queues.
            arrived: Looks at what has come; tells whether it is to be handed out.
            lost: Told of a channel that is gone, with all that it has delivered.
            prepared: Returns when something may be taken, over a connection that is new.
        """
        self._link = link
        self._topology = topology
        self._arrived = arrived
        self._lost = lost
        self._prepared = prepared
        self.queues: list[str] = []
        self.channel: AmqpChannel | None = None
        self.trouble: Exception | None = None
        """Why there is no channel, where that is no matter of the connection."""
        self._told = True
        self.built_mono = 0.0
        """Since when there is this channel."""
        self.has_consumed = False
        """True once something was consumed by it: what the server has to give has come or is on its way."""
        self.changed = Signal()
        self._consumers: dict[Source, Consumer] = {}
        self._present: dict[str, str] = {}
        self._waiting: list[tuple[tuple[int, int, int], Receipt]] = []
        self._number = itertools.count().__next__
        self._busy = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None

    # ---- its life ----

    async def open(self, queues: Sequence[str]) -> None:
        """Begin.

        Raises:
            ChannelError, LinkDown: A queue can't be made, or consumed.
            BrokerError: A queue is a stream.
        """
        self.queues = list(dict.fromkeys(queues))
        await self._build()
        try:
            await self._try()
        except BaseException:
            await self.close()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="aiotask AMQP consumers")

    async def close(self) -> None:
        """End; what was delivered and not acknowledged goes back to its queue."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        channel, self.channel = self.channel, None
        if channel is not None:
            await channel.close_in_order()

    async def _build(self) -> None:
        await self._prepared()
        for queue in self.queues:
            await self._topology.ensure_consumed(queue)
        channel = await self._link.channel()
        channel.on_cancel(partial(self._ended, channel))
        self._consumers, self._present = {}, {}
        self.has_consumed = False
        for queue in self.queues:
            await self._announce(channel, queue)
        self.channel, self.trouble = channel, None
        self.built_mono = time.monotonic()
        self.changed.fire()

    async def _try(self) -> None:
        """See that messages can be taken, and take none, but where others than workers consume: they may do so alone.

        The server tells that only to who consumes in earnest. What comes by that is handed out as what comes later.
        """
        channel = self.channel
        assert channel is not None  # noqa: S101 - it has just been built
        for queue in self.queues:
            _, workers = await channel.declare_queue(Source(queue, Kind.WORKERS).name, passive=True)
            for source in (Source(queue, kind) for kind in _TAKEN):
                await see_readable(self._link, source.name)
                ready, consumers = await channel.declare_queue(source.name, passive=True)
                if consumers and (not ready or workers == 1):
                    await self._consume(channel, source, 1, insist=False)
                    await channel.cancel(self._consumers.pop(source).tag)

    async def _announce(self, channel: AmqpChannel, queue: str) -> None:
        tag = f"aiotask.{os.urandom(6).hex()}"
        await channel.consume(Source(queue, Kind.WORKERS).name, _nothing, tag, prefetch=1)
        self._present[queue] = tag

    def _ended(self, channel: AmqpChannel, tag: str) -> None:
        """A queue was deleted: make all of it again."""
        self._topology.forget()
        channel.abandon(f"the server has ended the consumer {tag}")

    async def _keep(self) -> None:
        backoff, refused = Backoff(), 0
        while True:
            channel = self.channel
            if channel is not None:
                await asyncio.wait([channel.lost])
                self.channel = None
                self._waiting.clear()
                self._consumers = {}
                self._lost(channel)
                await channel.close()
                why = channel.lost.result()
                if self.has_consumed or not isinstance(why, ChannelError):
                    refused = 0
                if isinstance(why, ChannelError):
                    self._topology.forget()
                    if not self.has_consumed and why.code != ABSENT:  # what is not there is made
                        refused += 1
                        self._is_refused(why)
            if refused:
                await asyncio.sleep(min(_REFUSED_S * (1 << min(refused, 16)), _REFUSED_MOST_S))
            else:
                await backoff.pause()
            try:
                await self._link.wait_connected(3600.0)
                await self._build()
                backoff.reset()
            except (LinkDown, LinkClosed):
                continue
            except (ChannelError, BrokerError) as error:
                self._topology.forget()
                refused += 1
                self._is_refused(error)

    def _is_refused(self, why: Exception) -> None:
        self.trouble, self._told = why, False
        self.changed.fire()

    # ---- taking ----

    def take(self, limit: int) -> list[Receipt]:
        """Return what has come, up to so many: what was lost first, then by priority, then as it came."""
        waiting = self._waiting
        return [heappop(waiting)[1] for _ in range(min(limit, len(waiting)))]

    def take_all(self, queues: Sequence[str] | None = None) -> list[Receipt]:
        """Return all that has come, of these queues alone where they are given."""
        taken = [entry for entry in sorted(self._waiting) if queues is None or entry[1].source.queue in queues]
        left = set(map(id, taken))
        self._waiting = [entry for entry in self._waiting if id(entry) not in left]
        heapify(self._waiting)
        return [receipt for _, receipt in taken]

    def put(self, receipt: Receipt) -> None:
        """Let a receipt be handed out."""
        rank = -1 if receipt.facts.losses else receipt.priority
        heappush(self._waiting, ((rank, receipt.source.kind is Kind.MAIN, self._number()), receipt))
        self.changed.fire()

    def _message(self, channel: AmqpChannel, consumer: Consumer, message: Received) -> None:
        consumer.unacked += 1
        receipt = Receipt(channel, consumer.source, message, consumer, None)
        if self._arrived(receipt):
            self.put(receipt)

    async def consume(self, room: int, *, insist: bool = False) -> None:
        """See to it that messages come, as many as there is room for.

        A consumer that has all that it may have is left alone unless `insist`: as a rule some of that is settled soon.

        Raises:
            ChannelError, LinkDown: They can't; there is no connection, or the server refuses. What was refused is tried
                again by itself, with pauses, and raised once each time.

        Cost: nothing when it is so; else a few round trips for each queue.
        """
        async with self._busy:
            channel = self.channel
            if channel is None:
                if self.trouble is not None and not self._told:
                    self._told = True
                    raise self.trouble
                return
            begun = False
            for queue in self.queues:
                for kind in _TAKEN:
                    begun = await self._consume(channel, Source(queue, kind), room, insist=insist) or begun
            if begun:
                await channel.ask()  # by its answer has come what waited, of all of them: it is to be put in order
            self.has_consumed = True

    async def _consume(self, channel: AmqpChannel, source: Source, room: int, *, insist: bool) -> bool:
        """Tell whether it had to begin."""
        consumer = self._consumers.get(source)
        alone = source.kind is Kind.SUSPECTS
        if consumer is not None:
            full = insist and consumer.unacked >= consumer.prefetch
            if alone or (room < consumer.prefetch * _GROWTH and not full):
                return False
            del self._consumers[source]
            await channel.cancel(consumer.tag)
        consumer = Consumer(source, 1 if alone else min(room, 0xFFFF))
        self._consumers[source] = consumer
        take = partial(self._message, channel, consumer)
        waits = alone and (await channel.declare_queue(source.name, passive=True)).ready
        await channel.consume(source.name, take, consumer.tag, prefetch=consumer.prefetch)
        if waits:
            await self._came(consumer)
        return True

    async def _came(self, consumer: Consumer) -> None:
        """Wait a moment for a suspect, which has to be known before anything else starts that may end the process."""
        for _ in range(_SUSPECT_LOOKS):
            if consumer.unacked:
                return
            await self.changed.wait(_SUSPECT_LOOK_S)

    async def pause(self) -> bool:
        """Let no more messages come; those that were on their way have come when this returns.

        Returns:
            False when the server has not said so.
        """
        async with self._busy:
            channel, consumers, self._consumers = self.channel, self._consumers, {}
            if channel is not None:
                try:
                    for consumer in consumers.values():
                        await channel.cancel(consumer.tag)
                except (LinkDown, ChannelError):
                    return False
            return True

    async def flush(self) -> None:
        """Wait until the server has had all acknowledgements of its deliveries."""
        if self.channel is not None:
            await self.channel.flush()

    @property
    def is_small(self) -> bool:
        """True while messages may come, few at a time."""
        return bool(self._consumers) and all(consumer.prefetch < _FEW for consumer in self._consumers.values())

    async def anything(self) -> bool:
        """Ask whether anything waits in the queues.

        Cost: some round trips for each queue.
        """
        names = [Source(queue, kind).name for queue in self.queues for kind in _TAKEN]
        return any(ready for ready, _ in await self._topology.ready(names))

    async def set_queues(self, queues: Sequence[str]) -> list[Receipt]:
        """Take from other queues; return what has come of those that are left."""
        wanted = list(dict.fromkeys(queues))
        await self.pause()
        async with self._busy:
            left = [queue for queue in self.queues if queue not in wanted]
            new = [queue for queue in wanted if queue not in self.queues]
            self.queues = wanted
            channel = self.channel
            for queue in new:
                await self._topology.ensure_consumed(queue)
                if channel is not None:
                    await self._announce(channel, queue)
            for queue in left:
                tag = self._present.pop(queue, None)
                if channel is not None and tag is not None:
                    await channel.cancel(tag)
        self.changed.fire()
        return self.take_all(left)


async def _nothing(_: Any) -> None:
    """Nobody sends anything there."""
