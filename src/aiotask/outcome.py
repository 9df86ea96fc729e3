"""What happened to an execution (`Outcome`) and what is stored of it (`TaskMeta`). Values, no I/O."""

from datetime import datetime
from typing import Any

import msgspec

from aiotask.exceptions import Reject, Retry, WorkerLost
from aiotask.states import PENDING, READY_STATES


class Succeeded(msgspec.Struct):
    """The body returned `value`."""

    value: Any


class Failed(msgspec.Struct):
    """The body raised `exc`, or could not be run because of it; `traceback` is the formatted text."""

    exc: BaseException
    traceback: str | None = None
    dead: bool = False
    """True when the message itself goes to the dead letters."""


class Retried(msgspec.Struct):
    """The body asks to be run again."""

    retry: Retry
    traceback: str | None = None


class Ignored(msgspec.Struct):
    """Acknowledge, store nothing."""


class Rejected(msgspec.Struct):
    """The body gave its message up, or back."""

    reject: Reject


class Expired(msgspec.Struct):
    """Its time to start had passed."""


class Revoked(msgspec.Struct):
    """It was revoked before it started, or `terminated` while it ran."""

    reason: str = "revoked"


class Parked(msgspec.Struct):
    """Its task runs as often at once as it may; it waits in `line` until there is a place."""

    line: str


class Postponed(msgspec.Struct):
    """It is not due yet, which the broker was not told; the broker keeps it for so many seconds."""

    delay_s: float


class Lost(msgspec.Struct):
    """The process that ran the body was lost; it is run again, until that has happened too often."""

    exc: WorkerLost


class HandedBack(msgspec.Struct):
    """The worker stops before the body is done; another one runs it."""


Outcome = Succeeded | Failed | Retried | Ignored | Rejected | Expired | Revoked | Parked | Postponed | Lost | HandedBack


class ExceptionInfo(msgspec.Struct, frozen=True):
    """What a handler learns of an exception: the object, and its traceback as text, which is its `str` too."""

    exception: BaseException
    traceback: str

    def __str__(self) -> str:
        return self.traceback


class ExceptionRecord(msgspec.Struct):
    """An exception as plain values, the way Celery lays it out."""

    exc_type: str
    exc_message: list[Any]
    """The exception's `args`, or their reprs where they are no plain values."""
    exc_module: str | None = None


class Packed(msgspec.Struct):
    """A result, or a state's meta, in another form than JSON: `result_serializer` and `result_compression` want it so.

    It stays packed until somebody who accepts its content type asks for the value.
    """

    content_type: str
    compression: str | None
    """The content type of the compression, or None."""
    data: bytes


class TaskMeta(msgspec.Struct, kw_only=True):
    """What is known of one task execution.

    Attributes:
        result: The return value; for FAILURE, RETRY and REVOKED the exception; for other states their meta. A backend
            may get it as `Packed`, and keeps it so.
        date_done: When the state became final, aware, in UTC; None before.
        args: Arguments and worker name are stored with `result_extended` only.
        reply_to: Where a backend that sends results sends it; never stored.
    """

    id: str
    state: str = PENDING
    result: Any = None
    traceback: str | None = None
    children: list[str] = []
    date_done: datetime | None = None
    name: str | None = None
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None
    retries: int | None = None
    worker: str | None = None
    queue: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    reply_to: str | None = None

    @property
    def ready(self) -> bool:
        """True when the state is final."""
        return self.state in READY_STATES
