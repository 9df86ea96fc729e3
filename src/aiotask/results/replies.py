"""Sends outcomes into the reply queues of who has called; used by `rpc.py`, which takes what comes into its own.

One that the server does not take is no reason to keep the others waiting: it becomes a failure that says why.
"""

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, LinkDown, Message, Translation
from aiotask.exceptions import BackendConnectionError, BackendError, EncodeError
from aiotask.outcome import TaskMeta
from aiotask.showing import shown
from aiotask.states import FAILURE, READY_STATES
from aiotask.wire.celery import celery_error
from aiotask.wire.errors import to_record
from aiotask.wire.rows import encode_meta
from aiotask.wire.serialization import read_as_python_does

CONTENT_TYPE: Final = "application/json"
ERRORS: Final = Translation(BackendConnectionError, BackendError, BackendError)

_CONTENT_ENCODING: Final = "utf-8"
_STORE_WITHIN_S: Final = 10.0
_NAME_BYTES: Final = 255
"""AMQP's longest short string: the name of a queue, a correlation id."""
_SURELY_SHORT: Final = _NAME_BYTES // 4
"""So many characters have no more bytes than that."""
_TOO_LARGE: Final = re.compile(r"message size \d+\b.*\blarger than\b.*?(\d+)")
"""How a server says why it has closed a channel by 406: `rabbit_channel:check_msg_size`, with the body's bytes."""
_TRIES: Final = 5
"""The first finds out how much the server takes; further ones are for others that find it out on the same channel."""

_log = logging.getLogger(__name__)


class Reply(NamedTuple):
    """An encoded outcome, and where to; None where nobody waits for it."""

    id: str
    reply_to: str | None
    body: bytes


def encode_reply(meta: TaskMeta) -> Reply:
    """Return an outcome as it is sent. One that can't be addressed goes nowhere, which the log says once it is final.

    Raises:
        EncodeError: The result is not serialisable.
    """
    body, to = encode_meta(meta), meta.reply_to
    if to and (len(meta.id) > _SURELY_SHORT or len(to) > _SURELY_SHORT) and not _addressable(meta, to):
        to = None
    return Reply(meta.id, to, body)


def _addressable(meta: TaskMeta, reply_to: str) -> bool:
    for name, what in ((meta.id, "id, by which its caller would know it,"), (reply_to, "reply_to, a queue's name,")):
        size = len(name.encode())
        if size > _NAME_BYTES:
            if meta.ready:
                _log.warning(
                    "The result of task %s[%s] is sent to nobody: its %s has %d bytes, and AMQP takes %d there",
                    shown(meta.name or "?"),
                    shown(meta.id),
                    what,
                    size,
                    _NAME_BYTES,
                )
            return False
    return True


class ReplySender:
    """Sends replies on a channel of its own, while its link is open on one event loop."""

    def __init__(self, link: AmqpLink, *, persistent: bool) -> None:
        """Take the link; nothing is sent.

        Args:
            link: Opened and closed by others.
            persistent: Whether what waits in a queue outlives a restart of the server.
        """
        self._link = link
        self._persistent = persistent
        self._channel: AmqpChannel | None = None
        self._opening = asyncio.Lock()

    async def send(self, replies: Sequence[Reply]) -> None:
        """Send, and return when the server has all of them, or what it takes instead.

        Raises:
            BackendConnectionError: There is no connection, or it was lost.
            BackendError: The server refuses it, or is full.

        Cost: one round trip; three more where one is larger than the server takes.
        """
        left = [reply for reply in replies if reply.reply_to]
        if not left:
            return
        refused: list[_Refused] = []
        with self._link.translating(ERRORS):
            for _ in range(_TRIES):
                left, largest = await self._send_once(left)
                if largest is not None:
                    left = _fitting(left, largest, refused)
                if not left:
                    break
            else:
                raise BackendConnectionError(
                    f"RabbitMQ {self._link.place} has closed {_TRIES} channels, one after the other, "
                    "since results were larger than it takes."
                )
        for one in refused:  # now that it is done: whoever could not send begins with the same ones again
            one.log(self._link.place)

    async def _send_once(self, replies: Sequence[Reply]) -> tuple[list[Reply], int | None]:
        """Send; return what the server does not have, and the most bytes that it takes, where one of them had more."""
        async with self._opening:
            if self._channel is None or not self._channel.usable:
                self._channel = await self._link.channel(confirms=True)
            channel = self._channel
        outcomes = await channel.publish([self._message(reply) for reply in replies], _STORE_WITHIN_S)
        left = [reply for reply, outcome in zip(replies, outcomes, strict=True) if outcome is not None]
        if not left:
            return [], None
        if not channel.usable:
            why = channel.lost.result()
            found = _TOO_LARGE.search(str(why)) if isinstance(why, ChannelError) else None
            if found is None:
                raise why
            return left, int(found[1])
        if any(isinstance(outcome, LinkDown) for outcome in outcomes):
            raise BackendConnectionError(f"RabbitMQ {self._link.place} has not confirmed a result.")
        raise BackendError(f"RabbitMQ {self._link.place} takes no results: a reply queue refuses them.")

    def _message(self, reply: Reply) -> Message:
        return Message(
            routing_key=reply.reply_to or "",
            body=reply.body,
            message_id=os.urandom(8).hex(),
            content_type=CONTENT_TYPE,
            content_encoding=_CONTENT_ENCODING,
            correlation_id=reply.id,
            persistent=self._persistent,
            mandatory=False,
        )

    async def close(self) -> None:
        """Close the channel. Never raises."""
        if self._channel is not None:
            await self._channel.close()


