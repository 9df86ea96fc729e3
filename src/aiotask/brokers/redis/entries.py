"""Messages as entries of a stream, and dead letters as entries of theirs. No I/O."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec

from aiotask.brokers.redis.keys import Line
from aiotask.message import DEAD_BODY_BYTES, DEFAULT_PRIORITY, DeadLetter, Delivery, Envelope, Settlement

_Priority = Annotated[int, msgspec.Meta(ge=0, le=9)]
_Message = tuple[str, str, _Priority, bytes]
"""Task id, content type, priority, body."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Message).decode
_decode_any: Final = msgspec.msgpack.Decoder().decode
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding raises: text that is not UTF-8 is a ValueError of Python's own."""
# As long as ours can be: a number without end, which others may have written, is an error to read.
_counts: Final = re.compile(rb"(\d{1,9}):(\d{1,9})").fullmatch
_milliseconds: Final = re.compile(rb"-?\d{1,15}").fullmatch


def pack_message(envelope: Envelope | DeadLetter) -> bytes:
    """Return the field `e` of an entry."""
    return _encode((envelope.id, envelope.content_type, envelope.priority, envelope.body))


def read_entries(
    line: Line,
    entries: Sequence[Any],
    deliveries: list[Delivery],
    *,
    parked_in: str | None = None,
    begun: bool = False,
) -> None:
    """Add to `deliveries` what a line has handed out.

    What is no message of ours becomes a delivery without content type, which no worker takes for one: it ends as a dead
    letter, with what there was as its body, and with its id where one can be found.
    """
    queue = line.queue
    for entry_id, fields in entries:
        if len(fields) == 2 and fields[0] == b"e":
            packed, losses, count, expires_at = fields[1], 0, 1, None
        else:
            packed, losses, count, expires_at = _read_fields(fields)
        try:
            task_id, content_type, priority, body = _decode(packed)
        except _UNREADABLE:
            task_id, content_type, priority, body = _read_id(packed), "", DEFAULT_PRIORITY, packed
        deliveries.append(
            Delivery(
                task_id,
                queue,
                body,
                content_type,
                priority,
                (line, entry_id),
                count,
                losses,
                expires_at,
                parked_in,
                begun=begun,
            )
        )


def _read_fields(fields: Sequence[bytes]) -> tuple[bytes, int, int, float | None]:
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    counts = _counts(named.get(b"n", b""))
    losses, deliveries = (int(counts[1]), int(counts[2])) if counts else (0, 0)
    expires = named.get(b"x", b"")
    return (
        named.get(b"e", b" ".join(fields)),
        losses,
        deliveries + 1,
        int(expires) / 1000 if _milliseconds(expires) else None,
    )


def _read_id(packed: bytes) -> str:
    try:
        message = _decode_any(packed)
    except _UNREADABLE:
        return ""
    first = message[0] if isinstance(message, list) and message else None
    return first if isinstance(first, str) else ""


class _Letter(msgspec.Struct, array_like=True):
    """What a dead letter is but for its queue and when it died, which the entry's place and id tell. Append only."""

    id: str
    reason: str
    detail: str
    content_type: str
    priority: int
    body: bytes
    body_bytes: int


_decode_letter: Final = msgspec.msgpack.Decoder(_Letter).decode


def pack_letter(settlement: Settlement) -> bytes:
    """Return the dead letter of a delivery."""
    delivery = settlement.delivery
    return _encode(
        _Letter(
            delivery.id,
            settlement.reason,
            settlement.detail,
            delivery.content_type,
            delivery.priority,
            delivery.body[:DEAD_BODY_BYTES],
            len(delivery.body),
        )
    )


def read_letter(queue: str, entry_id: bytes, fields: Sequence[bytes]) -> DeadLetter:
    """Return a dead letter; one that is none of ours has its entry as its body, and looks cut."""
    died_at = int(entry_id.partition(b"-")[0]) / 1000
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    try:
        letter = _decode_letter(named.get(b"e", b""))
    except _UNREADABLE:
        raw = b" ".join(fields)
        return DeadLetter("", queue, "", "not written by aiotask", died_at, raw[:DEAD_BODY_BYTES], len(raw) + 1, "")
    return DeadLetter(
        letter.id,
        queue,
        letter.reason,
        letter.detail,
        died_at,
        letter.body,
        letter.body_bytes,
        letter.content_type,
        letter.priority,
    )
