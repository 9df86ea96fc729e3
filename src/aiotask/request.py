"""The request: what an execution knows of itself, in a context variable of its own.

Two executions of one task never see each other's, in coroutines, in threads, and in what they start.
"""

import contextvars
import logging
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from aiotask.exceptions import Retry
from aiotask.message import DEFAULT_PRIORITY, Delivery, TaskMessage
from aiotask.showing import shown

Report = Callable[[Any, str, Any], None]
"""Takes the execution, a state and its meta from a running body; must be safe to call from any thread."""

OnWait = Callable[[Any, bool], None]
"""Takes the execution, and True when it begins to wait for another task, False when it goes on; from any thread."""


class Request:
    """One execution of a task, seen from inside. Cheap to make: most fields are read from the message when asked for.

    Attributes:
        id: The task id; None outside an execution.
        args: Positional arguments, converted.
        kwargs: Keyword arguments, converted.
        called_directly: True when the function was called, not sent.
        is_eager: True when it runs in the caller's process by `apply`.
        hostname: The node name of the worker.
    """

    __slots__ = (
        "_delivery",
        "_execution",
        "_message",
        "_on_wait",
        "_report",
        "args",
        "called_directly",
        "children",
        "hostname",
        "id",
        "is_eager",
        "kwargs",
        "pending_retry",
        "task_object",
    )

    utc = True

    def __init__(
        self,
        message: TaskMessage | None = None,
        delivery: Delivery | None = None,
        *,
        task_object: Any = None,
        args: Any = None,
        kwargs: Any = None,
        hostname: str | None = None,
        report: Report | None = None,
        on_wait: OnWait | None = None,
        execution: Any = None,
        is_eager: bool = False,
    ) -> None:
        self._message = message
        self._delivery = delivery
        self._report = report
        self._on_wait = on_wait
        self._execution = execution
        self.id = message.id if message is not None else None
        self.args = args
        self.kwargs = kwargs
        self.hostname = hostname
        self.task_object = task_object
        self.is_eager = is_eager
        self.called_directly = message is None
        self.children: list[str] = []
        self.pending_retry: Retry | None = None

    def __repr__(self) -> str:
        return f"<Request: {self.task}[{self.id}]>" if self._message is not None else "<Request: called directly>"

    @property
    def task(self) -> str | None:
        """The task's name."""
        return self._message.task if self._message is not None else None

    @property
    def retries(self) -> int:
        """How often it was retried before; 0 at the first time."""
        return self._message.retries if self._message is not None else 0

    @property
    def root_id(self) -> str | None:
        """The id of the first task of the tree that this one belongs to; its own for a root."""
        return (self._message.root_id or self._message.id) if self._message is not None else None

    @property
    def parent_id(self) -> str | None:
        """The id of the task that sent this one."""
        return self._message.parent_id if self._message is not None else None

    @property
    def eta(self) -> datetime | None:
        """When it was due, aware, in UTC."""
        return _moment(self._message.eta) if self._message is not None else None

    @property
    def expires(self) -> datetime | None:
        """When it expires, aware, in UTC."""
        return _moment(self._message.expires) if self._message is not None else None

    @property
    def group(self) -> str | None:
        """The id of the group that it belongs to."""
        return self._fact("group")  # type: ignore[no-any-return]

    taskset = group

    @property
    def chord(self) -> Any:
        """The body of the chord that it belongs to, a signature."""
        return self._fact("chord")

    @property
    def chain(self) -> Any:
        """What follows it in its chain, the next step last."""
        return self._fact("chain")

    @property
    def callbacks(self) -> Any:
        """The signatures to be sent when it succeeds."""
        return self._fact("callbacks")

    @property
    def errbacks(self) -> Any:
        """The signatures to be sent when it fails."""
        return self._fact("errbacks")

    @property
    def timelimit(self) -> tuple[float | None, float | None]:
        """The hard and the soft time limit that its caller has asked for, in seconds."""
        hard, soft = self._fact("timelimit") or (None, None)
        return hard, soft

    @property
    def time_limit(self) -> float | None:
        """The hard time limit that its caller has asked for."""
        return self.timelimit[0]

    @property
    def soft_time_limit(self) -> float | None:
        """The soft time limit that its caller has asked for."""
        return self.timelimit[1]

    @property
    def reply_to(self) -> str | None:
        """The queue in which its caller waits for the result, if there is one."""
        return self._message.reply_to if self._message is not None else None

    def _fact(self, name: str) -> Any:
        """Return what only messages of other protocols say so far."""
        foreign = None if self._message is None else self._message.foreign
        return None if foreign is None else foreign.facts.get(name)

    @property
    def origin(self) -> str | None:
        """Who sent it: `gen<pid>@<host>`."""
        return self._message.origin if self._message is not None else None

    @property
    def headers(self) -> dict[str, Any]:
        """The caller's own headers."""
        if self._message is None or self._message.headers is None:
            return {}
        return self._message.headers

    @property
    def shadow(self) -> str | None:
        """What logs call it instead of the task's name, if the caller gave one."""
        return self._message.shadow if self._message is not None else None

    @property
    def argsrepr(self) -> str:
        """What is shown in place of the positional arguments: the caller's text, else their repr; on one line, cut."""
        given = self._message.argsrepr if self._message is not None else None
        return shown(repr(tuple(self.args or ())) if given is None else given)

    @property
    def kwargsrepr(self) -> str:
        """What is shown in place of the keyword arguments: the caller's text, else their repr; on one line, cut."""
        given = self._message.kwargsrepr if self._message is not None else None
        return shown(repr(self.kwargs or {}) if given is None else given)

    @property
    def properties(self) -> dict[str, Any]:
        """What the transport carried beside the headers."""
        message = self._message
        if message is None:
            return {}
        carried = {} if message.foreign is None else message.foreign.properties
        return {"correlation_id": message.id, "content_type": message.content_type, **carried}

    @property
    def correlation_id(self) -> str | None:
        """The task id, under AMQP's name."""
        return self.properties.get("correlation_id")

    @property
    def priority(self) -> int:
        """0 to 9, 0 the most urgent."""
        return self._message.priority if self._message is not None else DEFAULT_PRIORITY

    @property
    def ignore_result(self) -> bool | None:
        """What the caller asked for; None means as the task is declared."""
        return self._message.ignore_result if self._message is not None else None

    @property
    def loglevel(self) -> int:
        """The level in force for the tasks' loggers, as a number."""
        return logging.getLogger("aiotask.task").getEffectiveLevel()

    @property
    def logfile(self) -> str | None:
        """The file that the program's log goes to, whole; None when it goes elsewhere."""
        files = [handler.baseFilename for handler in logging.root.handlers if isinstance(handler, logging.FileHandler)]
        return next((file for file in files if file != os.devnull), None)

    @property
    def delivery_info(self) -> dict[str, Any]:
        """How it came: exchange, routing_key, queue, redelivered, delivery_count, priority (the broker's number)."""
        delivery = self._delivery
        if delivery is None:
            return {
                "exchange": None,
                "routing_key": None,
                "queue": None,
                "redelivered": False,
                "delivery_count": 0,
                "priority": None,
            }
        via = None if self._message is None else self._message.via
        exchange, routing_key = via or ("", delivery.queue)
        return {
            "exchange": exchange,
            "routing_key": routing_key,
            "queue": delivery.queue,
            "redelivered": delivery.delivery_count > 1,
            "delivery_count": delivery.delivery_count,
            "priority": self.properties.get("priority", delivery.priority),
        }

    def report(self, state: str, meta: Any) -> None:
        """Hand a state to whoever runs this execution; nothing happens in a direct call, which nobody watches."""
        if self._report is not None:
            self._report(self._execution, state, meta)


@contextmanager
def waiting(request: Request | None) -> Generator[None]:
    """Give back the slot of an execution while it waits for another task's result, which may need it."""
    if request is None or request._on_wait is None:
        yield
        return
    request._on_wait(request._execution, True)
    try:
        yield
    finally:
        request._on_wait(request._execution, False)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


_current: contextvars.ContextVar[Request | None] = contextvars.ContextVar("aiotask.request", default=None)

set_current = _current.set
reset_current = _current.reset
find_current = _current.get
"""The request of the execution that this code runs in, or None; the cheap way."""

_OUTSIDE = Request()


def current_request() -> Request:
    """Return the request of the execution that this code runs in; outside of one, a request that says so."""
    return _current.get() or _OUTSIDE
