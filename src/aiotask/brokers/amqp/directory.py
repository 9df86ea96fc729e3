"""The names of all queues that there are, since AMQP lists none: kept in a message of a queue of the server's.

As a rule that queue holds one message with all names. To read it is to take it and to let it go back, so whoever does
holds a lock, which is to be the only consumer of another queue; without it, or after a crash, there may be several
messages for a while, and the names are those of all of them.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from aiotask.brokers.amqp.names import server_name
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, LinkDown, Message

Pair = tuple[str, str]
"""A queue, and a waiting line of it; empty for the queue itself."""

_TAKEN: Final = 403
_AGAIN_S: Final = 0.02
_ARGUMENTS: Final[Mapping[str, Any]] = {"x-queue-type": "quorum"}
_decode = msgspec.json.Decoder(list[Pair]).decode


class Directory:
    """The list."""

    def __init__(self, link: AmqpLink) -> None:
        """Take the link; nothing is read before it is asked for."""
        self._link = link
        self._name = server_name(f"{link.key_prefix}.queues")
        self._lock = server_name(f"{link.key_prefix}.queues.lock")

    @property
    def made(self) -> Mapping[str, Mapping[str, Any]]:
        """The server's queues that it consists of, and what they are made with."""
        return {self._name: _ARGUMENTS, self._lock: {}}

    async def note(self, queue: str, line: str) -> None:
        """Put a pair on the list, if it is not there.

        Raises:
            LinkDown: The server did not confirm it.
            ChannelError: It refuses.
        """
        async with self._locked(), self._channel(confirms=True) as channel:
            await channel.declare_queue(self._name, _ARGUMENTS)
            pairs, tags = await self._all(channel)
            if (queue, line) in pairs:
                return
            listed = msgspec.json.encode(sorted({*pairs, (queue, line)}))
            message = Message(self._name, listed, os.urandom(8).hex())
            [error] = await channel.publish([message], self._link.command_timeout_s)
            if error is not None:
                if channel.lost.done() and isinstance(channel.lost.result(), ChannelError):
                    raise channel.lost.result()  # the user may not publish
                raise LinkDown(f"RabbitMQ {self._link.place} did not confirm the name of a queue.", sent=True)
            channel.acknowledge([(tag, False) for tag in tags])
            await channel.flush()

    async def read(self) -> set[Pair]:
        """Return all pairs.

        Cost: some round trips.
        """
        async with self._locked(), self._channel() as channel:
            await channel.declare_queue(self._name, _ARGUMENTS)
            pairs, _ = await self._all(channel)
            return pairs

    async def _all(self, channel: AmqpChannel) -> tuple[set[Pair], list[int]]:
        pairs: set[Pair] = set()
        tags: list[int] = []
        while (message := await channel.get(self._name)) is not None:
            pairs.update(_decode(message.body))
            tags.append(message.tag)
        return pairs, tags

    @asynccontextmanager
    async def _channel(self, *, confirms: bool = False) -> AsyncGenerator[AmqpChannel]:
        channel = await self._link.channel(confirms=confirms, wait=self._link.command_timeout_s)
        try:
            yield channel
        finally:
            await channel.close()

    @asynccontextmanager
    async def _locked(self) -> AsyncGenerator[None]:
        """Be the only one; after a while, in which whoever holds the lock may have lost its connection, one of two."""
        now = asyncio.get_running_loop().time
        deadline = now() + self._link.command_timeout_s
        while True:
            async with self._channel() as channel:
                try:
                    await channel.declare_queue(self._lock)
                    await channel.consume(self._lock, _nothing, "lock", prefetch=1, exclusive=True)
                except ChannelError as error:
                    if error.code != _TAKEN or "exclusive" not in str(error):
                        raise
                    if now() < deadline:
                        await asyncio.sleep(_AGAIN_S)
                        continue
                yield
                return


async def _nothing(_: Any) -> None:
    """Nobody sends anything there."""
