"""Which tasks were revoked: a stream of the server's, that who revokes writes and each subscription reads.

A stream (https://www.rabbitmq.com/docs/3.13/streams) is not emptied by reading. The server drops its oldest segment
when it is larger than it may be.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from aiotask.brokers.amqp.errors import settling
from aiotask.brokers.amqp.sender import Sender, Unconfirmed
from aiotask.connections.amqp import (
    NOT_ENABLED,
    AmqpChannel,
    AmqpLink,
    ChannelError,
    LinkClosed,
    LinkDown,
    Message,
    Received,
)
from aiotask.connections.backoff import Backoff
from aiotask.connections.signals import Signal
from aiotask.exceptions import BrokerError
from aiotask.message import REVOKED_KEPT
from aiotask.newest import keep_newest

ARGUMENTS: Final = {
    "x-queue-type": "stream",
    "x-max-length-bytes": 32 * 1024 * 1024,
    "x-stream-max-segment-size-bytes": 4 * 1024 * 1024,
}
"""All but one of its segments are kept for sure. An id of 36 letters that is revoked alone takes 254 bytes."""
_IDS_EACH: Final = 1000
_AHEAD: Final = 1000
"""So many entries may be on their way."""
_FIRST_S: Final = 1.0
_LATE_S: Final = 10.0
_AGAIN_S: Final = 0.1
_REFUSED_S: Final = 30.0
"""A pause before what was refused is tried again: the server logs each of them."""
_LOSSES: Final = 3
"""A connection that is lost so often where the stream is asked for is lost by asking: the server may do that."""
_ABSENT: Final = 404
_DOWN: Final = "down or inaccessible"
_OFFSET: Final = "x-stream-offset"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode

_log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """What tells an entry from all others, also from those of a stream that was made after this one was deleted."""

    offset: int
    message_id: str


def stream_name(link: AmqpLink) -> str:
    """Return the name of the stream."""
    return f"{link.key_prefix}.revokes"


async def write_revokes(sender: Sender, ids: Sequence[str], deadline: float) -> None:
    """Add ids to the stream, which is made when it is not there.

    Raises:
        BrokerError: The stream is there and can't be written.
        ChannelError, LinkDown, ServerBlocked, Unconfirmed: As `Sender.send`.

    Cost: one round trip; some more the first time.
    """
    name, now = stream_name(sender.link), asyncio.get_running_loop().time
    entries = [_entry(name, ids[at : at + _IDS_EACH]) for at in range(0, len(ids), _IDS_EACH)]
    while entries:
        try:
            await sender.topology.ensure_made(name, ARGUMENTS)
            await sender.send(entries, deadline)
        except LinkDown:
            if now() >= deadline:
                raise
        except ChannelError as error:
            if error.code != _ABSENT:
                raise
            if now() >= deadline:
                raise _broken(sender.link, error) from error
        else:
            return
        await asyncio.sleep(_AGAIN_S)


def _entry(name: str, ids: Sequence[str]) -> Message:
    return Message(name, _encode(ids), os.urandom(8).hex())


def _broken(link: AmqpLink, error: ChannelError) -> BrokerError:
    """Return what it means that the server lists the stream and says that it is not there."""
    name, vhost = stream_name(link), link.address.vhost
    said = f"RabbitMQ {link.place} lists the stream {name!r}, and does not have it now: {str(error).rstrip('.')}."
    if _DOWN not in said:
        return BrokerError(said)
    return BrokerError(
        f"{said} It is just starting, or was killed in the moment when it made its first stream. If it stays so: "
        f'rabbitmqctl eval \'rabbit_amqqueue:internal_delete(rabbit_misc:r(<<"{vhost}">>, queue, <<"{name}">>), '
        '<<"cli">>).\' and it is made again.'
    )


class Revokes:
    """What a subscription knows of the stream."""

    def __init__(self, link: AmqpLink, sender: Sender) -> None:
        """Wire it; nothing is opened.

        Args:
            link: The subscription's own, opened and closed by it.
            sender: Writes to the stream, over another link: a server that takes no messages stops reading that.
        """
        self._link = link
        self._sender = sender
        self._topology = sender.topology
        self._name = stream_name(link)
        self.ids: OrderedDict[str, None] = OrderedDict()
        """The newest, oldest first."""
        self._first: _Entry | None = None
        """What the consumer of now has heard first."""
        self._last: _Entry | None = None
        self._heard = 0
        self._channel: AmqpChannel | None = None
        """By which all has been heard."""
        self._trouble: BrokerError | None = None
        self._hopeless = False
        self._said = ""
        self._changed = Signal()
        self._keeper: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to read, and go on."""
        self._keeper = asyncio.create_task(self._keep(), name="aiotask AMQP revokes")

    async def close(self) -> None:
        """End."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def caught_up(self) -> None:
        """Return once all is known that was revoked before, by a connection that is there.

        What can't be read, or not for long, is done without, and a warning says so: tasks are to run all the same.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + _LATE_S
        while self._channel is None or not self._channel.usable:
            if self._hopeless or now() >= deadline:
                self._warn()
                return
            await self._changed.wait(deadline - now())

    def _warn(self) -> None:
        why = str(self._trouble or f"RabbitMQ {self._link.place} does not answer by now.")
        if why != self._said:
            self._said = why
            _log.warning("Tasks that were revoked may start here: %s", why)

    # ---- reading ----

    async def _keep(self) -> None:
        backoff = Backoff()
        losses = 0
        while True:
            channel: AmqpChannel | None = None
            try:
                await self._link.wait_connected(3600.0)
                made = await self._topology.ensure_made(self._name, ARGUMENTS)
                channel = await self._link.channel()
                await self._read(channel, made=made)
                self._channel, self._trouble, self._said = channel, None, ""
                self._hopeless, losses = False, 0
                self._changed.fire()
                backoff.reset()
                await asyncio.wait([channel.lost])
            except ChannelError as error:
                self._topology.forget()
                self._hopeless = error.code != _ABSENT
                self._note(error)
                if error.code == NOT_ENABLED:
                    return  # to ask again would end the connection again
            except (LinkDown, LinkClosed, Unconfirmed) as error:
                losses += 1
                self._hopeless = losses >= _LOSSES
                self._note(error)
            finally:
                if channel is not None:
                    await channel.close()
            await (asyncio.sleep(_REFUSED_S) if self._hopeless else backoff.pause())

    def _note(self, error: Exception) -> None:
        try:
            with settling(self._link):
                if isinstance(error, ChannelError) and error.code == _ABSENT:
                    raise _broken(self._link, error)
                raise error
        except BrokerError as trouble:
            self._trouble = trouble
        self._changed.fire()

    async def _read(self, channel: AmqpChannel, *, made: bool) -> None:
        """Return once all that there was has been heard. What comes later is heard as it comes."""
        channel.on_cancel(lambda _: channel.abandon("the server has ended its consumer"))
        known = self._last
        if made or known is None or not await self._consume(channel, known.offset) or self._first != known:
            await self._consume_all(channel, made=made)
        # An acknowledgement lets more come, and that comes before the answer to what is asked next. A consumer gets its
        # first entry by another way, which nothing tells the end of: there has to be one.
        heard = 0
        while heard != self._heard:
            heard = self._heard
            await channel.flush()

    async def _consume_all(self, channel: AmqpChannel, *, made: bool) -> None:
        for empty in (made, True):
            if empty:
                deadline = asyncio.get_running_loop().time() + self._link.command_timeout_s
                await self._sender.send([_entry(self._name, [])], deadline)
            if await self._consume(channel, "first"):
                return
        raise LinkDown(f"The stream {self._name!r} can't be read.", sent=True)

    async def _consume(self, channel: AmqpChannel, offset: int | str) -> bool:
        """Hear what there is from an entry on; tell whether something has come soon."""
        self._first = None
        take = partial(self._hear, channel)
        await channel.consume(self._name, take, os.urandom(8).hex(), prefetch=_AHEAD, arguments={_OFFSET: offset})
        if self._first is None:
            await self._changed.wait(_FIRST_S)
        return self._first is not None

    def _hear(self, channel: AmqpChannel, message: Received) -> None:
        channel.acknowledge([(message.tag, False)])
        properties = message.properties
        self._last = _Entry(properties.headers[_OFFSET], properties.message_id or "")
        self._heard += 1
        if self._first is None:
            self._first = self._last
            self._changed.fire()
        try:
            ids = _decode(message.body)
        except msgspec.DecodeError:
            _log.warning("What another program has written to the stream %r is no list of task ids.", self._name)
            return
        keep_newest(self.ids, ids, REVOKED_KEPT)
