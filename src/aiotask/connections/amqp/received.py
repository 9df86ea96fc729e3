"""Reads what a server sends most: deliveries, confirms, returns, and answers to acknowledgements. No I/O.

The driver's own way costs 150 us per message, most of it for objects that nobody looks at. Whatever else comes is the
driver's. The format is AMQP 0-9-1, 2.3.5 and 4.2 (https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf).
"""

import struct
from collections.abc import Callable
from typing import Any, Final

import msgspec
from pamqp import decode
from pamqp.header import ContentHeader

_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC: Final = 60 << 16
_DELIVER, _RETURN, _ACK, _NACK = _BASIC | 60, _BASIC | 50, _BASIC | 80, _BASIC | 120
_FLOW_OK: Final = 20 << 16 | 21
_INDEX: Final = struct.Struct(">I")
_TAG: Final = struct.Struct(">QB")
_CONTENT: Final = struct.Struct(">4xQH")
_VALUES_AT: Final = _CONTENT.size

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS, _DELIVERY_MODE, _PRIORITY = 1 << 15, 1 << 14, 1 << 13, 1 << 12, 1 << 11
_CORRELATION_ID, _REPLY_TO, _MESSAGE_ID, _APP_ID = 1 << 10, 1 << 9, 1 << 7, 1 << 3
_RARE: Final = ~(
    _CONTENT_TYPE
    | _CONTENT_ENCODING
    | _HEADERS
    | _DELIVERY_MODE
    | _PRIORITY
    | _CORRELATION_ID
    | _REPLY_TO
    | _MESSAGE_ID
    | _APP_ID
)


class Properties(msgspec.Struct):
    """AMQP's basic properties, by the names that the driver gives them; None is one that is not there."""

    content_type: str | None = None
    content_encoding: str | None = None
    headers: dict[str, Any] | None = None
    delivery_mode: int | None = None
    priority: int | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    app_id: str | None = None


class Received(msgspec.Struct):
    """A message that the server has handed out."""

    tag: int
    redelivered: bool
    properties: Any
    """`Properties`, or the driver's own, which has some more."""
    body: bytes
    way: bytes = b""
    """The exchange that it was sent to and its routing key, as two short strings; nothing where they are not told."""

    def read_way(self) -> tuple[str, str] | None:
        """Return exchange and routing key; None where they are not told, or can't be read."""
        try:
            exchange, at = _short(self.way, 0)
            return exchange, _short(self.way, at)[0]
        except (IndexError, ValueError):
            return None


Take = Callable[[Received], object]


class Inbox:
    """What a channel of ours takes of its frames itself."""

    __slots__ = (
        "_body",
        "_confirmed",
        "_flows",
        "_into",
        "_left",
        "_properties",
        "_redelivered",
        "_returned",
        "_tag",
        "_way",
        "consumers",
    )

    def __init__(
        self,
        confirmed: Callable[[int, bool, bool], None],
        returned: Callable[[str], None],
        flows: Callable[[], None],
    ) -> None:
        """Take what is told of messages.

        Args:
            confirmed: Told of a tag, whether all before it are meant as well, and whether they are stored.
            returned: Told the id of a message that reached no queue; its confirm comes after.
            flows: Told of each answer to "channel.flow", which the driver never asks.
        """
        self._confirmed = confirmed
        self._returned = returned
        self._flows = flows
        self.consumers: dict[bytes, Take] = {}
        """By their tags. What comes for another one is dropped: it has gone."""
        self._into: Take | None = None
        """Who gets the message that is coming, piece by piece; None while none is that is ours."""
        self._tag = 0
        self._redelivered = False
        self._way = b""
        self._properties: Any = None
        self._left = 0
        self._body: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame; tell whether it was ours.

        Raises:
            IndexError, struct.error: It is no frame of AMQP.
        """
        if kind == _METHOD:
            [index] = _INDEX.unpack_from(payload)
            if index == _DELIVER:
                at = 5 + payload[4]
                self._into = self.consumers.get(payload[5:at], _drop)
                self._tag, redelivered = _TAG.unpack_from(payload, at)
                self._redelivered = bool(redelivered & 1)
                self._way = payload[at + _TAG.size :]
                return True
            if index in {_ACK, _NACK}:
                tag, bits = _TAG.unpack_from(payload, 4)
                self._confirmed(tag, bool(bits & 1), index == _ACK)
                return True
            if index == _RETURN:
                self._into = self._give_back
                return True
            if index == _FLOW_OK:
                self._flows()
                return True
            return False
        if self._into is None:
            return False  # of an answer to the driver
        if kind == _HEADER:
            self._left, self._properties = read_header(payload)
        elif kind == _BODY:
            self._left -= len(payload)
            if self._left > 0 or self._body:
                self._body.append(payload)
        else:
            return False
        if self._left <= 0:
            self._finish(payload if kind == _BODY else b"")
        return True

    def _finish(self, last: bytes) -> None:
        body = last
        if self._body:
            body, self._body = b"".join(self._body), []
        into, self._into = self._into, None
        if into is not None:
            into(Received(self._tag, self._redelivered, self._properties, body, self._way))

    def _give_back(self, message: Received) -> None:
        self._returned(message.properties.message_id or "")


def _drop(_: Received) -> None:
    """Take what nobody wants any more: the server has it as delivered and not acknowledged."""


def read_header(payload: bytes) -> tuple[int, Any]:
    """Return the size of the body that follows, and the properties: none where they can't be read.

    Such a message is one that nobody can read, and no reason to end the connection: it would come again for ever.

    Raises:
        struct.error: It is no content header.
    """
    size, flags = _CONTENT.unpack_from(payload)
    try:
        return size, _read_properties(payload, flags)
    except (ValueError, IndexError, struct.error):
        return size, Properties()


def _read_properties(payload: bytes, flags: int) -> Any:
    if flags & _RARE:
        header = ContentHeader()
        header.unmarshal(payload)
        return header.properties
    found = Properties()
    at = _VALUES_AT
    if flags & _CONTENT_TYPE:
        found.content_type, at = _short(payload, at)
    if flags & _CONTENT_ENCODING:
        found.content_encoding, at = _short(payload, at)
    if flags & _HEADERS:
        used, found.headers = decode.field_table(payload[at:])
        at += used
    if flags & _DELIVERY_MODE:
        found.delivery_mode = payload[at]
        at += 1
    if flags & _PRIORITY:
        found.priority = payload[at]
        at += 1
    if flags & _CORRELATION_ID:
        found.correlation_id, at = _short(payload, at)
    if flags & _REPLY_TO:
        found.reply_to, at = _short(payload, at)
    if flags & _MESSAGE_ID:
        found.message_id, at = _short(payload, at)
    if flags & _APP_ID:
        found.app_id, at = _short(payload, at)
    return found


def _short(payload: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + payload[at]
    return payload[at + 1 : end].decode(), end
