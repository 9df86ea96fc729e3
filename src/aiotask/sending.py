"""From a call to what the broker carries: options merged, arguments checked and serialised once. No I/O."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from aiotask.arguments import Arguments
from aiotask.exceptions import EncodeError, ImproperlyConfigured, Unroutable
from aiotask.message import DEFAULT_PRIORITY, Envelope, Foreign, TaskMessage, new_id
from aiotask.options import ADDRESSING, AT_ONCE, Timing, check_call_options, timing
from aiotask.protocols import Application, Beyond, HeaderCarrier, Outgoing
from aiotask.request import find_current
from aiotask.routing import ROUTE_OPTIONS, Address, Destination, Router, address
from aiotask.wire.celery import write_message
from aiotask.wire.payload import put_call

logger = logging.getLogger("aiotask.sending")

_CARRIED: Final = {"priority", "headers", "ignore_result", "shadow", "argsrepr", "kwargsrepr"}
"""The options of a call that are fields of the message, under the same name."""

NOT_SENT: Final = "(the task was NOT sent: await it)"
"""A coroutine that is dropped warns under its name: the one place that sees a forgotten await."""


class Sendable(Protocol):
    """A task, as far as sending it goes."""

    app: Any  # an Application; invariance of attributes would refuse every class that says more of it
    name: str
    arguments: Arguments
    typing: bool
    addressed: bool
    queue: Any
    priority: Any
    expires: Any


class NamedTask:
    """A task of which no more is known here than its name."""

    typing = False
    addressed = False
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
        ImproperlyConfigured: There is no such serializer or compression, or a router returned no route.
        Unroutable: It has to reach a queue (`mandatory`) and reaches none, or its queue may not be made.
    """
    check_call(task, args, kwargs)
    app = task.app
    conf = app.conf
    message = TaskMessage(task.name, new_id(), b"", origin=app.origin)
    message.priority = conf.task_default_priority if task.priority is None else task.priority
    if conf.task_protocol == 2:
        message.foreign = Foreign()
    parent = find_current()
    if parent is not None:
        message.parent_id = parent.id
        message.root_id = parent.root_id
    queue = task.queue or conf.task_default_queue
    when = AT_ONCE if task.expires is None else Timing(ttl_s=task.expires)
    own = vars(task)  # where it says nothing, the attribute follows the setting: by a descriptor, which costs more
    serializer = own.get("serializer") or conf.task_serializer
    compression = own.get("compression") or conf.task_compression
    beyond = None
    if options or task.addressed or not conf.router.plain:
        given = check_call_options(task.name, options)
        if task.addressed or not conf.router.plain or not ADDRESSING.isdisjoint(given):
            given, beyond = _routed(task, message, args, kwargs, given)
        for name in _CARRIED & given.keys():
            setattr(message, name, given[name])
        message.id = given.get("task_id", message.id)
        queue = given.get("queue", queue)
        when = timing(given.get("countdown"), given.get("eta"), given.get("expires", when.ttl_s))
        serializer = given.get("serializer", serializer)
        compression = given.get("compression", compression)
    put_call(message, args, kwargs, serializer, compression, conf.message_max_bytes)
    if when is not AT_ONCE:
        message.eta, message.expires = when.eta, when.expiry
    return Outgoing(message, queue, when, beyond)


def outgoing_calls(task: Sendable, calls: Iterable[Sequence[Any]], options: Mapping[str, Any]) -> list[Outgoing]:
    """Return a call of `task` for each tuple of positional arguments, ready to be published together.

    Raises:
        TypeError: `calls` can't be iterated, or the options have an id, which no two tasks share.
        Exception: As `outgoing_call`; of the first call that doesn't fit.
    """
    if "task_id" in options:
        raise TypeError(f"{task.name}: send_many takes no task_id, since each task has its own.")
    if not isinstance(calls, Iterable):
        raise TypeError(f"{task.name}: calls is {calls!r:.80}; it takes a list of tuples, one for each call.")
    return [outgoing_call(task, args, {}, options) for args in calls]


def _routed(
    task: Sendable, message: TaskMessage, args: Sequence[Any], kwargs: Mapping[str, Any], given: dict[str, Any]
) -> tuple[dict[str, Any], Beyond | None]:
    """Find out by the routing tables where a call goes; note in the message how it was sent.

    Returns:
        The options that are to be laid over those of the task: what its route says where the task does not, and over
        that what the call says; with the first of the queues. And what there is beyond that.
    """
    router: Router = task.app.conf.router
    known = not isinstance(task, NamedTask)
    own = vars(task) if known else {}
    said = {option: own[option] for option in ROUTE_OPTIONS if own.get(option) is not None} | given
    route = router.route(task.name, args, kwargs, said, task if known else None)
    laid = {option: value for option, value in route.items() if option not in said} | given
    mandatory, immediate = ({**route, **said}.get(option, False) for option in ("mandatory", "immediate"))
    destination = _destination(router, task.name, address(given, own, route), mandatory=mandatory)
    message.via = (destination.exchange, destination.routing_key) if destination.exchange else None
    queue, *further = destination.queues
    beyond = Beyond(tuple(further), immediate) if further or immediate else None
    return {**laid, "queue": queue}, beyond


