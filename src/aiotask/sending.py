"""From a call to what the broker carries: options merged, arguments checked and serialised once. No I/O."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from aiotask.arguments import Arguments
from aiotask.exceptions import EncodeError
from aiotask.message import Envelope, TaskMessage, new_id
from aiotask.options import (
    AT_ONCE,
    Timing,
    checked_headers,
    checked_priority,
    checked_text,
    refuse_call_options,
    timing,
)
from aiotask.protocols import Application, Outgoing
from aiotask.request import find_current
from aiotask.wire.serialization import JSON


class Sendable(Protocol):
    """A task, as far as sending it goes."""

    app: Any  # an Application; invariance of attributes would refuse every class that says more of it
    name: str
    arguments: Arguments
    typing: bool
    queue: Any
    priority: Any
    expires: Any


class NamedTask:
    """A task of which no more is known here than its name."""

    typing = False
    queue = priority = expires = None

    def __init__(self, app: Application, name: str) -> None:
        self.app = app
        self.name = name
        self.arguments = Arguments(name, lambda *args, **kwargs: (args, kwargs), skip_first=False)


def outgoing_call(
    task: Sendable, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> Outgoing:
    """Return a call of `task`, ready to be published.

    Raises:
        TypeError, ValueError: An option is unknown, of the wrong type, or out of its range.
        ArgumentError: The arguments don't fit.
        EncodeError: An argument can't be serialised.
    """
    check_call(task, args, kwargs)
    app = task.app
    conf = app.conf
    message = TaskMessage(task.name, new_id(), JSON.encode_call(tuple(args), dict(kwargs)), origin=app.origin)
    message.priority = conf.task_default_priority if task.priority is None else task.priority
    parent = find_current()
    if parent is not None:
        message.parent_id = parent.id
        message.root_id = parent.root_id
    queue = task.queue or conf.task_default_queue
    when = AT_ONCE if task.expires is None else Timing(ttl_s=task.expires)
    if options:
        queue, when = _apply(message, queue, when, task.name, **options)
    if when is not AT_ONCE:
        message.eta, message.expires = when.eta, when.expiry
    return Outgoing(message, queue, when)


def check_call(task: Sendable, args: Any, kwargs: Any) -> None:
    """See that `args` and `kwargs` can be a call of `task`.

    Raises:
        TypeError: They are no sequence and no mapping.
        ArgumentError: They don't fit the signature, and the task looks at it (`typing`).
    """
    if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
        raise TypeError(f"{task.name}: args is {args!r:.80}; it takes a tuple or list, one item per argument.")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"{task.name}: kwargs is {kwargs!r:.80}; it takes a mapping of names to arguments.")
    if task.typing:
        task.arguments.check(args, kwargs)


def note_children(calls: Sequence[Outgoing]) -> None:
    """Note what was sent as children of the execution that has sent it, if it is one."""
    parent = find_current()
    if parent is not None:
        parent.children.extend(call.message.id for call in calls)


def message_envelope(app: Application, message: TaskMessage, queue: str, when: Timing) -> Envelope:
    """Return a message as what the broker carries.

    Raises:
        EncodeError: The headers can't be serialised, or the whole is larger than `message_max_bytes`.
    """
    try:
        body = app.codec.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise EncodeError(f"{message.task}: the headers can't be serialised: {error}") from error
    limit = app.conf.message_max_bytes
    if len(body) > limit:
        raise EncodeError(
            f"{message.task}: the message has {len(body):,} bytes, more than message_max_bytes ({limit:,}). "
            "Send a reference to the data, or raise the setting for senders and workers."
        )
    return Envelope(
        message.id,
        queue,
        body,
        app.codec.content_type,
        message.priority,
        when.delay_s,
        when.due_at,
        when.ttl_s,
        when.expires_at,
    )


def _apply(
    message: TaskMessage,
    default_queue: str,
    default_when: Timing,
    task: str,
    /,
    *,
    task_id: str | None = None,
    countdown: float | None = None,
    eta: datetime | None = None,
    expires: float | datetime | None = None,
    queue: str | None = None,
    priority: int | None = None,
    headers: Mapping[str, Any] | None = None,
    ignore_result: bool | None = None,
    **unknown: Any,
) -> tuple[str, Timing]:
    if unknown:
        refuse_call_options(task, unknown)
    if task_id is not None:
        message.id = checked_text("task_id", task_id)
    if priority is not None:
        message.priority = checked_priority(priority)
    if headers is not None:
        message.headers = checked_headers(headers)
    if ignore_result is not None:
        if not isinstance(ignore_result, bool):
            raise TypeError(f"ignore_result is {ignore_result!r:.80}; it takes True or False.")
        message.ignore_result = ignore_result
    when = timing(countdown, eta, default_when.ttl_s if expires is None else expires)
    return default_queue if queue is None else checked_text("queue", queue), when
