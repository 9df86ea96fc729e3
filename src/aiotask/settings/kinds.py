"""The kinds of value that a setting can have: what each takes, what it keeps, what it says to what does not fit."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec

from aiotask.annotations import check_annotations
from aiotask.options import checked_text
from aiotask.routing import Queue, read_queues, read_routes
from aiotask.settings.amounts import Duration, Size, to_bytes, to_seconds
from aiotask.settings.fixed import FixedDict, FixedList
from aiotask.suggestions import did_you_mean
from aiotask.urls import mask_url

Kept = TypeVar("Kept")
Given = TypeVar("Given")

THIS_VERSION: Final = "0.1"
"""What messages call this release, where a later one will take more."""

NOT_AVAILABLE: Final = f"is not available in aiotask {THIS_VERSION} yet"

_SHOWN_CHARACTERS: Final = 200
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


class MisfitError(ValueError):
    """A value does not fit its setting; the text is the predicate of a sentence about the setting.

    Attributes:
        hint: A further sentence with a leading space that says what to do, or "".
    """

    def __init__(self, predicate: str, hint: str = "") -> None:
        super().__init__(predicate)
        self.hint = hint


class Kind(Generic[Kept, Given]):
    """One kind of value: `Given` is what may be assigned, `Kept` is what is read afterwards.

    Attributes:
        name: What the documentation calls it.
        expects: What fits, as the end of "must be ...".
        read: Returns what is kept of a value; raises TypeError or ValueError where it does not fit, or
            MisfitError to say more.
        parse: Turns text of the environment into a value for `read`; returns the text itself where it can't.
        secret: True keeps its values out of every message.
    """

    __slots__ = ("expects", "name", "parse", "read", "secret")

    def __init__(
        self,
        name: str,
        expects: str,
        read: Callable[[Any], Kept],
        *,
        parse: Callable[[str], Any] = str,
        secret: bool = False,
    ) -> None:
        self.name = name
        self.expects = expects
        self.read = read
        self.parse = parse
        self.secret = secret

    def check(self, value: object) -> Kept:
        """Return what is kept of `value`.

        Raises:
            MisfitError: It does not fit.
        """
        try:
            return self.read(value)
        except MisfitError:
            raise
        except (TypeError, ValueError):
            raise MisfitError(f"must be {self.expects}, not {self.show(value)}") from None

    def show(self, value: object) -> str:
        """Return `value` as it may be shown to people: no secrets, and no longer than one can read."""
        return "'***'" if self.secret and value is not None else show(value)


def show(value: object) -> str:
    """Return the repr of `value`, passwords of URLs masked, cut where it is long."""
    text = repr(mask_url(value)) if isinstance(value, str) else mask_url(repr(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def whole(at_least: int, at_most: int | None = None) -> Kind[int, int]:
    """Whole numbers within bounds, both included."""

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError("no whole number")
        if value < at_least or (at_most is not None and value > at_most):
            raise ValueError("out of bounds")
        return value

    bounds = f"of at least {at_least}" if at_most is None else f"from {at_least} to {at_most}"
    return Kind(f"whole number {bounds}", f"a whole number {bounds}", read, parse=_parse_whole)


def seconds(*, zero: bool = False) -> Kind[float, Duration]:
    """Durations, kept as float seconds; 0 only when `zero`."""

    def read(value: Any) -> float:
        length_s = to_seconds(value)
        if length_s < 0 or (length_s == 0 and not zero):
            raise ValueError("out of bounds")
        return length_s

    bound = "0 or more" if zero else "more than 0"
    forms = "a number of seconds, text such as '90s', '5m', '1.5h' or '2d', or a timedelta"
    return Kind(f"duration, {bound}", f"a duration of {bound} ({forms})", read)


def size(at_least: int) -> Kind[int, Size]:
    """Sizes, kept as whole bytes."""

    def read(value: Any) -> int:
        size_bytes = to_bytes(value)
        if size_bytes < at_least:
            raise ValueError("out of bounds")
        return size_bytes

    bound = f"at least {at_least} B"
    return Kind(f"size, {bound}", f"a size of {bound} (a number of bytes, or text such as '64KiB' or '1MiB')", read)


def choice(*words: str) -> Kind[str, str]:
    """One of some words, in either case of letters."""

    def read(value: Any) -> str:
        if isinstance(value, str):
            for word in words:
                if word.lower() == value.lower():
                    return word
        raise ValueError("none of the words")

    listed = " or ".join(map(repr, words))
    return Kind(listed, listed, read)


def _read_protocol(value: Any) -> Literal["aiotask", 2]:
    if isinstance(value, str) and value.lower() == "aiotask":
        return "aiotask"
    if isinstance(value, int) and not isinstance(value, bool) and value == 2:
        return 2
    raise ValueError("neither")


PROTOCOL: Final[Kind[Literal["aiotask", 2], Literal["aiotask", 2]]] = Kind(
    "'aiotask' or 2", "'aiotask' or 2", _read_protocol, parse=lambda text: 2 if text.strip() == "2" else text
)


def table(
    keys: Mapping[str, Kind[Any, Any]], not_yet: AbstractSet[str] = frozenset()
) -> Kind[dict[str, Any], Mapping[str, Any]]:
    """Mappings with known keys, each value of its key's kind; `not_yet` are keys that a later version takes."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise TypeError("no mapping")
        return FixedDict({key: read_item(key, item) for key, item in value.items()})

    def read_item(key: Any, item: Any) -> Any:
        if key in not_yet:
            raise MisfitError(f"has a key {key!r} that {NOT_AVAILABLE}")
        if key not in keys:
            raise MisfitError(
                f"has no key {key!r}", did_you_mean(str(key), keys) or f" Its keys are: {', '.join(map(repr, keys))}."
            )
        try:
            return keys[key].check(item)
        except MisfitError as misfit:
            raise MisfitError(f"has a key {key!r} that {misfit}", misfit.hint) from None

    listed = ", ".join(f"{key!r} ({kind.name})" for key, kind in keys.items())
    return Kind(f"mapping of {listed}", f"a mapping of {listed}", read, parse=_parse_json)


