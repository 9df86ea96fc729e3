"""Sends messages and waits until they are stored: over another connection when one is lost, until its time is up."""

import asyncio
import time
from collections.abc import Sequence

from aiotask.brokers.amqp.ladder import LONGEST_S
from aiotask.brokers.amqp.packing import Packer
from aiotask.brokers.amqp.topology import Topology
from aiotask.connections.amqp import (
    AmqpChannel,
    AmqpLink,
    ChannelError,
    LinkDown,
    Message,
    NotRouted,
    NotTaken,
    ServerBlocked,
)
from aiotask.message import Envelope

_SHORTEST_S = 0.05
"""A pause before what the server has refused is tried again."""


class Unconfirmed(Exception):  # noqa: N818 - says what they are
    """Some messages of a batch were not confirmed in time.

    Attributes:
        positions: Which, in the batch.
        why: What became of the first of them.
    """

    def __init__(self, positions: Sequence[int], why: Exception) -> None:
        super().__init__(f"{len(positions)} messages were not confirmed")
        self.positions = positions
        self.why = why


class Sender:
    """One channel with confirms for all that a broker sends, its subscriptions' copies included."""

    def __init__(self, link: AmqpLink, topology: Topology, packer: Packer) -> None:
        """Take a link that its user opens."""
        self.link = link
        self.topology = topology
        self.packer = packer
        self._channel: AmqpChannel | None = None
        self._opening = asyncio.Lock()

    def forget(self) -> None:
        """Take another channel: there may have been one on an event loop that is gone."""
        self._channel = None
        self._opening = asyncio.Lock()

    async def envelopes(self, envelopes: Sequence[Envelope]) -> list[Message]:
        """Return envelopes as messages to send; queues and delays that they need are there then.

        Raises:
            ImproperlyConfigured: One has a priority, and queues know none.
            ChannelError, LinkDown: A queue can't be made.
            ValueError: One is to wait longer than the ladder is.
        """
        messages = [self.packer.envelope(envelope) for envelope in envelopes]
        knows = self.topology.knows
        for envelope, message in zip(envelopes, messages, strict=True):
            if not knows(envelope.queue):
                await self.topology.ensure(envelope.queue)
            if envelope.delay_s is not None:
                await self.delay(message, envelope.queue, envelope.delay_s)
            elif envelope.due_at is not None:
                await self.delay(message, envelope.queue, envelope.due_at - time.time())
        return messages

    async def delay(self, message: Message, queue: str, delay_s: float) -> None:
        """Let a message wait before it comes to `queue`."""
        if delay_s > LONGEST_S:
            raise ValueError(f"A message can wait {LONGEST_S:,.0f} s at most on RabbitMQ, not {delay_s:,.0f} s.")
        if delay_s > 0:
            await self.topology.ensure_delays(queue, delay_s)
            message.exchange, message.routing_key = self.topology.ladder.way(queue, delay_s)

    async def send(self, messages: Sequence[Message], deadline: float) -> None:
        """Send and wait for the confirms; what was lost with a connection is sent again, at most once too often.

        Args:
            messages: For queues that are there, or were.
            deadline: By the loop's clock.

        Raises:
            Unconfirmed: It took too long, or the server refuses some.
            ServerBlocked: The server takes no messages; nothing was sent.
            ChannelError: The server refuses, since the user may not do this, or an exchange is not there.
            LinkDown: There is no connection; nothing was sent.
            LinkClosed: The link is not open.

        Cost: one round trip.
        """
        now = asyncio.get_running_loop().time
        left = list(range(len(messages)))
        begun = rerouted = repeated = False
        while True:
            channel = await self._ready(deadline, left if begun else ())
            patience = deadline - now()
            if not repeated:  # a server that has just come back leaves some without an answer for ever
                patience = min(patience, self.link.command_timeout_s)
            outcomes = await channel.publish([messages[at] for at in left], patience)
            begun = True
            failed = [(at, error) for at, error in zip(left, outcomes, strict=True) if error is not None]
            if not failed:
                return
            left = [at for at, _ in failed]
            why = failed[0][1]
            if not channel.usable:
                if isinstance(channel.lost.result(), ChannelError):
                    raise channel.lost.result()
            elif isinstance(why, NotRouted) and not rerouted:
                rerouted = True
                await self._make_again([messages[at] for at, error in failed if isinstance(error, NotRouted)])
            elif isinstance(why, LinkDown) and not repeated and not self.link.blocked:
                repeated = True
                channel.abandon("some messages were not confirmed on it")
                await channel.close()
            elif isinstance(why, NotTaken):
                await asyncio.sleep(_SHORTEST_S)
            else:
                raise Unconfirmed(left, _blocked(self.link) if self.link.blocked else why)
            if now() >= deadline:
                raise Unconfirmed(left, why)

    async def _ready(self, deadline: float, sent: Sequence[int]) -> AmqpChannel:
        """Return the channel, once there is one and the server takes messages.

        Raises:
            ServerBlocked, LinkDown: Nothing was sent.
            Unconfirmed: What is in `sent` was, and is not confirmed.
        """
        now = asyncio.get_running_loop().time
        why: LinkDown
        while True:
            try:
                if not self.link.blocked or await self.link.wait_unblocked(deadline - now()):
                    return await self._open_channel(deadline - now())
                why = _blocked(self.link)
            except LinkDown as error:
                why = error
            if now() >= deadline:
                if sent:
                    raise Unconfirmed(sent, why)
                raise why
            await asyncio.sleep(_SHORTEST_S)

    async def _make_again(self, messages: Sequence[Message]) -> None:
        """Make the queues again that messages did not reach: somebody has deleted them."""
        self.topology.forget()
        for message in messages:
            if not message.exchange:
                await self.topology.ensure_again(message.routing_key)

    async def _open_channel(self, wait: float) -> AmqpChannel:
        channel = self._channel
        if channel is not None and channel.usable:
            return channel
        async with self._opening:
            if self._channel is None or not self._channel.usable:
                self._channel = await self.link.channel(confirms=True, wait=max(0.0, wait))
            return self._channel


def _blocked(link: AmqpLink) -> ServerBlocked:
    return ServerBlocked(
        f"RabbitMQ {link.place} takes no messages now: it has an alarm, since it has too little memory or disk "
        "(rabbitmq-diagnostics alarms)."
    )
