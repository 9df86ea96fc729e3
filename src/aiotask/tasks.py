"""A task: what the decorator makes of a function, and what sends it."""

import inspect
import sys
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, NoReturn, ParamSpec, Protocol, TypeVar, overload

from aiotask.arguments import Arguments
from aiotask.async_result import AsyncResult
from aiotask.exceptions import EncodeError, ImproperlyConfigured, MaxRetriesExceeded, Retry
from aiotask.message import Envelope, TaskMessage, new_id
from aiotask.options import (
    AT_ONCE,
    TASK_OPTIONS,
    Timing,
    aware_moment,
    check_task_option,
    checked_headers,
    checked_priority,
    checked_text,
    refuse_call_options,
    timing,
)
from aiotask.protocols import Application
from aiotask.request import Request, current_request, find_current, reset_current, set_current
from aiotask.retry import RetryPolicy, exhausted
from aiotask.wire.serialization import JSON

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
C = TypeVar("C")

_NOT_SENT = "(the task was NOT sent: await it)"


class _RunsAsync(Protocol[P, R_co]):
    @property
    def run(self) -> Callable[P, Coroutine[Any, Any, R_co]]: ...


class _RunsPlain(Protocol[P, R_co]):
    @property
    def run(self) -> Callable[P, R_co]: ...