def only(kind: Kind[Kept, Given], value: Given) -> Kind[Kept, Given]:
    """`value` alone, of a kind that a later version takes more of."""
    sole = kind.check(value)

    def read(given: Any) -> Kept:
        if kind.read(given) != sole:
            raise ValueError("another value")
        return sole

    return Kind(f"{sole!r} only", f"{sole!r}, all that aiotask {THIS_VERSION} can do yet", read, parse=kind.parse)


def optional(kind: Kind[Kept, Given], *, word: str | None = "none") -> Kind[Kept | None, Given | None]:
    """None besides what `kind` takes.

    Args:
        kind: What it is when it is not None.
        word: What means None where only text can be written (the environment, TOML); None for kinds of plain text,
            where it could be meant.
    """

    def read(value: Any) -> Kept | None:
        if value is None or (word is not None and isinstance(value, str) and value.lower() == word):
            return None
        return kind.read(value)

    def parse(text: str) -> Any:
        return text if text.lower() == word else kind.parse(text)

    return Kind(f"{kind.name}, or None", f"{kind.expects}, or None", read, parse=parse, secret=kind.secret)


def _parse_flag(text: str) -> Any:
    word = text.lower()
    return word in _TRUE if word in _TRUE | _FALSE else text


def _parse_whole(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return text


def _parse_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _parse_names(text: str) -> Any:
    return _parse_json(text) if text.startswith("[") else [name.strip() for name in text.split(",") if name.strip()]


def _parse_queues(text: str) -> Any:
    return _parse_json(text) if text.startswith("{") else _parse_names(text)


def _read_flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("no bool")
    return value


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("no text")
    return value


def _read_key_prefix(value: Any) -> str:
    text = _read_text(value)
    if set("{}") & set(text):
        raise ValueError("braces mark the queue in a key")
    return text


def _read_names(value: Any) -> list[str]:
    # A text is a sequence of texts as well: "proj.tasks" would become ten modules of one letter each.
    if not isinstance(value, (list, tuple)):
        raise TypeError("no list")
    return FixedList(map(_read_text, value))


def _read_queue_list(value: Any) -> list[Queue]:
    return FixedList(_fitting(read_queues, value))


def _read_route_table(value: Any) -> Any:
    _fitting(read_routes, value)
    return _fixed(value)


def _read_annotations(value: Any) -> Any:
    _fitting(check_annotations, value)
    return _fixed(value)


def _fitting(read: Callable[[Any], Kept], value: Any) -> Kept:
    """Return what `read` makes of `value`; its errors are predicates of the setting already."""
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise MisfitError(*error.args) from None


def _fixed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FixedDict({key: _fixed(item) for key, item in value.items()})
    return FixedList(map(_fixed, value)) if isinstance(value, (list, tuple)) else value


def _read_anything(value: Any) -> Any:
    return value


FLAG: Final[Kind[bool, bool]] = Kind(
    "True or False", "True or False (in the environment also 1, yes, on, 0, no, off)", _read_flag, parse=_parse_flag
)
TEXT: Final[Kind[str, str]] = Kind("text", "text that is not empty", _read_text)
NAME: Final[Kind[str, str]] = Kind("name", "a text of 1 to 255 printable characters", partial(checked_text, "name"))
KEY_PREFIX: Final[Kind[str, str]] = Kind("text", "text without braces that is not empty", _read_key_prefix)
SECRET: Final[Kind[str, str]] = Kind("text", "text that is not empty", _read_text, secret=True)
URL: Final[Kind[str, str]] = Kind("URL", "a URL as text, such as 'redis://localhost:6379/0'", _read_text)
NAMES: Final[Kind[list[str], list[str] | tuple[str, ...]]] = Kind(
    "list of text", "a list of text, such as ['proj.tasks', 'proj.mail']", _read_names, parse=_parse_names
)
QUEUES: Final[Kind[list[Queue], Any]] = Kind(
    "list of queues", "a list of queues, such as ['mail'] or [Queue('mail')]", _read_queue_list, parse=_parse_queues
)
ROUTES: Final[Kind[Any, Any]] = Kind(
    "routes", "a mapping of task names to routes, or a function", _read_route_table, parse=_parse_json
)
ANNOTATIONS: Final[Kind[Any, Any]] = Kind(
    "mapping of names, or '*', to options",
    "a mapping of task names, or '*', to options",
    _read_annotations,
    parse=_parse_json,
)
ANYTHING: Final[Kind[Any, Any]] = Kind("to be defined", "anything", _read_anything, parse=_parse_json)
