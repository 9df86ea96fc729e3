"""Envelopes as messages of the server, and back. No I/O.

What we have to know of a message beside its properties is one header, which most messages do not have.
"""

import os
import time
from collections.abc import Hashable
from typing import Any, Final

import msgspec

from aiotask.brokers.amqp.ladder import LONGEST_S
from aiotask.brokers.amqp.names import Kind, Make, Source, server_name
from aiotask.connections.amqp import AmqpChannel, Message
from aiotask.exceptions import ImproperlyConfigured
from aiotask.message import DEAD_BODY_BYTES, DEFAULT_PRIORITY, DeadLetter, Delivery, Envelope

_OURS_BEGIN: Final = "aiotask."
"""What our ids of others' messages begin with."""
FACTS: Final = "aiotask"
"""The name of the header, and what our own messages have as their application id."""
PROPERTIES: Final = (
    "content_encoding",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "message_type",
    "user_id",
    "app_id",
)
"""AMQP's basic properties that go with a message, but for the content type and the headers."""


class Facts(msgspec.Struct, array_like=True, omit_defaults=True):
    """What is known of a message. The order of the fields is the format: append only."""

    count: int = 0
    """How often it was handed out before, but for the last time that ended with its consumer."""
    sure: int = 0
    """How often it was lost after it had started."""
    unsure: int = 0
    """How often its consumer was lost, which may have started it or not."""
    expires_at: float | None = None
    priority: int | None = None
    at: float = 0.0
    """When it was parked, or died."""
    due_at: float | None = None
    """When it is due that has to wait longer than the ladder is, and comes once before."""

    @property
    def losses(self) -> int:
        """At most so often it was lost after it had started."""
        return self.sure + self.unsure


class Letter(msgspec.Struct, array_like=True):
    """What is known of a dead letter; its header."""

    reason: str
    detail: str
    died_at: float
    body_bytes: int
    priority: int = DEFAULT_PRIORITY


SUSPECT_LOSSES: Final = 2
"""What was lost so often is no longer started from where everything waits: it is moved to the suspects."""
_SERVERS_COUNT: Final = "x-delivery-count"
"""In what quorum queues deliver again."""
_LETTER: Final = "aiotask-letter"
_ID_CHARACTERS: Final = 63
"""Surely not more than the 255 bytes that an id has at most as a property."""
_DETAIL_CHARACTERS: Final = 2000
"""A header has to fit into a frame, beside those that came."""
SERVERS_HEADERS: Final = frozenset(
    {_SERVERS_COUNT, "x-death", "x-first-death-exchange", "x-first-death-queue", "x-first-death-reason"}
)
"""Not ours to send: by `x-death` the server drops what it takes for a circle."""
_OURS: Final = SERVERS_HEADERS | {FACTS, _LETTER}
"""Headers that the server, or we, have put there."""
_NONE: Final = Facts()
_encode = msgspec.json.Encoder().encode
_decode_facts = msgspec.json.Decoder(Facts).decode
_decode_letter = msgspec.json.Decoder(Letter).decode