class Task:
    """Base of every task. Its options are attributes; API names, Celery's where the meaning is the same.

    Attributes:
        name: Under which messages ask for it.
        app: The app that it belongs to.
        run: The body; `async def` runs on the event loop, a plain `def` in a thread.
    """

    name: str
    app: Application
    run: Callable[..., Any]
    arguments: Arguments
    policy: RetryPolicy
    is_async: bool

    typing: bool
    max_retries: int | None
    default_retry_delay: float
    ignore_result: bool
    store_errors_even_if_ignored: bool
    track_started: bool
    acks_late: bool
    acks_on_failure_or_timeout: bool
    throws: tuple[type[BaseException], ...]
    queue: str | None
    priority: int | None
    expires: float | None
    offload: str

    _NOT_YET: ClassVar = frozenset(
        {"apply", "sync", "s", "si", "signature", "map", "starmap", "chunks", "replace", "add_to_chord", "get_logger"}
    )

    def __init__(self, app: Application, name: str, options: Mapping[str, Any]) -> None:
        """Take the options, checked, over the settings' defaults.

        Raises:
            ImproperlyConfigured: An option is unknown, misspelt, or its value doesn't fit.
        """
        self.app = app
        self.name = name
        values = {option: TASK_OPTIONS[option].default for option in TASK_OPTIONS}
        values |= {option: check_task_option(name, option, value) for option, value in options.items()}
        conf = app.conf
        for option, setting in (
            ("ignore_result", conf.task_ignore_result),
            ("store_errors_even_if_ignored", conf.task_store_errors_even_if_ignored),
            ("track_started", conf.task_track_started),
            ("acks_late", conf.task_acks_late),
            ("acks_on_failure_or_timeout", conf.task_acks_on_failure_or_timeout),
        ):
            if values[option] is None:
                values[option] = setting
        for option, value in values.items():
            setattr(self, option, value)
        self.policy = RetryPolicy(**{field: values[field] for field in RetryPolicy.__struct_fields__})
        self._delay_name = f"{name}.delay {_NOT_SENT}"
        self._apply_name = f"{name}.apply_async {_NOT_SENT}"

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __getattr__(self, name: str) -> Any:
        if name in Task._NOT_YET:
            raise AttributeError(f"Task.{name} is not available in this version of aiotask yet.")
        raise AttributeError(f"{type(self).__name__} {self.__dict__.get('name')!r} has no attribute {name!r}.")

    @property
    def request(self) -> Request:
        """The request of this task's execution that the calling code runs in; a request that says so outside of one."""
        current = find_current()
        return current if current is not None and current.task_object is self else _OUTSIDE

    @property
    def backend(self) -> Any:
        """The result backend that its results are stored in."""
        return self.app.backend

    @overload
    def delay(self: _RunsAsync[P, R], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, AsyncResult[R]]: ...
    @overload
    def delay(self: _RunsPlain[P, R], *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, AsyncResult[R]]: ...
    def delay(self, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """Send the task with these arguments; the result is returned once the broker has the message for good.

        Raises:
            ArgumentError: The arguments don't fit the function; nothing is sent.
            EncodeError: One can't be serialised; nothing is sent.
            BrokerError: The broker did not confirm.

        Cost: one round trip, shared with the calls of the same loop iteration.
        """
        # A coroutine that is dropped warns under its name: the one place that sees a forgotten await.
        sending: Any = self._send_one(args, kwargs, {})
        sending.__qualname__ = self._delay_name
        return sending  # type: ignore[no-any-return]

    @overload
    def apply_async(
        self: _RunsAsync[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        ignore_result: bool | None = None,
    ) -> Coroutine[Any, Any, AsyncResult[R]]: ...
    @overload
    def apply_async(
        self: _RunsPlain[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        task_id: str | None = None,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        headers: Mapping[str, Any] | None = None,
        ignore_result: bool | None = None,
    ) -> Coroutine[Any, Any, AsyncResult[R]]: ...
    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """Send the task with arguments and options.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            **options: `task_id`; `countdown` (seconds) or `eta` (aware datetime) until it is due, kept by the broker;
                `expires` (seconds or aware datetime) after which it is not started; `queue`; `priority` (0 to 9, 0 the
                most urgent, 5 when none is given); `headers` (a mapping, seen in `request.headers`, kept by retries);
                `ignore_result`.

        Raises:
            TypeError: An option is unknown or of the wrong type.
            ValueError: A datetime is naive, or a value is out of its range.
            ArgumentError, EncodeError, BrokerError: As `delay`.

        Cost: as `delay`.
        """
        sending: Any = self._send_one(args, kwargs, options)
        sending.__qualname__ = self._apply_name
        return sending  # type: ignore[no-any-return]

    async def send_many(self, calls: Iterable[Sequence[Any]], **options: Any) -> "list[AsyncResult[Any]]":
        """Send one task per tuple of positional arguments, as one batch; results in the same order.

        The options are those of `apply_async`, but for `task_id`, and hold for each.

        Raises:
            PublishError: Some were not confirmed; it names them. The rest were sent.
            ArgumentError, EncodeError: One call doesn't fit; nothing is sent.

        Cost: one round trip per 1,000 or so.
        """
        if "task_id" in options:
            raise TypeError(f"{self.name}: send_many takes no task_id, since each task has its own.")
        envelopes = [self._envelope(args, {}, options) for args in calls]
        if envelopes:
            await self.app.send(envelopes)
        return [AsyncResult(envelope.id, app=self.app, name=self.name) for envelope in envelopes]

    def retry(
        self,
        exc: BaseException | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        max_retries: int | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        throw: bool = True,
    ) -> Retry:
        """Ask to be run again: same id, same queue, `retries + 1`. Write `raise self.retry(exc=exc)`.

        Args:
            exc: The reason, stored with the state RETRY, and raised when the limit is reached.
            countdown: Seconds to wait; without it and `eta`, `default_retry_delay`.
            eta: When to run again, aware.
            max_retries: Another limit than the task's, for this call.
            args: Other positional arguments than this time's.
            kwargs: Other keyword arguments than this time's.
            throw: False returns the `Retry`; the rest of the body runs, and the retry is sent at its end.

        Raises:
            Retry: What the worker waits for.
            MaxRetriesExceeded: The limit is reached and no `exc` was given; from the current exception.
            BaseException: `exc`, or the current exception, at the limit or outside a worker.
        """
        request = self.request
        if request.called_directly:
            self._raise_reason(exc, Retry(f"{self.name} asks for a retry outside a worker."))
        limit = self.max_retries if max_retries is None else max_retries
        if exhausted(limit, request.retries):
            self._raise_reason(
                exc,
                MaxRetriesExceeded(f"Can't retry {self.name}[{request.id}] more than {limit} times."),
                prefer_current=False,
            )
        eta_at = None if eta is None else aware_moment("eta", eta)
        delay = timing(countdown, eta, None).delay_s
        retry = Retry(
            f"Retry in {delay} s" if eta is None else f"Retry at {eta.isoformat()}",
            exc,
            delay if delay is not None or eta_at is not None else float(self.default_retry_delay),
            eta_at,
            None if args is None and kwargs is None else self._other_arguments(request, args, kwargs),
        )
        if throw:
            raise retry from exc
        request.pending_retry = retry
        return retry

    def update_state(self, state: str, meta: Any = None) -> None:
        """Store a state of this execution with its meta; returns at once.

        Updates keep their order; of a burst the last is written, and always the last one before the final state.
        Any upper-case text is a state of your own.

        Raises:
            ValueError: The state is not upper-case text.
            EncodeError: The meta can't be serialised.
        """
        if not state or state != state.upper():
            raise ValueError(f"state is {state!r}; it takes an upper-case text such as 'PROGRESS'.")
        JSON.encode(meta)
        self.request.report(state, meta)

    def envelope_of(self, message: TaskMessage, queue: str, when: Timing) -> Envelope:
        """Return a message as what the broker carries.

        Raises:
            EncodeError: The headers can't be serialised, or the whole is larger than `message_max_bytes`.
        """
        app = self.app
        try:
            body = app.codec.encode(message)
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(f"{self.name}: the headers can't be serialised: {error}") from error
        if len(body) > app.conf.message_max_bytes:
            raise EncodeError(
                f"{self.name}: the message has {len(body):,} bytes, more than message_max_bytes "
                f"({app.conf.message_max_bytes:,}). Send a reference to the data, or raise the setting on both sides."
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

    async def _send_one(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        envelope = self._envelope(args or (), kwargs or {}, options)
        await self.app.send((envelope,))
        return AsyncResult(envelope.id, app=self.app, name=self.name)

    def _envelope(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Envelope:
        if isinstance(args, (str, bytes)) or not isinstance(args, Sequence):
            raise TypeError(f"{self.name}: args is {args!r:.80}; it takes a tuple or list, one item per argument.")
        if self.typing:
            self.arguments.check(args, kwargs)
        payload = JSON.encode_call(tuple(args), dict(kwargs))
        conf = self.app.conf
        message = TaskMessage(self.name, new_id(), payload, origin=self.app.origin)
        message.priority = conf.task_default_priority if self.priority is None else self.priority
        parent = find_current()
        if parent is not None:
            message.parent_id = parent.id
            message.root_id = parent.root_id
        queue = self.queue or conf.task_default_queue
        when = AT_ONCE if self.expires is None else Timing(ttl_s=self.expires)
        if options:
            queue, when = self._apply_options(message, queue, when, **options)
        return self.envelope_of(message, queue, when)

    def _apply_options(
        self,
        message: TaskMessage,
        default_queue: str,
        default_when: Timing,
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
            refuse_call_options(self.name, unknown)
        if task_id is not None:
            message.id = checked_text("task_id", task_id)
        if priority is not None:
            message.priority = checked_priority(priority)
        if headers is not None:
            message.headers = checked_headers(headers)
        if ignore_result is not None:
            message.ignore_result = bool(ignore_result)
        when = timing(countdown, eta, expires if expires is not None else default_when.ttl_s)
        message.eta, message.expires = when.eta, when.expiry
        return default_queue if queue is None else checked_text("queue", queue), when

    def _other_arguments(
        self, request: Request, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        chosen = (
            list(request.args if args is None else args),
            dict(request.kwargs if kwargs is None else kwargs),
        )
        if self.typing:
            self.arguments.check(*chosen)
        return chosen

    @staticmethod
    def _raise_reason(exc: BaseException | None, otherwise: Exception, *, prefer_current: bool = True) -> NoReturn:
        """Raise `exc`; when there is none, the exception being handled, or `otherwise` from it."""
        current = sys.exc_info()[1]
        if exc is not None:
            raise exc
        if current is not None and prefer_current:
            raise current
        raise otherwise from current


class FunctionTask(Task, Generic[P, C]):
    """A task made of a function. Calling it is calling the function."""

    def __init__(
        self, app: Application, name: str, function: Callable[..., C], *, bind: bool, options: Mapping[str, Any]
    ) -> None:
        """Wrap `function`; with `bind` its first parameter is the task.

        Raises:
            ImproperlyConfigured: It is no function that can be a task, or an option doesn't fit.
        """
        if not callable(function):
            raise ImproperlyConfigured(f"Task {name!r}: {function!r} is no function.")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise ImproperlyConfigured(f"Task {name!r}: a generator can't be a task, since nobody would iterate it.")
        super().__init__(app, name, options)
        self.run = types.MethodType(function, self) if bind else function
        self.is_async = inspect.iscoroutinefunction(function)
        self.arguments = Arguments(name, function, skip_first=bind)
        self.__module__ = getattr(function, "__module__", None) or "__main__"
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.__qualname__ = getattr(function, "__qualname__", name)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the function, here and now; `request.called_directly` is true inside."""
        current = find_current()
        if current is None or current.task_object is not self:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        # Called from its own execution, whose request is not this call's.
        if self.is_async:
            awaited: Any = self._awaited_outside(args, kwargs)
            return awaited  # type: ignore[no-any-return]
        token = set_current(None)
        try:
            return self.run(*args, **kwargs)  # type: ignore[no-any-return]
        finally:
            reset_current(token)

    async def _awaited_outside(self, args: Any, kwargs: Any) -> Any:
        token = set_current(None)
        try:
            return await self.run(*args, **kwargs)
        finally:
            reset_current(token)


_OUTSIDE = Request()


def current_task() -> Task | None:
    """Return the task whose execution this code runs in, or None."""
    request = current_request()
    return request.task_object  # type: ignore[no-any-return]
