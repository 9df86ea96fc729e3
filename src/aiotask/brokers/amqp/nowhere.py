"""What was due when its queue was gone: waits in a queue of its own until it is taken, so that nothing waits behind it.

A rung of the ladder keeps what reaches no queue, and has 32 messages under way at most: so many for one deleted queue
held up all others. The exit's alternate exchange takes them out (https://www.rabbitmq.com/docs/3.13/ae).
"""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any, Final

from aiotask.brokers.amqp.names import server_name, word
from aiotask.brokers.amqp.packing import PROPERTIES, SERVERS_HEADERS
from aiotask.brokers.amqp.steps import ABSENT, LOCKED, on_a_channel
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, Message, Received
from aiotask.connections.signals import Signal

_ARGUMENTS: Final[Mapping[str, Any]] = {"x-queue-type": "quorum", "x-delivery-limit": 0x7FFFFFFF}
"""What is looked at and goes back is counted; RabbitMQ 4 drops what was counted 20 times, unless told."""
_SILENCE_S: Final = 1.0
_AGAIN_S: Final = 0.05
_LEFT_OUT: Final = frozenset({"delivery_mode", "expiration", "user_id"})

_log = logging.getLogger(__name__)


class Nowhere:
    """The queue, and the exchange that leads to it; both have one name."""

    def __init__(self, link: AmqpLink, name: str) -> None:
        """Take the link to look by, and the name."""
        self._link = link
        self.name = name
        self._busy = asyncio.Lock()

    async def build(self) -> None:
        """Make both. Idempotent."""
        await on_a_channel(self._link, self._build)

    async def _build(self, channel: AmqpChannel) -> None:
        await channel.declare_exchange(self.name, "fanout")
        await channel.declare_queue(self.name, _ARGUMENTS)
        await channel.bind_queue(self.name, self.name, "")

    async def give_back(self, queues: Collection[str]) -> None:
        """Send what waits for these queues to them: confirmed, and only then acknowledged.

        Who is killed in between doubles some and loses none.

        Raises:
            ChannelError, LinkDown: It can't be.

        Cost: a round trip where nothing waits and nobody looks; else all that waits is sent here, also what is for
        other queues.
        """
        try:
            channel = await self._link.channel(confirms=True, wait=self._link.command_timeout_s)
            try:
                ready, looking = await channel.declare_queue(self.name, passive=True)
                if ready or looking:
                    async with self._busy:
                        await self._alone(channel, {word(queue): server_name(queue) for queue in queues})
            finally:
                await channel.close()
        except ChannelError as error:
            if error.code != ABSENT:
                raise

    async def _alone(self, channel: AmqpChannel, names: Mapping[str, str]) -> None:
        """Be the only one who looks: what one has in hand another does not see."""
        lock = f"{self.name}.lock"
        now = asyncio.get_running_loop().time
        deadline = now() + self._link.command_timeout_s
        while True:
            try:
                await on_a_channel(self._link, lambda channel: channel.declare_queue(lock, transient=True))
                break
            except ChannelError as error:
                if error.code != LOCKED:
                    raise
            if now() >= deadline:
                _log.warning(
                    "What was due on RabbitMQ %s while its queue was gone is looked through by somebody else for long; "
                    "what is there for %s waits in %s until a worker of it starts.",
                    self._link.place,
                    ", ".join(names.values()),
                    self.name,
                )
                return
            await asyncio.sleep(_AGAIN_S)
        try:
            ready = await self._wait_for_the_last(channel, deadline)
            await _look_through(channel, self.name, ready, names, self._link.command_timeout_s)
        finally:
            await on_a_channel(self._link, lambda channel: channel.delete_queue(lock))

    async def _wait_for_the_last(self, channel: AmqpChannel, deadline: float) -> int:
        """Wait until what who looked before has left is back: in the moment in which their consumer is gone.

        Returns:
            How many are there then.
        """
        now = asyncio.get_running_loop().time
        while True:
            ready, looking = await channel.declare_queue(self.name, passive=True)
            if not looking or now() >= deadline:  # it is another program's, maybe
                return ready
            await asyncio.sleep(_AGAIN_S)


async def _look_through(
    channel: AmqpChannel, name: str, ready: int, names: Mapping[str, str], timeout_s: float
) -> None:
    """Send on what is for one of `names`, by their words; the rest goes back when the channel is closed."""
    found: list[tuple[str, Received]] = []
    came, seen = Signal(), 0

    def take(message: Received) -> None:
        nonlocal seen
        seen += 1
        to = names.get(_word(message))
        if to is not None:
            found.append((to, message))
        came.fire()

    await channel.consume(name, take, os.urandom(8).hex(), prefetch=0)
    while True:
        before = seen
        if seen < ready:
            await came.wait(_SILENCE_S)
        batch, found[:] = found[:], []
        if batch:
            outcomes = await channel.publish([_again(to, message) for to, message in batch], timeout_s)
            channel.acknowledge(
                [(message.tag, False) for (_, message), error in zip(batch, outcomes, strict=True) if error is None]
            )
        elif seen >= ready or seen == before:
            break
    await channel.flush()


def _word(message: Received) -> str:
    """Return the word of the queue that a message is for: the last one of the key that it came down the ladder by."""
    try:
        return str(message.properties.headers["x-death"][0]["routing-keys"][0]).rpartition(".")[2]
    except (KeyError, IndexError, TypeError):
        return ""  # another program has put it here


def _again(to: str, message: Received) -> Message:
    properties = message.properties
    headers = {name: value for name, value in properties.headers.items() if name not in SERVERS_HEADERS}
    same = {name: getattr(properties, name, None) for name in ("content_type", *PROPERTIES) if name not in _LEFT_OUT}
    given = {name: value for name, value in same.items() if value is not None}
    return Message(to, message.body, given.get("message_id") or os.urandom(8).hex(), headers=headers, properties=given)