class Receipt:
    """One handing-out of a message: the fence between what is ours and what is not. Compared by identity."""

    __slots__ = (
        "begun",
        "body",
        "channel",
        "consumer",
        "content_type",
        "copied",
        "counted",
        "early",
        "facts",
        "headers",
        "held",
        "id",
        "line",
        "message_id",
        "properties",
        "redelivered",
        "source",
        "tag",
        "via",
        "void_at",
    )

    def __init__(self, channel: AmqpChannel, source: Source, message: Any, consumer: Any, line: str | None) -> None:
        """Read what the server has sent."""
        properties = message.properties
        headers = properties.headers or None
        self.channel: AmqpChannel = channel
        self.source = source
        self.consumer = consumer
        self.line = line
        self.tag: int = message.tag
        self.redelivered: bool = message.redelivered
        self.body: bytes = message.body
        self.content_type: str = properties.content_type or ""
        self.facts: Facts = _NONE if headers is None else _read_facts(headers)
        self.counted = False
        """Whether the server has counted how often it gave the message back: in `facts` by now."""
        if self.redelivered and headers is not None and _SERVERS_COUNT in headers:
            self.counted = True
            times = int(headers[_SERVERS_COUNT])
            if source.kind is not Kind.SUSPECTS:
                # Lost more often it waited to be moved there, and had not started.
                times = min(times, max(0, SUSPECT_LOSSES - self.facts.losses))
            self.lost_again(times)
        ours = properties.app_id == FACTS
        said = properties.message_id or ""
        self.message_id: str = said if ours or said.startswith(_OURS_BEGIN) else ""
        """Of this message alone; empty where it is none that we gave it: others may give theirs more than once."""
        self.headers: dict[str, Any] | None = None
        self.properties: dict[str, Any] | None = None
        self.via: tuple[str, str] | None = None
        self.id: str = properties.correlation_id or ""
        if not ours:
            way = message.read_way()
            self.via = way if way and way[0] else None  # the nameless exchange leads to the queue itself
            self.headers = {key: value for key, value in (headers or {}).items() if key not in _OURS}
            self.properties = {
                name: value for name in PROPERTIES if (value := getattr(properties, name, None)) is not None
            }
            self.id = str(self.headers.get("id") or self.id or said or os.urandom(8).hex())
            if self.facts.priority is None and properties.priority is not None:
                self.facts = msgspec.structs.replace(self.facts, priority=max(0, 9 - properties.priority))
        self.held = True
        """False once it is settled, or known to be somebody else's."""
        self.begun = False
        self.early = False
        """Acknowledged when it began: the server does not have it any more."""
        self.copied = False
        """What it is to become is stored already."""
        self.void_at: float | None = None
        """Since when the server has given it to somebody else, maybe: by the loop's clock."""

    @property
    def identity(self) -> Hashable:
        """What it is known by when it comes again.

        Without an id of its own it has that of all that say the same: they may well take each other's place, but that
        one of them was settled says nothing of the others.
        """
        return self.message_id or hash((self.id, self.body, repr(self.headers), repr(self.properties)))

    def lost_again(self, times: int) -> None:
        """Count that a consumer was lost which had it, and may have started it or not."""
        facts = self.facts
        self.facts = msgspec.structs.replace(facts, unsure=facts.unsure + times, count=facts.count + times)

    @property
    def priority(self) -> int:
        """0 to 9, 0 the most urgent."""
        return DEFAULT_PRIORITY if self.facts.priority is None else self.facts.priority

    def delivery(self) -> Delivery:
        """Return it as it is handed out."""
        facts = self.facts
        return Delivery(
            self.id,
            self.source.queue,
            self.body,
            self.content_type,
            self.priority,
            self,
            facts.count + 1,
            facts.losses,
            facts.expires_at,
            self.line,
            self.headers,
            self.properties,
            via=self.via,
        )


def _read_facts(headers: dict[str, Any]) -> Facts:
    packed = headers.get(FACTS)
    if not isinstance(packed, str):
        return _NONE
    try:
        return _decode_facts(packed)
    except msgspec.DecodeError:  # another program's header
        return _NONE


def wait_of(envelope: Envelope) -> float:
    """Return for how many seconds an envelope is to wait; what is not more than 0 does not."""
    if envelope.delay_s is not None:
        return envelope.delay_s
    return 0.0 if envelope.due_at is None else envelope.due_at - time.time()


def due_after_the_ladder(wait_s: float) -> float | None:
    """Return when it is due that is to wait so long, where it comes before since the ladder is too short; else None."""
    return time.time() + wait_s if wait_s > LONGEST_S else None