def _destination(router: Router, name: str, to: Address, *, mandatory: bool) -> Destination:
    """Return where a call goes; what no queue is bound for, and need not be, goes where it is not lost."""
    why = ""
    try:
        found = router.resolve(to)
        if not found.queues:
            why = router.why_unbound(found)
            found = router.fallback(to)
    except Unroutable as error:
        raise Unroutable(f"{name}: {error}") from None
    if why and mandatory:
        raise Unroutable(f"{name}: {why} It was not sent (mandatory).")
    if why:
        logger.warning("%s goes to the queue %s, since it would reach none. %s", name, found.queues[0], why)
    return found


def check_call(task: Sendable, args: Any, kwargs: Any) -> None:
    """See that `args` and `kwargs` can be a call of `task`.

    Raises:
        TypeError: They are no sequence and no mapping of names.
        ArgumentError: They don't fit the signature, and the task looks at it (`typing`).
    """
    # What `delay` gives is told by its type: to ask of an abstract class costs more than all the rest here.
    if type(args) is not tuple and (isinstance(args, (str, bytes)) or not isinstance(args, Sequence)):
        raise TypeError(f"{task.name}: args is {args!r:.80}; it takes a tuple or list, one item per argument.")
    if type(kwargs) is not dict and not isinstance(kwargs, Mapping):
        raise TypeError(f"{task.name}: kwargs is {kwargs!r:.80}; it takes a mapping of names to arguments.")
    if task.typing:
        task.arguments.check(args, kwargs)
    elif not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"{task.name}: kwargs is {kwargs!r:.80}; the names of arguments are texts.")


def note_children(calls: Sequence[Outgoing]) -> None:
    """Note what was sent as children of the execution that has sent it, if it is one."""
    parent = find_current()
    if parent is not None:
        parent.children.extend(call.message.id for call in calls)


def further_envelopes(calls: Sequence[Outgoing], envelopes: Sequence[Envelope]) -> list[Envelope]:
    """Return what goes to the further queues of calls, whose first envelopes are given in their order."""
    return [
        msgspec.structs.replace(envelope, queue=queue)
        for call, envelope in zip(calls, envelopes, strict=True)
        if call.beyond is not None
        for queue in call.beyond.queues
    ]


def message_envelope(app: Application, message: TaskMessage, queue: str, when: Timing) -> Envelope:
    """Return a message as what the broker carries, in the protocol that it is of.

    Raises:
        EncodeError: The headers can't be serialised, or the whole is larger than `message_max_bytes`.
        ImproperlyConfigured: It is of Celery's protocol, and the broker does not carry headers.
    """
    if message.foreign is not None:
        return _foreign_envelope(app, message, queue, when)
    try:
        body = app.codec.encode(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _headers_error(message, error) from error
    _check_size(app, message, body)
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


def _foreign_envelope(app: Application, message: TaskMessage, queue: str, when: Timing) -> Envelope:
    if not isinstance(app.broker, HeaderCarrier):
        raise ImproperlyConfigured(
            f"{message.task}: Celery's protocol (task_protocol 2) needs a broker whose messages have headers: amqp://, "
            "or memory:// to try it out. Use one, or task_protocol 'aiotask'."
        )
    try:
        parts = write_message(message)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _headers_error(message, error) from error
    _check_size(app, message, parts.body)
    return Envelope(
        message.id,
        queue,
        parts.body,
        parts.content_type,
        DEFAULT_PRIORITY if "priority" in parts.properties else message.priority,
        when.delay_s,
        when.due_at,
        when.ttl_s,
        when.expires_at,
        parts.headers,
        parts.properties,
    )


def _headers_error(message: TaskMessage, error: Exception) -> EncodeError:
    return EncodeError(f"{message.task}: the headers can't be serialised: {error}")


def _check_size(app: Application, message: TaskMessage, body: bytes) -> None:
    limit = app.conf.message_max_bytes
    if len(body) > limit:
        raise EncodeError(
            f"{message.task}: the message has {len(body):,} bytes, more than message_max_bytes ({limit:,}). "
            "Send a reference to the data, or raise the setting for senders and workers."
        )
