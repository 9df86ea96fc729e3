"""Celery's message protocol 2: the one file that knows it. Values, no I/O.

A message says what it is in its headers; the body is a list of three, `[args, kwargs, embed]`, in the format that the
content type names. Reading a message looks at headers and properties alone: the body is what `payload.read_call` reads,
once its content type is accepted. Celery's documentation calls it "Task message version 2"
(docs.celeryq.dev, internals/protocol).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from aiotask import exceptions
from aiotask.exceptions import AioTaskError, ContentDisallowed, DecodeError, EncodeError
from aiotask.message import DeadLetter, Delivery, Foreign, TaskMessage
from aiotask.showing import shown
from aiotask.wire.serialization import find_serializer

_EMBEDDED: Final = ("callbacks", "errbacks", "chain", "chord")
_ENCODINGS: Final = frozenset({"utf-8", "utf8", "us-ascii", "ascii", "binary"})
"""How a body may be encoded: in the one way that the serializers read."""
_NOT_AGAIN: Final = frozenset({"expiration", "delivery_mode", "timestamp"})
"""Properties that don't go out again with a retry: they hold for the message that came."""
_REPR_CHARACTERS: Final = 1024

_BLANK: Final[Mapping[str, Any]] = {
    "lang": "py",
    "task": None,
    "id": None,
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": None,
    "parent_id": None,
    "argsrepr": "",
    "kwargsrepr": "",
    "origin": None,
    "ignore_result": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
_OWN: Final = frozenset(_BLANK) | {"compression"}
"""The protocol's own headers; every other one is the caller's."""


_ERRORS: Final[Mapping[str, tuple[str, str]]] = {
    "TaskRevokedError": ("celery.exceptions", "TaskRevokedError"),
    "NotRegistered": ("celery.exceptions", "NotRegistered"),
    "MaxRetriesExceeded": ("celery.exceptions", "MaxRetriesExceededError"),
    "Reject": ("celery.exceptions", "Reject"),
    "ChordError": ("celery.exceptions", "ChordError"),
    "WorkerLost": ("billiard.exceptions", "WorkerLostError"),
    "TimeLimitExceeded": ("billiard.exceptions", "TimeLimitExceeded"),
    "SoftTimeLimitExceeded": ("billiard.exceptions", "SoftTimeLimitExceeded"),
    "ContentDisallowed": ("kombu.exceptions", "ContentDisallowed"),
    "DecodeError": ("kombu.exceptions", "DecodeError"),
    "EncodeError": ("kombu.exceptions", "EncodeError"),
}
"""Our own errors, and those that mean the same to Celery."""
_OURS: Final = {theirs: name for name, theirs in _ERRORS.items()}


class Parts(NamedTuple):
    """A message as it goes out."""

    body: bytes
    content_type: str
    headers: dict[str, Any]
    properties: dict[str, Any]


class _Headers(msgspec.Struct):
    """The headers that decide what is done, with the types that they have to have."""

    task: str
    id: str
    root_id: str | None = None
    parent_id: str | None = None
    retries: int = 0
    ignore_result: bool | None = None
    compression: str | None = None
    group: str | None = None
    group_index: int | None = None
    timelimit: list[int | float | None] | None = None
    replaced_task_nesting: int | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None


def read_message(found: Delivery | DeadLetter) -> TaskMessage:
    """Return the message that the headers of a delivery tell of. Its body is not looked at.

    Raises:
        ContentDisallowed: It has no headers: it is of a format that nobody here reads.
        DecodeError: The headers are not those of this protocol.
    """
    if found.headers is None:
        raise ContentDisallowed(f"Messages of type {found.content_type!r:.80} are refused by this worker.")
    headers, properties = found.headers, found.properties or {}
    if "task" not in headers or "id" not in headers:
        raise DecodeError(
            f"A message of type {found.content_type!r:.80} without the headers 'task' and 'id' is neither "
            "aiotask's nor one of Celery's protocol 2 (protocol 1 is not read)."
        )
    encoding = properties.get("content_encoding")
    if encoding and str(encoding).lower() not in _ENCODINGS:
        raise DecodeError(f"The content encoding {encoding!r:.80} is not read; a body is utf-8 or binary.")
    try:
        said = msgspec.convert(headers, _Headers)
        eta, expires = _moment(headers.get("eta")), _moment(headers.get("expires"))
    except (msgspec.ValidationError, ValueError, TypeError, OverflowError) as error:
        raise DecodeError(f"The headers are not those of Celery's protocol 2: {error}") from error
    hard, soft = said.timelimit if said.timelimit and len(said.timelimit) == 2 else (None, None)
    facts = {
        "group": said.group,
        "group_index": said.group_index,
        "timelimit": (hard, soft),
        "replaced_task_nesting": said.replaced_task_nesting or 0,
        "stamped_headers": said.stamped_headers,
        "stamps": said.stamps or {},
    }
    return TaskMessage(
        said.task,
        said.id,
        found.body,
        found.content_type,
        retries=said.retries,
        root_id=said.root_id,
        parent_id=said.parent_id,
        eta=eta,
        expires=expires,
        priority=found.priority,
        ignore_result=said.ignore_result,
        origin=_text(headers.get("origin")),
        headers={name: value for name, value in headers.items() if name not in _OWN} or None,
        compression=said.compression or None,
        shadow=_text(headers.get("shadow")),
        argsrepr=_text(headers.get("argsrepr")),
        kwargsrepr=_text(headers.get("kwargsrepr")),
        via=found.via if isinstance(found, Delivery) else None,
        foreign=Foreign(headers, properties, facts),
        reply_to=_text(properties.get("reply_to")) or None,
    )


def write_message(message: TaskMessage) -> Parts:
    """Return a message with `foreign` as it goes out: what it came with, under what its fields say by now.

    Raises:
        EncodeError: One of the caller's headers has a name of the protocol's.
        TypeError: One has a value that no header can have.
    """
    foreign = message.foreign or Foreign()
    own = message.headers or {}
    clash = sorted(_OWN & own.keys())
    if clash:
        raise EncodeError(
            f"{message.task}: the header {clash[0]!r} is one of Celery's protocol, which says something else with it. "
            "Give it another name."
        )
    headers = {
        **_BLANK,
        **foreign.headers,
        **msgspec.to_builtins(own, builtin_types=(bytes, datetime)),
        "task": message.task,
        "id": message.id,
        "shadow": message.shadow,
        "eta": _iso(message.eta),
        "expires": _iso(message.expires),
        "retries": message.retries,
        "root_id": message.root_id or message.id,
        "parent_id": message.parent_id,
        "argsrepr": message.argsrepr or "",
        "kwargsrepr": message.kwargsrepr or "",
        "origin": message.origin,
        "ignore_result": message.ignore_result,
    }
    headers.pop("compression", None)
    if message.compression is not None:
        headers["compression"] = message.compression
    properties = {
        "correlation_id": message.id,
        "reply_to": message.reply_to or "",
        **{name: value for name, value in foreign.properties.items() if name not in _NOT_AGAIN},
        "content_encoding": find_serializer(message.content_type).content_encoding,
    }
    return Parts(message.payload, message.content_type, headers, properties)


def wrap_call(message: TaskMessage, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the body of a message, to be serialised; note in the message what is shown of its arguments."""
    assert message.foreign is not None  # noqa: S101 - asked for by those who have looked
    facts = message.foreign.facts
    if message.argsrepr is None:
        message.argsrepr = shown(repr(tuple(args)), _REPR_CHARACTERS)
    if message.kwargsrepr is None:
        message.kwargsrepr = shown(repr(dict(kwargs)), _REPR_CHARACTERS)
    return [list(args), dict(kwargs), {name: facts.get(name) for name in _EMBEDDED}]


def unwrap_call(message: TaskMessage, body: Any) -> list[Any]:
    """Return the arguments and the keyword arguments in a decoded body; note in the message what it embeds.

    Raises:
        DecodeError: It is no body of this protocol, or asks for what is not done here.
    """
    assert message.foreign is not None  # noqa: S101 - asked for by those who have looked
    if not (isinstance(body, (list, tuple)) and len(body) == 3 and isinstance(body[2], (dict, type(None)))):
        raise DecodeError(
            "The body is no list of three, the arguments, the keyword arguments and what is embedded, as Celery's "
            "protocol 2 has it."
        )
    embedded = body[2] or {}
    facts = {name: embedded.get(name) for name in _EMBEDDED}
    wanted = [name for name, signatures in facts.items() if signatures]
    if wanted:
        raise DecodeError(
            f"The message embeds {' and '.join(wanted)}, which this version of aiotask does not carry out. It is not "
            "run, since what is to follow would be lost: let a worker of Celery take it."
        )
    message.foreign.facts.update(facts)
    return list(body[:2])


def celery_error(record: Any) -> Any:
    """Return the record of an exception as Celery's clients know it: an error of ours under the name of theirs."""
    if isinstance(record, dict) and record.get("exc_module") == AioTaskError.__module__:
        theirs = _ERRORS.get(record["exc_type"])
        if theirs is not None:
            return record | {"exc_module": theirs[0], "exc_type": theirs[1]}
    return record


def own_error(module: str | None, name: str) -> type[Exception] | None:
    """Return the error of ours that means the same as one of Celery's; None where there is none."""
    ours = _OURS.get((module or "", name))
    return None if ours is None else getattr(exceptions, ours)


def _moment(value: Any) -> float | None:
    """Return a time of a header, which is ISO text, as epoch seconds; one without an offset is in UTC."""
    if value is None or value == "":
        return None
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _iso(moment: float | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