class _Brief(msgspec.Struct):
    """What a row says beside that which may be long: its other fields are skipped, not decoded."""

    status: str
    date_done: datetime | None = None
    name: str | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    parent_id: str | None = None
    group_id: str | None = None


_decode_brief = msgspec.json.Decoder(_Brief).decode


def _read_brief(body: bytes) -> _Brief:
    try:
        return _decode_brief(body)
    except msgspec.DecodeError as error:  # it has NaN in it, say
        return msgspec.convert(read_as_python_does(body, error), _Brief)


class _Refused(NamedTuple):
    """A reply that is larger than the server takes."""

    reply: Reply
    largest: int
    brief: _Brief
    instead: Reply | None
    """What is sent in its place."""

    def log(self, place: str) -> None:
        """Say what became of it."""
        _log.error(
            "The state %s of task %s[%s] has %s bytes, more than the %s that RabbitMQ %s takes in one message "
            "(max_message_size): %s",
            shown(self.brief.status),
            shown(self.brief.name or "?"),
            shown(self.reply.id),
            f"{len(self.reply.body):,}",
            f"{self.largest:,}",
            place,
            "it is left out" if self.instead is None else "its caller gets a failure that says so",
        )


def _fitting(replies: Sequence[Reply], largest: int, refused: list[_Refused]) -> list[Reply]:
    """Return what is to be sent where the server takes `largest` bytes; add to `refused` what it would not take."""
    fitting: list[Reply] = []
    for reply in replies:
        if len(reply.body) <= largest:
            fitting.append(reply)
            continue
        one = _refused(reply, largest)
        refused.append(one)
        if one.instead is not None:
            fitting.append(one.instead)
    return fitting


def _refused(reply: Reply, largest: int) -> _Refused:
    """Return what is to be sent instead of a reply: a failure; nothing where another state is still to come."""
    brief = _read_brief(reply.body)
    if brief.status not in READY_STATES:
        return _Refused(reply, largest, brief, None)
    error = EncodeError(
        f"The result of task {reply.id} has {len(reply.body):,} bytes, with all that is sent with it, more than the "
        f"{largest:,} that RabbitMQ takes in one message (its max_message_size). Return less, or store it elsewhere "
        "and return where; or raise max_message_size in rabbitmq.conf, or keep results in Redis (result_backend)."
    )
    failure = TaskMeta(
        id=reply.id,
        state=FAILURE,
        result=celery_error(to_record(error)),  # Celery's clients read it as well
        date_done=brief.date_done,
        name=brief.name,
        worker=brief.worker,
        retries=brief.retries,
        queue=brief.queue,
        parent_id=brief.parent_id,
        group_id=brief.group_id,
    )
    body = encode_meta(failure)
    return _Refused(reply, largest, brief, reply._replace(body=body) if len(body) <= largest else None)
