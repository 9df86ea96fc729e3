"""Reads durations and sizes the way people write them: `"1.5h"`, `"1MiB"`. Pure."""

import math
import re
from datetime import timedelta
from typing import Final

Duration = float | str | timedelta
"""Seconds as a number, text such as `"90s"`, or a timedelta."""

Size = int | str
"""Bytes as a number, or text such as `"1MiB"`."""

_SECONDS: Final = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_AMOUNT: Final = r"\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*([A-Za-z]*)\s*"


def to_seconds(value: object) -> float:
    """Return a duration as seconds.

    Args:
        value: A finite number of seconds; text with one of the units ms, s, m, h, d, or none for seconds; a timedelta.

    Raises:
        TypeError, ValueError: It is something else.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        number, unit = _split(value)
        if unit not in _SECONDS:
            raise ValueError(f"unknown unit {unit!r}")
        value = float(number) * _SECONDS[unit]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("no number")
    try:
        seconds = float(value)
    except OverflowError:
        raise ValueError("too large") from None
    if not math.isfinite(seconds):
        raise ValueError("not finite")
    return seconds


def to_bytes(value: object) -> int:
    """Return a size as a whole number of bytes.

    Args:
        value: A whole number; or text with one of the units B, kB, MB, GB (powers of 1000), KiB, MiB, GiB (powers of
            1024), in either case of letters, or none for bytes.

    Raises:
        TypeError, ValueError: It is something else, or no whole number of bytes.
    """
    if isinstance(value, str):
        number, unit = _split(value)
        if unit.lower() not in _BYTES:
            raise ValueError(f"unknown unit {unit!r}")
        factor = _BYTES[unit.lower()]
        if "." not in number:
            return int(number) * factor
        size = float(number) * factor
        if not size.is_integer():
            raise ValueError("no whole number of bytes")
        return int(size)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("no whole number")
    return value


def _split(text: str) -> tuple[str, str]:
    found = re.fullmatch(_AMOUNT, text, flags=re.ASCII)
    if not found:
        raise ValueError("no amount")
    return found[1], found[2]
