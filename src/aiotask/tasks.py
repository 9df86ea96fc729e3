"""A task: what the decorator makes of a function, and what sends it."""

import inspect
import logging
import sys
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, overload

import msgspec

from aiotask.arguments import Arguments
from aiotask.async_result import AsyncResult, EagerResult
from aiotask.exceptions import ImproperlyConfigured, MaxRetriesExceeded, Retry
from aiotask.middleware import Next
from aiotask.options import (
    ADDRESSING,
    FOLLOWS_SETTING,
    TASK_NOT_YET,
    TASK_OPTIONS,
    BatchOptions,
    CallOptions,
    aware_moment,
    check_task_option,
    checked_text,
    timing,
)
from aiotask.outcome import ExceptionInfo
from aiotask.protocols import Application, Outgoing
from aiotask.request import Request, current_request, find_current, reset_current, set_current
from aiotask.retry import Classes, RetryPolicy, exhausted
from aiotask.sending import NOT_SENT, check_call, note_children, outgoing_call, outgoing_calls
from aiotask.sync_calls import SyncCaller
from aiotask.task_logging import get_task_logger
from aiotask.wire.payload import pack_result, packs_results
from aiotask.wire.serialization import JSON

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
C_co = TypeVar("C_co", covariant=True)

_ATTRIBUTES = {"backend": "own_backend"}
"""Options whose attribute has another name: `backend` is the live object."""


class _RunsAsync(Protocol[P, R_co]):
    @property
    def run(self) -> Callable[P, Coroutine[Any, Any, R_co]]: ...


class _RunsPlain(Protocol[P, R_co]):
    @property
    def run(self) -> Callable[P, R_co]: ...


class _Runs(Protocol[P, C_co]):
    @property
    def run(self) -> Callable[P, C_co]: ...


class _Setting(Generic[R]):
    """An option that follows a setting until the task says otherwise, whenever the setting is changed."""

    def __init__(self, setting: str) -> None:
        self._setting = setting

    def __get__(self, task: "Task | None", owner: type) -> Any:
        return None if task is None else getattr(task.app.conf, self._setting)


class _Sync:
    """The attribute `sync`, typed by the task's body; a property can't be overloaded."""

    @overload
    def __get__(self, task: _RunsAsync[P, R], owner: type) -> SyncCaller[P, R]: ...
    @overload
    def __get__(self, task: _RunsPlain[P, R], owner: type) -> SyncCaller[P, R]: ...
    def __get__(self, task: Any, owner: type) -> Any:
        return self if task is None else SyncCaller(task)


