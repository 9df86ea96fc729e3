"""Sends messages and waits until they are stored: over another connection when one is lost, until its time is up."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from aiotask.brokers.amqp.ladder import LONGEST_S
from aiotask.brokers.amqp.packing import Packer, wait_of
from aiotask.brokers.amqp.steps import ABSENT
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

_log = logging.getLogger(__name__)


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


class Unsendable(Exception):  # noqa: N818 - says what they are
    """AMQP can't carry some messages of a batch; the others are stored.

    Attributes:
        errors: By their positions in the batch.
    """

    def __init__(self, errors: Mapping[int, ValueError]) -> None:
        super().__init__("; ".join(dict.fromkeys(map(str, errors.values()))))
        self.errors = errors


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

    async def envelopes(self, envelopes: Sequence[Envelope], *, again: bool = False) -> list[Message]:
        """Return envelopes as messages to send; queues and delays that they need are there then.

        Args:
            envelopes: To be sent.
            again: As in `Packer.envelope`.

        Raises:
            ImproperlyConfigured: One has a priority, and queues know none.
            ChannelError, LinkDown: A queue can't be made.
        """
        messages = [self.packer.envelope(envelope, again=again) for envelope in envelopes]
        knows = self.topology.knows
        for envelope, message in zip(envelopes, messages, strict=True):
            if not knows(envelope.queue):
                await self.topology.ensure(envelope.queue)
            if envelope.delay_s is not None or envelope.due_at is not None:
                await self.delay(message, envelope.queue, wait_of(envelope))
        return messages

    async def delay(self, message: Message, queue: str, delay_s: float) -> None:
        """Let a message wait before it comes to `queue`; at most for so long as the ladder is."""
        delay_s = min(delay_s, LONGEST_S)
        if delay_s > 0:
            await self.topology.ensure_delays(queue, delay_s)
            message.exchange, message.routing_key = self.topology.ladder.way(queue, delay_s)

    async def send(self, messages: Sequence[Message], deadline: float, *, patient: bool = False) -> None:
        """Send and wait for the confirms; what was lost with a connection is sent again, at most once too often.

        Args:
            messages: For queues that are there, or were.
            deadline: By the loop's clock.
            patient: What was sent is waited for beyond the deadline while the server takes no messages, since it will
                take these: who sent them again would double them.

        Raises:
            Unconfirmed: It took too long, or the server refuses some.
            Unsendable: AMQP can't carry some; all others are stored.
            ServerBlocked: The server takes no messages; nothing was sent.
            ChannelError: The server refuses, since the user may not do this, or an exchange is not there.
            LinkDown: There is no connection; nothing was sent.
            LinkClosed: The link is not open.

        Cost: one round trip.
        """
        now = asyncio.get_running_loop().time
        left = list(range(len(messages)))
        unsendable: dict[int, ValueError] = {}
        begun = rerouted = repeated = False
        while True:
            channel = await self._ready(deadline, left if begun else ())
            patience = deadline - now()
            if not repeated:  # a server that has just come back leaves some without an answer for ever
                patience = min(patience, self.link.command_timeout_s)
            outcomes = await channel.publish([messages[at] for at in left], patience, self._waiting(deadline, patient))
            begun = True
            failed = {at: error for at, error in zip(left, outcomes, strict=True) if error is not None}
            unsendable.update((at, error) for at, error in failed.items() if isinstance(error, ValueError))
            left = [at for at in failed if at not in unsendable]
            if not left:
                break
            why, refusal = failed[left[0]], _refusal(channel)
            is_missing = isinstance(why, NotRouted) if refusal is None else refusal.code == ABSENT
            if is_missing and not rerouted:
                rerouted = True
                missing = [at for at in left if refusal is not None or isinstance(failed[at], NotRouted)]
                await self._make_again([messages[at] for at in missing])
            elif refusal is not None:
                raise refusal
            elif not channel.usable:
                pass  # over another one
            elif isinstance(why, LinkDown) and not repeated and not self.link.blocked:
                repeated = True
                channel.abandon("some messages were not confirmed on it")
                await channel.close()
            elif isinstance(why, NotTaken):
                await asyncio.sleep(_SHORTEST_S)
            else:
                raise Unconfirmed([*left, *unsendable], _blocked(self.link) if self.link.blocked else why)
            if now() >= deadline:
                raise Unconfirmed([*left, *unsendable], why)
        if unsendable:
            raise Unsendable(unsendable)

    def _waiting(self, deadline: float, patient: bool) -> Callable[[], float]:
        """Return what says how much longer to wait for confirms: while the server takes nothing, and then as before."""
        link, now = self.link, asyncio.get_running_loop().time
        was_blocked = False

        def wait_on() -> float:
            nonlocal was_blocked
            is_blocked, might = link.blocked, was_blocked
            was_blocked = is_blocked
            if not is_blocked and not might:
                return 0.0
            if patient and not might:
                _log.warning("%s What is sent to end or to give back messages waits.", _blocked(link))
            return link.command_timeout_s if patient else min(link.command_timeout_s, deadline - now())

        return wait_on

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
        """Make the queues and exchanges again that messages did not reach: somebody has deleted them."""
        self.topology.forget()
        for message in messages:
            if message.exchange:
                await self.topology.ensure_exchange_again(message.exchange)
            else:
                await self.topology.ensure_again(message.routing_key)

    async def _open_channel(self, wait: float) -> AmqpChannel:
        channel = self._channel
        if channel is not None and channel.usable:
            return channel
        async with self._opening:
            if self._channel is None or not self._channel.usable:
                self._channel = await self.link.channel(confirms=True, wait=max(0.0, wait))
            return self._channel


def _refusal(channel: AmqpChannel) -> ChannelError | None:
    """Return what the server has closed a channel for."""
    why = None if channel.usable else channel.lost.result()
    return why if isinstance(why, ChannelError) else None


def _blocked(link: AmqpLink) -> ServerBlocked:
    return ServerBlocked(
        f"RabbitMQ {link.place} takes no messages now: it has an alarm, since it has too little memory or disk "
        "(rabbitmq-diagnostics alarms)."
    )
