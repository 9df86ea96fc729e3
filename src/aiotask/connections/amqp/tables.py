"""Encodes header tables. No I/O.

The driver's own way cuts names, writes floats of half the precision, and refuses bytes, which it reads itself where a
text is none in UTF-8. What was received has to go out again as it came. The format is AMQP 0-9-1, 4.2.5, with the
changes that RabbitMQ made to it (https://www.rabbitmq.com/amqp-0-9-1-errata.html, section 3).
"""

import calendar
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

_LENGTH: Final = struct.Struct(">I")
_INT: Final = struct.Struct(">ci")
_LONG: Final = struct.Struct(">cq")
_DOUBLE: Final = struct.Struct(">cd")
_TIME: Final = struct.Struct(">cQ")
_DECIMAL: Final = struct.Struct(">cBi")


def short_text(text: str) -> bytes:
    """Return a short string.

    Raises:
        ValueError: It has more than 255 bytes.
    """
    data = text.encode(errors="surrogatepass")
    if len(data) > 255:
        raise ValueError(f"{text[:40]!r}... has {len(data)} bytes; AMQP takes at most 255 there")
    return bytes((len(data),)) + data


def timestamp(moment: datetime) -> int:
    """Return epoch seconds; a time without an offset is in UTC."""
    return calendar.timegm(moment.utctimetuple())


def encode_table(table: Mapping[str, Any]) -> bytes:
    """Return a field table.

    Raises:
        ValueError: A name is longer than 255 bytes, or a value is of a kind that AMQP has not, or too large for it.
    """
    data = b"".join([short_text(str(name)) + _value(name, value) for name, value in table.items()])
    return _LENGTH.pack(len(data)) + data


def _value(name: str, value: Any) -> bytes:
    try:
        return _encoded(name, value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"the header {name!r:.80} has a number that AMQP can't carry: {value!r:.80}") from error


def _encoded(name: str, value: Any) -> bytes:
    match value:
        case None:
            return b"V"
        case bool():
            return b"t\x01" if value else b"t\x00"
        case int():
            return _INT.pack(b"I", value) if -(1 << 31) <= value < 1 << 31 else _LONG.pack(b"l", value)
        case float():
            return _DOUBLE.pack(b"d", value)
        case str():
            data = value.encode(errors="surrogatepass")
            return b"S" + _LENGTH.pack(len(data)) + data
        case bytes():  # a text that is none, as it came
            return b"S" + _LENGTH.pack(len(value)) + value
        case bytearray():
            return b"x" + _LENGTH.pack(len(value)) + value
        case datetime():
            return _TIME.pack(b"T", timestamp(value))
        case Decimal():
            return _decimal(value)
        case Mapping():
            return b"F" + encode_table(value)
        case Sequence():
            data = b"".join([_value(name, one) for one in value])
            return b"A" + _LENGTH.pack(len(data)) + data
    raise ValueError(f"the header {name!r:.80} has a value of type {type(value).__name__}, which AMQP has not")


def _decimal(value: Decimal) -> bytes:
    sign, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise OverflowError("neither infinity nor NaN is a decimal of AMQP")
    number = int("".join(map(str, digits))) * 10 ** max(0, exponent)
    return _DECIMAL.pack(b"D", max(0, -exponent), -number if sign else number)