class Task:
    """Base of every task. Its options are attributes, of the class or of the instance.

    A subclass defines `run`. Subclasses of `app.Task` are registered with their app when the class is made, but for
    those that say `abstract = True`, which is not inherited; subclasses of `aiotask.Task` by `app.register`. There is
    one instance per process, so what `__init__` opens is shared by all executions.

    Attributes:
        name: Under which messages ask for it; `module.Class` when the class has none.
        app: The app that it belongs to.
        run: The body; `async def` runs on the event loop, a plain `def` where `offload` says, by default in a thread.
    """

    abstract: ClassVar[bool] = True
    name: str
    app: Application
    run: Callable[..., Any]
    arguments: Arguments
    policy: RetryPolicy
    is_async: bool
    addressed: bool

    typing: bool = True
    max_retries: int | None = 3
    default_retry_delay: float = 180
    autoretry_for: Classes = ()
    dont_autoretry_for: Classes = ()
    retry_kwargs: Mapping[str, Any] = MappingProxyType({})
    retry_backoff: bool | float = False
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    throws: Classes = ()
    ignore_result: Any = _Setting("task_ignore_result")
    store_errors_even_if_ignored: Any = _Setting("task_store_errors_even_if_ignored")
    track_started: Any = _Setting("task_track_started")
    acks_late: Any = _Setting("task_acks_late")
    acks_on_failure_or_timeout: Any = _Setting("task_acks_on_failure_or_timeout")
    reject_on_worker_lost: Any = _Setting("task_reject_on_worker_lost")
    serializer: Any = _Setting("task_serializer")
    compression: Any = _Setting("task_compression")
    own_backend: Any = None
    trail: bool = True
    concurrency: int | None = None
    queue: str | None = None
    exchange: str | None = None
    routing_key: str | None = None
    mandatory: bool | None = None
    immediate: bool | None = None
    priority: int | None = None
    expires: float | None = None
    offload: str = "thread"

    _NOT_YET: ClassVar = frozenset({"s", "si", "signature", "map", "starmap", "chunks", "replace", "add_to_chord"})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.abstract = vars(cls).get("abstract", False)
        app = getattr(cls, "app", None)
        if app is not None and not cls.abstract:
            app.register(cls)

    def attach(self, app: Application, name: str, options: Mapping[str, Any], function: Callable[..., Any]) -> None:
        """Make this the task `name` of `app`; called once, by the app, when it is registered.

        Args:
            app: Its app.
            name: Its name.
            options: The decorator's options; those of the class stand unless these say otherwise.
            function: What its arguments are checked against; its first parameter is not one of them when bound.

        Raises:
            ImproperlyConfigured: An option is unknown, misspelt, or its value doesn't fit.
        """
        try:
            self.name = checked_text("name", name)
        except (TypeError, ValueError) as error:
            raise ImproperlyConfigured(f"Task {name!r:.80}: {error}") from None
        for option in options:
            if option in _MEMBERS and option not in TASK_OPTIONS and option not in TASK_NOT_YET:
                raise ImproperlyConfigured(
                    f"Task {name!r}: {option!r} belongs to every task, and can't be an option; "
                    "define it in a subclass of Task and give that as base=."
                )
        kind: Any = type(self)
        if not isinstance(kind.backend, property):
            # An option of the class, in whose place the live object is to be seen.
            kind.own_backend, kind.backend = kind.backend, Task.backend
        own = {option: getattr(kind, _ATTRIBUTES.get(option, option)) for option in TASK_OPTIONS}
        own = {option: value for option, value in own.items() if value is not None}
        own |= {option: value for option, value in _own_attributes(type(self)).items() if option in TASK_NOT_YET}
        for option, value in (own | dict(options)).items():
            checked = check_task_option(name, option, value)
            if checked is not None or option not in FOLLOWS_SETTING:
                self.__dict__[_ATTRIBUTES.get(option, option)] = checked
        self.app = app
        self.policy = RetryPolicy(**{field: getattr(self, field) for field in RetryPolicy.__struct_fields__})
        self.is_async = inspect.iscoroutinefunction(self.run)
        if self.is_async and self.offload == "process":
            raise ImproperlyConfigured(
                f"Task {name!r}: offload='process' is for a plain def, and its body is an async def, which runs on the "
                "worker's event loop. Make it a plain def, or leave out offload."
            )
        self.addressed = any(self.__dict__.get(option) is not None for option in ADDRESSING)
        self.arguments = Arguments(name, function, skip_first=inspect.ismethod(self.run))
        self._delay_name = f"{name}.delay {NOT_SENT}"
        self._apply_name = f"{name}.apply_async {NOT_SENT}"

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
        """The result backend that its results are stored in: its own, else the app's."""
        return self.app.backend_for(self.name)

    @overload
    async def delay(self: _RunsAsync[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]: ...
    @overload
    async def delay(self: _RunsPlain[P, R], *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]: ...
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
    async def apply_async(
        self: _RunsAsync[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]: ...
    @overload
    async def apply_async(
        self: _RunsPlain[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]: ...
    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """Send the task with arguments and options.

        Args:
            args: Positional arguments.
            kwargs: Keyword arguments.
            **options: `task_id`; `countdown` (seconds) or `eta` (aware datetime) until it is due, kept by the broker;
                `expires` (seconds or aware datetime) after which it is not started; `queue`, `exchange` and
                `routing_key`, where it goes; `mandatory`, an error when it reaches no queue; `immediate`, an error when
                no worker consumes its queue at that moment, which is asked first; `priority` (0 to 9, 0 the most
                urgent, 5 when none is given); `headers` (a mapping, seen in `request.headers`, kept by retries);
                `ignore_result`; `serializer` and `compression` of the arguments, by name; `shadow`, the name that logs
                show instead of the task's; `argsrepr` and `kwargsrepr`, what is shown instead of the arguments.

        Raises:
            TypeError: An option is unknown or of the wrong type.
            ValueError: A datetime is naive, or a value is out of its range.
            ArgumentError, EncodeError, BrokerError: As `delay`.

        Cost: as `delay`.
        """
        sending: Any = self._send_one(args, kwargs, options)
        sending.__qualname__ = self._apply_name
        return sending  # type: ignore[no-any-return]

    @overload
    async def send_many(
        self: _RunsAsync[P, R], calls: Iterable[Sequence[Any]], **options: Unpack[BatchOptions]
    ) -> list[AsyncResult[R]]: ...
    @overload
    async def send_many(
        self: _RunsPlain[P, R], calls: Iterable[Sequence[Any]], **options: Unpack[BatchOptions]
    ) -> list[AsyncResult[R]]: ...
    def send_many(self, calls: Iterable[Sequence[Any]], **options: Any) -> Coroutine[Any, Any, list[AsyncResult[Any]]]:
        """Send one task per tuple of positional arguments, as one batch; results in the same order.

        The options are those of `apply_async`, but for `task_id`, and hold for each.

        Raises:
            PublishError: Some were not confirmed; it names them. The rest were sent.
            ArgumentError, EncodeError: One call doesn't fit; nothing is sent.

        Cost: one round trip per 1,000 or so.
        """
        sending: Any = self._send_many(calls, options)
        sending.__qualname__ = f"{self.name}.send_many {NOT_SENT}"
        return sending  # type: ignore[no-any-return]

    @overload
    async def apply(
        self: _RunsAsync[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]: ...
    @overload
    async def apply(
        self: _RunsPlain[P, R],
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]: ...
    async def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[Any]:
        """Run the task here and now, as a worker would: its context, its handlers, its retries (without their delay).

        Nothing is sent and nothing is stored; the options are those of `apply_async`.
        """
        call = outgoing_call(self, () if args is None else args, {} if kwargs is None else kwargs, options)
        result: EagerResult[Any] = await self.app.run_here(self, call)
        return result

    sync = _Sync()
    """The same calls for code without an event loop: `add.sync.delay(2, 3)` blocks until the broker has it."""

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
        if exc is not None and not isinstance(exc, BaseException):
            raise TypeError(f"{self.name}: exc is {exc!r:.80}; retry takes an exception, such as ValueError('why').")
        request = self.request
        if request.called_directly:
            _raise_reason(exc, Retry(f"{self.name} asks for a retry outside a worker."))
        limit = self.max_retries if max_retries is None else max_retries
        if exhausted(limit, request.retries):
            _raise_reason(
                exc,
                MaxRetriesExceeded(f"Can't retry {self.name}[{request.id}] more than {limit} times."),
                prefer_current=False,
            )
        eta_at = None if eta is None else aware_moment("eta", eta)
        delay = timing(countdown, eta, None).delay_s
        if delay is None and eta_at is None:
            delay = float(self.default_retry_delay)
        retry = Retry(
            f"Retry in {delay} s" if eta is None else f"Retry at {eta.isoformat()}",
            exc,
            delay,
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
        if not _is_state(state):
            raise ValueError(f"state is {state!r}; it takes an upper-case text such as 'PROGRESS'.")
        # Encoded now: the body may change it before it is written.
        conf = self.app.conf
        encoded = pack_result(meta, conf) if packs_results(conf) else msgspec.Raw(JSON.encode(meta))
        self.request.report(state, encoded)

    async def _send_one(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        call = outgoing_call(self, () if args is None else args, {} if kwargs is None else kwargs, options)
        if self.app.conf.task_always_eager:
            return await self.run_eagerly(call)
        await self.app.send((call,))
        note_children((call,))
        return AsyncResult(call.message.id, app=self.app, name=self.name)

    async def _send_many(self, calls: Iterable[Sequence[Any]], options: Mapping[str, Any]) -> list[AsyncResult[Any]]:
        outgoing = outgoing_calls(self, calls, options)
        if self.app.conf.task_always_eager:
            return [await self.run_eagerly(call) for call in outgoing]
        if outgoing:
            await self.app.send(outgoing)
            note_children(outgoing)
        return [AsyncResult(call.message.id, app=self.app, name=self.name) for call in outgoing]

    async def run_eagerly(self, call: Outgoing) -> EagerResult[Any]:
        """Run a call here and now, and raise its error where `task_eager_propagates` says so."""
        result: EagerResult[Any] = await self.app.run_here(self, call)
        if self.app.conf.task_eager_propagates:
            await result.get()
        return result

    def _other_arguments(
        self, request: Request, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[list[Any], dict[str, Any]]:
        chosen_args = request.args if args is None else args
        chosen_kwargs = request.kwargs if kwargs is None else kwargs
        check_call(self, chosen_args, chosen_kwargs)
        return list(chosen_args), dict(chosen_kwargs)

    def get_logger(self) -> logging.Logger:
        """Return the logger of this task; its records have the task's name and id. See `get_task_logger`."""
        return get_task_logger(self.name)

    # Handlers: each plain or async, run in the worker in the execution's context; an error in one is logged and changes
    # nothing else. A task that overrides none of them pays for none.

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:
        """Run before the body."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:
        """Run when the body has returned."""

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo) -> Any:
        """Run when the task has failed for good."""

    def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo) -> Any:
        """Run when the task is going to be retried."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: ExceptionInfo | None
    ) -> Any:
        """Run after success or failure; `retval` is the value or the exception, `einfo` None on success."""

    async def execute(self, request: Request, call_next: Next[Request]) -> Any:
        """Stand around the whole execution in the worker; return what `await call_next(request)` returns, or raise."""
        return await call_next(request)

    def __call__(self: _Runs[P, C_co], *args: P.args, **kwargs: P.kwargs) -> C_co:
        """Call the body, here and now; `request.called_directly` is true inside."""
        current = find_current()
        if current is None or current.task_object is not self:
            return self.run(*args, **kwargs)
        # Called from its own execution, whose request is not this call's.
        run: Any = self.run
        outside: Any = _awaited_outside if inspect.iscoroutinefunction(run) else _called_outside
        return outside(run, args, kwargs)  # type: ignore[no-any-return]


_MEMBERS = frozenset({*dir(Task), *Task.__annotations__, *Task._NOT_YET})


def _own_attributes(kind: type) -> dict[str, Any]:
    """Return what a task's class and its bases define beyond `Task`."""
    own = [base for base in reversed(kind.__mro__) if base not in Task.__mro__]
    return {name: value for base in own for name, value in vars(base).items()}


def _is_state(state: Any) -> bool:
    return isinstance(state, str) and state != "" and state == state.upper() and state.isprintable()


def _called_outside(run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    token = set_current(None)
    try:
        return run(*args, **kwargs)
    finally:
        reset_current(token)


async def _awaited_outside(run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    token = set_current(None)
    try:
        return await run(*args, **kwargs)
    finally:
        reset_current(token)


def _raise_reason(exc: BaseException | None, otherwise: Exception, *, prefer_current: bool = True) -> NoReturn:
    """Raise `exc`; when there is none, the exception being handled, or `otherwise` from it."""
    current = sys.exc_info()[1]
    if exc is not None:
        raise exc
    if current is not None and prefer_current:
        raise current
    raise otherwise from current


class FunctionTask(Task, Generic[P, C_co]):
    """A task made of a function."""

    abstract = True

    if TYPE_CHECKING:

        @property
        def run(self) -> Callable[P, C_co]:  # type: ignore[override]
            """The function; with `bind` its first parameter is given."""

    def wrap(self, function: Callable[..., C_co], *, bind: bool) -> None:
        """Take `function` for the body; with `bind` its first parameter is the task.

        Raises:
            ImproperlyConfigured: It is no function that can be a task.
        """
        if not callable(function):
            raise ImproperlyConfigured(f"{function!r} is no function, and can't be a task.")
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise ImproperlyConfigured(
                f"{function.__qualname__} is a generator, and can't be a task: nobody would iterate it."
            )
        if bind and not _takes_an_argument(function):
            raise ImproperlyConfigured(
                f"{function.__qualname__} takes no argument, and bind=True gives it the task as its first one."
            )
        self.__dict__["run"] = types.MethodType(function, self) if bind else function
        self.__module__ = getattr(function, "__module__", None) or "__main__"
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)
        self.__name__ = getattr(function, "__name__", type(function).__name__)


def _takes_an_argument(function: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return bool(kinds) and kinds[0] not in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)


_OUTSIDE = Request()


def current_task() -> Task | None:
    """Return the task whose execution this code runs in, or None."""
    return current_request().task_object  # type: ignore[no-any-return]
