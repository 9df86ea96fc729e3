"""What goes through the pipe between a worker and a process that runs bodies for it: frames, and the values in them.

A frame is its length in eight bytes, then MessagePack. What only Python has (a return value, an exception, the fields
of a log record) is pickled inside: both ends are ours, and the child runs the very code that the worker would run.
What can't be pickled becomes something that can, and says so; it ends neither process.
"""

import logging
import pickle
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from aiotask.exceptions import EncodeError, Reject, Retry
from aiotask.message import TaskMessage
from aiotask.wire.errors import describe, format_traceback, from_record, text_of, to_record
from aiotask.wire.serialization import JSON

_LENGTH_BYTES: Final = 8
_PROTOCOL: Final = 5


class Place(msgspec.Struct, array_like=True, frozen=True):
    """Where an object is found: a module, the file that it was made of, and the global in it."""

    module: str
    file: str | None
    attribute: str = ""


# To the child


class Setup(msgspec.Struct, array_like=True):
    """What a process has to know before its first call; sent once."""

    argv: list[str]
    main: tuple[str, str] | None
    """How the worker's script is imported: by `name` or by `path`."""
    apps: list[Place]
    """Where the app is, in the order in which to look for it."""
    settings: dict[str, tuple[bytes | None, str]]
    """Settings that were set after the app was made: the value, pickled where it can be, and the origin."""
    levels: dict[str, int]
    """The levels of the loggers that have one; the root logger's name is empty."""
    redirect: tuple[str, int] | None
    """The logger, and the level, that prints are turned into records of."""


class Call(msgspec.Struct, array_like=True):
    """A body to be run."""

    number: int
    """Different for each call; it comes back with all that is said of this one."""
    message: TaskMessage
    module: Place
    """The module that defines the task."""
    queue: str
    delivery_count: int
    priority: int
    hostname: str | None
    is_eager: bool
    arguments: bytes | None
    """`(args, kwargs)`, pickled, where they are others than the message's."""


# From the child


class Begun(msgspec.Struct, array_like=True, tag="begun"):
    """The body starts now: before this, a process that is lost has done nothing for the call."""

    number: int


class Log(msgspec.Struct, array_like=True, tag="log"):
    """A log record, packed; the number of the call that it was made in, or 0."""

    number: int
    record: bytes


class State(msgspec.Struct, array_like=True, tag="state"):
    """A state that the body reports; its meta, which is encoded already, pickled."""

    number: int
    state: str
    meta: bytes


class PackedError(msgspec.Struct, array_like=True, tag="error"):
    """An exception: pickled, where that can be read again, and as what would be stored of it."""

    pickled: bytes | None
    record: bytes
    traceback: str | None


class PackedRetry(msgspec.Struct, array_like=True, tag="retry"):
    """A `Retry`; its reason is packed as an exception, its arguments are pickled."""

    text: str
    reason: PackedError | None
    delay: float | None
    eta_at: float | None
    arguments: bytes | None


class Returned(msgspec.Struct, array_like=True, tag="returned"):
    """The body has returned: its value, pickled, what it has sent, and a retry that it asks for without raising it."""

    number: int
    value: bytes
    children: list[str]
    retry: PackedRetry | None


class Raised(msgspec.Struct, array_like=True, tag="raised"):
    """The body has raised."""

    number: int
    error: PackedError | PackedRetry
    children: list[str]


class Unready(msgspec.Struct, array_like=True, tag="unready"):
    """The process can't run the task, says why, and ends."""

    number: int
    why: str
    traceback: str | None


Reply = Returned | Raised | Unready
News = Begun | Log | State | Reply

_encode: Final = msgspec.msgpack.Encoder().encode
decode_setup: Final = msgspec.msgpack.Decoder(Setup).decode
decode_call: Final = msgspec.msgpack.Decoder(Call).decode
decode_news: Final = msgspec.msgpack.Decoder(News).decode


def framed(frame: Any) -> bytes:
    """Return a frame as it goes through the pipe."""
    body = _encode(frame)
    return len(body).to_bytes(_LENGTH_BYTES) + body


class FrameReader:
    """Puts together the frames of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take what has come; yield each frame that is whole now, without its length."""
        received = self._received
        received += data
        while len(received) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(received[:_LENGTH_BYTES])
            if len(received) < end:
                return
            frame = bytes(received[_LENGTH_BYTES:end])
            del received[:end]
            yield frame


# Values