class Packer:
    """Makes messages for the queues as they are set up."""

    def __init__(self, make: Make) -> None:
        """Take how queues are made: what priorities they know."""
        self._max = make.max_priority

    def envelope(self, envelope: Envelope, *, again: bool = False) -> Message:
        """Return a new message for the queue of an envelope; whoever sends it sees to its delay.

        Args:
            envelope: To be sent.
            again: It takes the place of a message that was let in: its priority is kept, whether queues know any.

        Raises:
            ImproperlyConfigured: It has a priority, and queues know none.
        """
        expires_at = envelope.expires_at if envelope.ttl_s is None else time.time() + envelope.ttl_s
        priority = envelope.priority
        if priority != DEFAULT_PRIORITY and self._max is None and not again:
            raise ImproperlyConfigured(
                f"Priority {priority} needs RabbitMQ queues that are made with priorities: set "
                "task_queue_max_priority, e.g. to 9, and delete the queues that were made without (only classic queues "
                "have them)."
            )
        due_at = due_after_the_ladder(wait_of(envelope))
        facts = _NONE
        if expires_at is not None or priority != DEFAULT_PRIORITY or due_at is not None:
            # What one of Celery's has for a priority is among its properties, and not told twice.
            facts = Facts(
                expires_at=expires_at, priority=None if priority == DEFAULT_PRIORITY else priority, due_at=due_at
            )
        return self._message(
            server_name(envelope.queue),
            envelope.id,
            envelope.body,
            envelope.content_type,
            facts,
            envelope.headers,
            envelope.properties,
        )

    def copy(self, receipt: Receipt, to: str, facts: Facts) -> Message:
        """Return a message of a receipt again, for the server's queue `to`."""
        return self._message(
            to, receipt.id, receipt.body, receipt.content_type, facts, receipt.headers, receipt.properties
        )

    def letter(self, receipt: Receipt, to: str, reason: str, detail: str) -> Message:
        """Return the dead letter of a receipt."""
        body = receipt.body
        letter = Letter(reason, detail[:_DETAIL_CHARACTERS], time.time(), len(body), receipt.priority)
        made = self._message(
            to,
            receipt.id,
            body[:DEAD_BODY_BYTES],
            receipt.content_type,
            _NONE,
            receipt.headers,
            receipt.properties,
        )
        made.headers = {**(made.headers or {}), _LETTER: _encode(letter).decode()}
        return made

    def bare_letter(self, receipt: Receipt, to: str, why: ValueError) -> Message:
        """Return the dead letter of a receipt without what AMQP can't carry any more: ids, headers, properties."""
        detail = f"It can't be sent on: {why}. Its headers are left out."
        letter = Letter("EncodeError", detail[:_DETAIL_CHARACTERS], time.time(), len(receipt.body), receipt.priority)
        id_, body = receipt.id[:_ID_CHARACTERS], receipt.body[:DEAD_BODY_BYTES]
        made = self._message(to, id_, body, receipt.content_type, _NONE, None, None)
        made.headers = {_LETTER: _encode(letter).decode()}
        return made

    def _message(
        self,
        to: str,
        id_: str,
        body: bytes,
        content_type: str,
        facts: Facts,
        headers: dict[str, Any] | None,
        properties: dict[str, Any] | None,
    ) -> Message:
        made = Message(to, body, os.urandom(8).hex(), content_type, correlation_id=id_)
        if headers is None and properties is None:
            made.app_id = FACTS
        else:
            made.message_id = f"{_OURS_BEGIN}{made.message_id}"
            if len(id_) > _ID_CHARACTERS:  # of a header, which may be longer, and where it stays
                made.correlation_id = ""
            made.headers = headers
            made.properties = {
                name: value
                for name, value in (properties or {}).items()
                if name in PROPERTIES and name not in {"message_id", "expiration", "user_id"}
            }
        if facts is not _NONE:
            made.headers = {**(headers or {}), FACTS: _encode(facts).decode()}
        if self._max is not None:
            urgency = 9 - (DEFAULT_PRIORITY if facts.priority is None else facts.priority)
            made.priority = urgency if self._max >= 9 else urgency * self._max // 9
        return made


def read_letter(queue: str, message: Any, receipt: Receipt) -> DeadLetter:
    """Return the dead letter that a message of a queue's dead letters is."""
    packed = (message.properties.headers or {}).get(_LETTER)
    try:
        letter = _decode_letter(packed or "")
    except msgspec.DecodeError:  # put there by somebody else, the server perhaps
        letter = Letter("Reject", "Nothing is known of why it is here.", 0.0, len(receipt.body), receipt.priority)
    return DeadLetter(
        receipt.id,
        queue,
        letter.reason,
        letter.detail,
        letter.died_at,
        receipt.body,
        letter.body_bytes,
        receipt.content_type,
        letter.priority,
        receipt.headers,
        receipt.properties,
    )
