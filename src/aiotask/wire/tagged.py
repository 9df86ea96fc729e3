"""Celery's tagged JSON: values that JSON lacks as `{"__type__": ..., "__value__": ...}`, and back. Pure.

The tags are kombu's, so that either side reads the other's. `float` is ours: JSON has no NaN and no infinity. Celery
refuses it, so where Celery may read, `serialization.for_celery` writes them in Celery's way.
"""

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec

PLAIN: Final = frozenset({str, int, bool, type(None)})
"""Types that JSON carries as they are; the exact type, since a subclass may want more."""

_MARK: Final = b'"__type__"'


def _tag(kind: str, value: Any) -> dict[str, Any]:
    return {"__type__": kind, "__value__": value}


def _tag_float(value: float) -> Any:
    return float(value) if math.isfinite(value) else _tag("float", float.__repr__(value))


def _tag_mapping(value: Mapping[Any, Any]) -> dict[Any, Any]:
    return {key: tag(item) for key, item in value.items()}


def _tag_items(value: Any) -> list[Any]:
    return [tag(item) for item in value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, got {type(value).__name__}")
    return value


_TAGGERS: Final[dict[type, Callable[[Any], Any]]] = {
    float: _tag_float,
    dict: _tag_mapping,
    list: _tag_items,
    tuple: _tag_items,
    set: _tag_items,
    frozenset: _tag_items,
    datetime: lambda value: _tag("datetime", value.isoformat()),
    date: lambda value: _tag("date", value.isoformat()),
    time: lambda value: _tag("time", value.isoformat()),
    UUID: lambda value: _tag("uuid", {"hex": value.hex, "version": value.version}),
    Decimal: lambda value: _tag("decimal", str(value)),
    bytes: lambda value: _tag("base64", base64.b64encode(value).decode("ascii")),
    bytearray: lambda value: _tag("base64", base64.b64encode(value).decode("ascii")),
}

_BASES: Final[dict[type, Callable[[Any], Any]]] = {**_TAGGERS, str: str.__str__, int: int.__int__}

_KEPT: Final = (datetime, date, time, UUID, Decimal, bytes, bytearray, msgspec.Raw)
"""What `_tag_fields` is to find as it was; floats and containers it finds anyway."""

_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda value: datetime.fromisoformat(value).date(),
    "time": time.fromisoformat,
    "uuid": lambda value: UUID(hex=_text(value["hex"])),
    "decimal": Decimal,
    "bytes": lambda value: _text(value).encode("utf-8"),
    "base64": base64.b64decode,
    "float": float,
}


def tag(value: Any) -> Any:
    """Return `value` with everything tagged that JSON lacks; what has no tag is left for the encoder to judge.

    Dataclasses, Structs, attrs classes and Pydantic models become mappings whose values are tagged as any others are:
    they arrive as their types by the task's annotations.
    """
    kind = type(value)
    if kind in PLAIN:
        return value
    tagger = _TAGGERS.get(kind) or _tagger_of(kind)
    return value if tagger is None else tagger(value)


def _tagger_of(kind: type) -> Callable[[Any], Any] | None:
    """Find what to do with a subclass (`defaultdict`, a library's own datetime), or with a class that has fields."""
    if issubclass(kind, Enum):
        return None
    for base in kind.__mro__:
        if base in _BASES:
            return _BASES[base]
    if hasattr(kind, "model_dump"):  # Pydantic, without importing it; of the class, since a proxy has everything
        return _tag_model
    if issubclass(kind, msgspec.Struct) or is_dataclass(kind) or hasattr(kind, "__attrs_attrs__"):
        return _tag_fields
    return None


def _tag_model(value: Any) -> Any:
    return tag(value.model_dump(mode="json"))


def _tag_fields(value: Any) -> Any:
    # By msgspec, which knows which fields there are, under which names, and which of them are left out.
    return tag(msgspec.to_builtins(value, builtin_types=_KEPT, enc_hook=_tag_foreign))


def _tag_foreign(value: Any) -> Any:
    """Tag what msgspec has no form for inside a class with fields.

    Raises:
        TypeError: There is no tag for it.
    """
    tagged = tag(value)
    if tagged is value:
        raise not_serialisable(value)
    return tagged


def not_serialisable(value: Any) -> TypeError:
    """Return the error that says of which class `value` is, and what there is instead."""
    return TypeError(
        f"{type(value).__module__}.{type(value).__qualname__} is not serialisable as JSON. "
        "Use plain values, a dataclass, a Struct or a Pydantic model."
    )


def untag(value: Any) -> Any:
    """Return `value` with every known tag turned back; an unknown tag stays the mapping that it is.

    Raises:
        ValueError, TypeError, LookupError, ArithmeticError: A tag holds what its kind can't be made of.
    """
    if type(value) is list:
        return [untag(item) for item in value]
    if type(value) is not dict:
        return value
    if "__type__" in value and "__value__" in value and len(value) == 2:
        kind = value["__type__"]
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if read is not None:
            return read(value["__value__"])
    return {key: untag(item) for key, item in value.items()}


def has_tags(data: bytes) -> bool:
    """Tell whether `data` may hold tags; a search in the bytes is far cheaper than walking the decoded value."""
    return _MARK in data