def pack_value(value: Any, what: str) -> bytes:
    """Return `value` pickled; `what` says in an error whose it is.

    Raises:
        EncodeError: It can't be pickled.
    """
    try:
        return pickle.dumps(value, _PROTOCOL)
    except Exception as error:
        raise EncodeError(
            f"{what} can't be handed from one process to another: {describe(value):.200} can't be pickled ({error}). "
            'Use plain values or classes that a module defines, or offload="thread".'
        ) from error


def unpack_value(data: bytes, what: str) -> Any:
    """Return what `pack_value` packed.

    Raises:
        EncodeError: It can't be read in this process.
    """
    try:
        return pickle.loads(data)  # noqa: S301 - from our own process
    except Exception as error:
        raise EncodeError(
            f"{what} can't be handed from one process to another: it can't be read again ({error!r}). "
            'Use plain values or classes that a module defines, or offload="thread".'
        ) from error


def pack_error(exc: BaseException, traceback: str | None) -> PackedError | PackedRetry:
    """Return an exception that a body raised. Never fails."""
    if isinstance(exc, Retry):
        return pack_retry(exc, traceback)
    pickled = _pickled(exc)
    if pickled is None and isinstance(exc, Reject):
        pickled = _pickled(Reject(text_of(exc.reason), exc.requeue))
    return PackedError(pickled, JSON.encode(to_record(exc)), traceback)


def pack_retry(retry: Retry, traceback: str | None) -> PackedRetry | PackedError:
    """Return a `Retry`; the traceback is its reason's. Arguments that can't be pickled make it an `EncodeError`."""
    arguments = None
    if retry.arguments is not None:
        try:
            arguments = pack_value(retry.arguments, "An argument of a retry")
        except EncodeError as error:
            return pack_error(error, format_traceback(error))
    reason = None
    if retry.exc is not None:
        reason = PackedError(_pickled(retry.exc), JSON.encode(to_record(retry.exc)), traceback)
    return PackedRetry(text_of(retry), reason, retry.delay, retry.eta_at, arguments)


def unpack_error(packed: PackedError | PackedRetry) -> tuple[BaseException, str | None]:
    """Return an exception and the traceback where it was raised. Never fails."""
    if isinstance(packed, PackedRetry):
        return _unpack_retry(packed)
    if packed.pickled is not None:
        try:
            exc = pickle.loads(packed.pickled)  # noqa: S301 - from our own process
        except Exception:  # noqa: BLE001, S110 - its class may want what only the child has; the record needs nothing
            pass
        else:
            if isinstance(exc, BaseException):
                return exc, packed.traceback
    return from_record(JSON.decode(packed.record), None), packed.traceback


def _unpack_retry(packed: PackedRetry) -> tuple[BaseException, str | None]:
    reason, traceback = (None, None) if packed.reason is None else unpack_error(packed.reason)
    arguments = None
    if packed.arguments is not None:
        try:
            arguments = unpack_value(packed.arguments, "An argument of a retry")
        except EncodeError as error:
            return error, format_traceback(error)
    return Retry(packed.text, reason, packed.delay, packed.eta_at, arguments), traceback


def _pickled(exc: BaseException) -> bytes | None:
    """Return an exception pickled; None when it can't be, or can't be read again, as with a constructor of its own."""
    try:
        data = pickle.dumps(exc, _PROTOCOL)
        again = pickle.loads(data)  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - the class's own code runs here
        return None
    return data if type(again) is type(exc) else None


# Log records


def pack_record(record: logging.LogRecord) -> bytes:
    """Return a log record with its message formatted and its traceback as text. Never fails."""
    fields = dict(vars(record))
    fields["msg"] = _message(record)
    fields["args"] = None
    if record.exc_info and record.exc_info[1] is not None:
        fields["exc_text"] = record.exc_text or format_traceback(record.exc_info[1]).rstrip()
    fields["exc_info"] = None
    try:
        return pickle.dumps(fields, _PROTOCOL)
    except Exception:  # noqa: BLE001 - what came as `extra` may be anything
        return pickle.dumps({name: _portable(value) for name, value in fields.items()}, _PROTOCOL)


def unpack_record(data: bytes) -> logging.LogRecord:
    """Return what `pack_record` packed.

    Raises:
        Exception: Something that came as `extra` can't be read in this process.
    """
    return logging.makeLogRecord(pickle.loads(data))  # noqa: S301 - from our own process


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that don't fit the text, or whose own code fails
        return f"{describe(record.msg)} with the arguments {describe(record.args)} can't be formatted: {error!r}"


def _portable(value: Any) -> Any:
    try:
        pickle.dumps(value, _PROTOCOL)
    except Exception:  # noqa: BLE001 - as in `pack_record`
        return describe(value)
    return value
