"""Exceptions as plain values, and back. Nothing is imported because a record says so."""

import functools
import sys
import traceback
from typing import Any

from aiotask.exceptions import RemoteError
from aiotask.outcome import ExceptionRecord
from aiotask.wire.celery import own_error
from aiotask.wire.serialization import JSON


def describe(value: object) -> str:
    """Return the repr of an exception or of what it holds, also when its own repr fails."""
    try:
        return _encodable(repr(value))
    except BaseException as error:  # noqa: BLE001 - the task's own code runs here; whatever it does, there is an answer
        return f"<{type(value).__qualname__} whose repr raised {type(error).__qualname__}>"


def text_of(value: object) -> str:
    """Return the str of an exception or of what it holds, also when its own str fails."""
    try:
        return _encodable(str(value))
    except BaseException:  # noqa: BLE001 - as in `describe`
        return describe(value)


def format_traceback(exc: BaseException) -> str:
    """Return the traceback as text, causes, notes and groups included, also when the exception's own str fails."""
    try:
        return _encodable("".join(traceback.format_exception(exc)))
    except BaseException:  # noqa: BLE001 - as in `describe`
        frames = "".join(traceback.format_tb(exc.__traceback__))
        return f"Traceback (most recent call last):\n{frames}{describe(exc)}\n"


def to_record(exc: BaseException) -> dict[str, Any]:
    """Return an exception as plain values: Celery's `exc_type`, `exc_message` (its args), `exc_module`.

    One whose args can't be serialised becomes a `RemoteError` with its repr.
    """
    kind = type(exc)
    try:
        record = {"exc_type": kind.__qualname__, "exc_message": list(exc.args), "exc_module": kind.__module__}
        JSON.encode(record["exc_message"])
    except BaseException:  # noqa: BLE001 - as in `describe`; a class may have made anything of its args
        return {
            "exc_type": RemoteError.__qualname__,
            "exc_message": [describe(exc)],
            "exc_module": RemoteError.__module__,
        }
    return record


def _encodable(text: str) -> str:
    """Write lone surrogates, which file names can bring along and UTF-8 lacks, as escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def from_record(value: Any, remote_traceback: str | None) -> Exception:
    """Return the exception that a record tells of, the remote traceback attached as a note.

    The real class when its module is imported here already and it is an `Exception` subclass (so never `SystemExit`);
    otherwise a subclass of `RemoteError` with the remote's name. Celery's own errors are ours of the same meaning.
    """
    record = _read(value)
    exc = _rebuild(record)
    if remote_traceback:
        # Not add_note, which a frozen dataclass refuses.
        notes = [*getattr(exc, "__notes__", ()), f"\nRemote traceback:\n{remote_traceback.rstrip()}"]
        BaseException.__setattr__(exc, "__notes__", notes)
    return exc


def _read(value: Any) -> ExceptionRecord:
    if isinstance(value, dict) and isinstance(value.get("exc_type"), str):
        message = value.get("exc_message")
        module = value.get("exc_module")
        return ExceptionRecord(
            value["exc_type"],
            message if isinstance(message, list) else [message],
            module if isinstance(module, str) else None,
        )
    return ExceptionRecord(RemoteError.__qualname__, [value], RemoteError.__module__)


def _rebuild(record: ExceptionRecord) -> Exception:
    args = tuple(record.exc_message)
    kind = _imported_class(record)
    if kind is None:
        return _remote_class(record.exc_type, record.exc_module)(*args)
    try:
        exc = kind(*args)
        if exc.args == args:
            return exc
    except Exception:  # noqa: BLE001, S110 - a constructor that wants other arguments; the next way needs none
        pass
    try:
        # The constructor changes its arguments or refuses them: the class and its args still hold.
        exc = kind.__new__(kind, *args)
        exc.args = args
    except Exception:  # noqa: BLE001 - as above
        return _remote_class(record.exc_type, record.exc_module)(*args)
    return exc


def _imported_class(record: ExceptionRecord) -> type[Exception] | None:
    ours = own_error(record.exc_module, record.exc_type)
    if ours is not None:
        return ours
    found: Any = sys.modules.get(record.exc_module or "builtins")
    for part in record.exc_type.split("."):
        # vars(): an attribute that a module's __getattr__ would import on demand is not looked up.
        found = vars(found).get(part) if hasattr(found, "__dict__") else None
    return found if isinstance(found, type) and issubclass(found, Exception) else None


@functools.lru_cache(maxsize=256)
def _remote_class(name: str, module: str | None) -> type[RemoteError]:
    if name == RemoteError.__qualname__:
        return RemoteError
    printable = "".join(c if c.isprintable() else "?" for c in name)[:200] or RemoteError.__qualname__
    kind = type(printable.rpartition(".")[2], (RemoteError,), {"__doc__": "An exception of a task's, by name only."})
    kind.__qualname__ = printable
    kind.__module__ = str(module)
    return kind
