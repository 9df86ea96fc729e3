"""The composition root: settings, registry, broker and backend; makes tasks, results and workers."""

import asyncio
import copy
import importlib
import os
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, TypeVar, overload

from aiotask.adapters import Adapters
from aiotask.async_result import AsyncResult, EagerResult
from aiotask.blocking import BackgroundLoop, refuse_on_a_loop, run_on
from aiotask.coalesce import Coalescer
from aiotask.control import Control
from aiotask.exceptions import AioTaskError, ImproperlyConfigured, NotRegistered
from aiotask.message import Envelope, TaskMessage
from aiotask.middleware import Next, check, fold, hooks
from aiotask.options import checked_text
from aiotask.protocols import Application, Broker, MessageCodec, Outgoing, ReplyReceiver, ResultBackend
from aiotask.publishing import Publisher, refuse_unconsumed
from aiotask.registry import Definition, Registry
from aiotask.routing import Router
from aiotask.schemes import check_url
from aiotask.sending import (
    NOT_SENT,
    NamedTask,
    Sendable,
    further_envelopes,
    message_envelope,
    note_children,
    outgoing_call,
)
from aiotask.settings import Settings, load_settings
from aiotask.tasks import FunctionTask
from aiotask.tasks import Task as BaseTask
from aiotask.wire.native import NativeCodec
from aiotask.worker import inside
from aiotask.worker.eager import EagerRunner
from aiotask.worker.runtime import Runtime
from aiotask.worker.worker import Worker

_outgoing: ContextVar[Outgoing] = ContextVar("aiotask.outgoing")

_background = BackgroundLoop()

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")
T = TypeVar("T", bound=BaseTask)

_NOT_YET = frozenset({"signature", "beat", "periodic_task", "add_periodic_task"})


class AioTask:
    """An application: its tasks, its settings, and its connections.

    `async with app:` opens the connections and closes them; it may be nested. Without it the first call opens them, and
    `await app.close()` closes. An app is bound to the event loop that it is open on.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        imports: Sequence[str] | None = None,
        middleware: Sequence[Any] = (),
        **settings: Any,
    ) -> None:
        """Read the settings; nothing is connected yet.

        Args:
            main: The name of tasks' module when they are defined in `__main__`.
            broker: URL; else what the settings' other sources say, else `sqlite:///aiotask.db`.
            backend: URL; else what the other sources say, else what the broker implies.
            imports: Modules that define tasks, imported by a worker before it starts.
            middleware: Objects with any of `lifespan`, `publish`, `execute` (`aiotask.middleware`); outermost first.
            **settings: Any setting by its name.

        Raises:
            ImproperlyConfigured: A setting is unknown, of the wrong type, or not available in this version.
        """
        named = {"broker_url": broker, "result_backend": backend, "imports": imports}
        self.main = main
        self.conf: Settings = load_settings(
            arguments={**settings, **{name: value for name, value in named.items() if value is not None}}
        )
        for setting in ("broker_url", "result_backend"):
            url = getattr(self.conf, setting)
            if url is not None:
                check_url(setting, url)
        self.codec: MessageCodec = NativeCodec()
        self.origin = f"gen{os.getpid()}@{socket.gethostname()}"
        self.middleware = check(middleware)
        publish_hooks = hooks(self.middleware, "publish")
        self._publish_chain = fold(publish_hooks, self._publish_message) if publish_hooks else None
        self._lifespans = AsyncExitStack()
        self._registry = Registry()
        self.conf.watch(self._lay_annotations)
        self._base: type[BaseTask] | None = None
        self._adapters = Adapters(self.conf)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Lock | None = None
        self._coalescer: Coalescer[Envelope] | None = None
        self._replies: ReplyReceiver | None = None
        self._users = 0
        self._eager: tuple[asyncio.AbstractEventLoop, EagerRunner] | None = None
        self._twin: tuple[asyncio.AbstractEventLoop, AioTask] | None = None

    def __repr__(self) -> str:
        return f"<AioTask: {self.main or '__main__'}>"

    if not TYPE_CHECKING:  # a visible __getattr__ would allow every name in the eyes of a type checker

        def __getattr__(self, name: str) -> Any:
            if name in _NOT_YET:
                raise AttributeError(f"AioTask.{name} is not available in this version of aiotask yet.")
            raise AttributeError(f"AioTask has no attribute {name!r}.")

    # What it has

    @property
    def tasks(self) -> Registry:
        """The registry: name -> task."""
        return self._registry

    @property
    def broker_url(self) -> str:
        """The broker's URL, as it was given."""
        return self._adapters.broker_url

    @property
    def backend_url(self) -> str:
        """The result backend's URL: as it was given, or what the broker implies."""
        return self._adapters.backend_url

    @property
    def broker(self) -> Broker:
        """The live broker."""
        return self._adapters.pair[0]

    @property
    def backend(self) -> ResultBackend:
        """The live result backend."""
        return self._adapters.pair[1]

    @property
    def control(self) -> Control:
        """What can be asked of the workers."""
        return Control(self)

    def backend_for(self, task_name: str | None) -> ResultBackend:
        """Return the live result backend of a task: its own (option `backend`), else the app's.

        It is the app's as well when there is no name, or no task of that name here.
        """
        task = None if task_name is None else self._registry.get(task_name)
        own = None if task is None else task.own_backend
        return self.backend if own is None else self._adapters.own(own)

    # Tasks, results, workers

    @overload
    def task(self, function: Callable[P, C], /) -> FunctionTask[P, C]: ...
    @overload
    def task(
        self, /, *, bind: Literal[True], name: str | None = ..., **options: Any
    ) -> Callable[[Callable[Concatenate[Any, P], C]], FunctionTask[P, C]]: ...
    @overload
    def task(
        self, /, *, bind: Literal[False] = ..., name: str | None = ..., **options: Any
    ) -> Callable[[Callable[P, C]], FunctionTask[P, C]]: ...
    def task(
        self,
        function: Any = None,
        /,
        *,
        bind: bool = False,
        name: str | None = None,
        base: type[BaseTask] | None = None,
        **options: Any,
    ) -> Any:
        """Make a task of a function: `@app.task`, or `@app.task(bind=True, max_retries=5, ...)`.

        Args:
            function: `async def` runs on the event loop; a plain `def` in a thread, or where `offload` says.
            bind: True gives the task itself as the first parameter.
            name: Under which messages ask for it; `module.function` when not given.
            base: A subclass of `Task` whose attributes and handlers it gets.
            **options: The task's options. Any other keyword becomes an attribute of the task.

        Raises:
            ImproperlyConfigured: An option is misspelt, not available, or its value doesn't fit.
            AlreadyRegistered: Another task has the name.
        """

        def make(function: Any) -> Any:
            if isinstance(function, BaseTask):
                raise ImproperlyConfigured(f"{function!r} is a task already; a function is decorated once.")
            if isinstance(function, type):
                return self._register(self._made_of_class(function), name, options)
            _check_making(bind, base)
            kind = type("FunctionTask", (FunctionTask, *([base] if base else [])), {"abstract": True})
            task: FunctionTask[Any, Any] = kind()
            task.wrap(function, bind=bind)
            return self._register(task, name, options)

        return make if function is None else make(function)

    def send_task(
        self, name: str, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """Send a task by its name; its code need not be here. Options and errors are those of `Task.apply_async`.

        The arguments are checked when the task is registered here, else only where they arrive.

        Raises:
            NotRegistered: Every call is run here (`task_always_eager`), and this one can't be.
        """
        sending: Any = self._send_named(name, args, kwargs, options)
        sending.__qualname__ = f"{name!s:.255}.send_task {NOT_SENT}"
        return sending  # type: ignore[no-any-return]

    async def _send_named(
        self, name: str, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        known = self._registry.get(checked_text("name", name))
        task: Sendable = known or NamedTask(self, name)
        call = outgoing_call(task, () if args is None else args, {} if kwargs is None else kwargs, options)
        if self.conf.task_always_eager:
            return await self._known_task(name).run_eagerly(call)
        await self.send((call,))
        note_children((call,))
        return AsyncResult(call.message.id, app=self, name=name)

    @property
    def Task(self) -> type[BaseTask]:  # noqa: N802 - a class, under the field's name
        """Base class of tasks of this app: a subclass is registered when it is made."""
        if self._base is None:
            self._base = type("Task", (BaseTask,), {"app": self, "abstract": True, "__module__": BaseTask.__module__})
        return self._base

    def register(self, task: "type[T] | T") -> "T":
        """Register a subclass of `Task`, or an instance of one, and return the instance.

        Raises:
            ImproperlyConfigured: It is no task, has no `run`, or an option doesn't fit.
            AlreadyRegistered: Another task has the name.
        """
        made: Any = self._made_of_class(task) if isinstance(task, type) else task
        if not isinstance(made, BaseTask):
            raise ImproperlyConfigured(
                f"{made!r} is no Task; register takes a subclass of aiotask.Task or an instance."
            )
        owner = vars(made).get("app")
        if owner is not None and owner is not self:
            raise ImproperlyConfigured(
                f"{made!r} belongs to {owner!r} already, and a task has one app; register an instance of its own."
            )
        if owner is None or self._registry.get(made.name) is not made:
            self._register(made, None, {})
        return made  # type: ignore[return-value]

    def result(self, task_id: str) -> AsyncResult[Any]:
        """Return the result of the task `task_id`, wherever it was sent from.

        It is looked for in the app's result backend: an id does not tell that its task has one of its own.
        """
        return AsyncResult(checked_text("task_id", task_id), app=self)

    def worker(
        self,
        *,
        concurrency: int | None = None,
        queues: Sequence[str] | None = None,
        name: str | None = None,
        threads: int | None = None,
        shutdown_timeout: float | None = None,
        max_tasks: int | None = None,
        burst: bool = False,
    ) -> Worker:
        """Return a worker to be run by `async with`: it runs inside the loop that enters it, and stops with the scope.

        It opens the app itself, installs no signal handlers, redirects no output and sets up no logging. A failure of
        the worker surfaces in that scope.

        Args:
            concurrency: Most executions at once; `worker_concurrency`.
            queues: Names of the queues to take from; those of `task_queues`, else `task_default_queue`.
            name: The part of the node name before `@host`, or the whole; `worker_name`.
            threads: Most plain functions at once in threads; `worker_threads`.
            shutdown_timeout: Seconds that running tasks get to finish; `worker_shutdown_timeout`.
            max_tasks: Stop after so many executions; `worker_max_tasks`.
            burst: True stops as soon as nothing is due and nothing runs; not while the broker is away.

        Raises:
            ImproperlyConfigured: A value doesn't fit.
        """
        given = {
            "worker_concurrency": concurrency,
            "worker_name": name,
            "worker_threads": threads,
            "worker_shutdown_timeout": shutdown_timeout,
            "worker_max_tasks": max_tasks,
        }
        checked = Settings(**{setting: value for setting, value in given.items() if value is not None})
        conf: dict[str, Any] = {
            setting: getattr(self.conf if value is None else checked, setting) for setting, value in given.items()
        }
        return Worker(
            Runtime(
                app=self,
                lifespan=self,
                concurrency=conf["worker_concurrency"],
                queues=_checked_queues(queues, self.conf.router) or self.conf.router.consumed,
                name=conf["worker_name"] or "aiotask",
                threads=conf["worker_threads"] or conf["worker_concurrency"],
                shutdown_timeout=conf["worker_shutdown_timeout"],
                max_tasks=conf["worker_max_tasks"],
                burst=burst,
            )
        )

    def import_tasks(self) -> None:
        """Import the modules in `imports`, which define tasks.

        Raises:
            ImportError: One can't be imported.
        """
        for module in self.conf.imports:
            importlib.import_module(module)

    # Connections

    async def __aenter__(self) -> Self:
        await self.connect()
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users = max(0, self._users - 1)  # it is 0 already when the app was closed inside
        if self._users == 0:
            await self.close()

    async def connect(self) -> None:
        """Open the connections on the running loop, when they are not open yet.

        Raises:
            BrokerConnectionError, BackendConnectionError: Nothing is there, or it refuses us.
            AioTaskError: The app is open on another loop, or can't be used in this process (`offload="process"`).
        """
        running = self._running_loop()
        refusal = inside.refusal(self.conf)
        if refusal is not None:
            raise AioTaskError(refusal)
        stale = False
        if self._loop is not running:
            stale = self._loop is not None
            self._loop, self._opening, self._coalescer = running, asyncio.Lock(), None
            if stale:
                self._users = 0
        if self._coalescer is None or self._adapters.incomplete:
            assert self._opening is not None  # noqa: S101 - set together with the loop
            async with self._opening:
                if stale:
                    await self._close_adapters()  # what the loop that is gone has left open
                if self._coalescer is None:
                    await self._open_adapters()
                else:
                    await self._adapters.open_wanted()

    async def close(self) -> None:
        """Send what waits to be sent, and close the connections, those of `.sync` calls too. Idempotent.

        The app can be opened again.

        Raises:
            AioTaskError: The app is open on another loop.
        """
        if self._loop is self._running_loop() and self._coalescer is not None:
            await self._coalescer.drain()
        self._coalescer = self._loop = None
        self._users = 0
        eager, self._eager = self._eager, None
        if eager is not None:
            await eager[1].close()
        await self._close_adapters()
        twin, self._twin = self._twin, None
        if twin is not None and twin[0] is _background.get():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(twin[1].close(), twin[0]))

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """Return the running loop; refuse it while the app is open on another one."""
        running = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not running and not self._loop.is_closed():
            raise AioTaskError(
                "This app is open on another event loop, and its connections belong to that one. "
                "Close it there (await app.close()), or make an app for this loop."
            )
        return running

    async def run_here(self, task: BaseTask, call: Outgoing) -> EagerResult[Any]:
        """Run a call in this process, on the running loop; return its result."""
        loop = asyncio.get_running_loop()
        current = self._eager
        if current is None or current[0] is not loop:
            former = current
            threads = self.conf.worker_threads or self.conf.worker_concurrency
            current = self._eager = loop, EagerRunner(self, threads, hooks(self.middleware, "execute"))
            if former is not None:
                await former[1].close()
        return await current[1].run(task, call)

    def run_sync(self, what: str, make: Callable[[Application], Coroutine[Any, Any, R]]) -> R:
        """Run a coroutine for code without a loop, and block until it is done.

        It runs on the loop that the app is open on, when that runs in another thread; otherwise on one background loop,
        with connections of its own.

        Args:
            what: The caller, for errors.
            make: Makes the coroutine, from the app that it is to use.

        Raises:
            AioTaskError: The calling thread runs an event loop.
        """
        refuse_on_a_loop(what)
        loop = self._loop
        if loop is not None and loop.is_running():
            return run_on(loop, lambda: make(self))
        background = _background.get()
        if self._twin is None or self._twin[0] is not background:  # none yet, or one of the process that has forked us
            self._twin = background, self._make_twin()
        twin = self._twin[1]
        return run_on(background, lambda: make(twin))

    def _make_twin(self) -> "AioTask":
        """Return this app with connections of its own; what lives in memory is shared."""
        twin = copy.copy(self)
        twin._adapters = Adapters(self.conf, origin=self._adapters)
        twin._loop = twin._coalescer = twin._opening = twin._eager = twin._twin = None
        twin._users = 0
        twin._lifespans = AsyncExitStack()
        return twin

    async def send(self, calls: Sequence[Outgoing]) -> None:
        """Publish; return when every one is durable. Connects at the first use.

        Raises:
            EncodeError: A header can't be serialised, or a message is too large; nothing is sent.
            BrokerError: The broker did not confirm; a `PublishError` names what was not sent.
        """
        if self._publish_chain is None:
            await self._send(calls)
        else:
            await asyncio.gather(*(self._send_through(self._publish_chain, call) for call in calls))

    async def _send(self, calls: Sequence[Outgoing]) -> None:
        if self._coalescer is None or self._loop is not asyncio.get_running_loop():
            await self.connect()
        if self._replies is not None:
            for call in calls:
                call.message.reply_to = self._replies.reply_to
            self._replies.expect([call.message.id for call in calls])
        envelopes = [message_envelope(self, call.message, call.queue, call.when) for call in calls]
        assert self._coalescer is not None  # noqa: S101 - connect has made it
        further = [call for call in calls if call.beyond is not None]
        if further:
            await refuse_unconsumed(self.broker, further)
            envelopes += further_envelopes(calls, envelopes)
        await self._coalescer.add(envelopes)

    async def _send_through(self, chain: Next[TaskMessage], call: Outgoing) -> None:
        """Send one message through the middleware, which sees the message; where it goes waits in a variable."""
        _outgoing.set(call)
        await chain(call.message)

    async def _publish_message(self, message: TaskMessage) -> None:
        await self._send((_outgoing.get()._replace(message=message),))

    async def _open_adapters(self) -> None:
        try:
            await self._adapters.open()
            for lifespan in hooks(self.middleware, "lifespan"):
                await self._lifespans.enter_async_context(lifespan(self))
        except BaseException:
            self._loop = None
            await self._close_adapters()
            raise
        self._coalescer = Coalescer(Publisher(self.broker, self.conf).publish)
        backend = self.backend
        self._replies = backend if isinstance(backend, ReplyReceiver) else None

    async def _close_adapters(self) -> None:
        try:
            await self._lifespans.aclose()
        finally:
            await self._adapters.close()

    def _made_of_class(self, kind: type) -> BaseTask:
        if not issubclass(kind, BaseTask):
            raise ImproperlyConfigured(f"{kind.__qualname__} is no subclass of Task; derive it from app.Task.")
        known = self._registry.get(vars(kind).get("name") or self._name_of(kind))
        return known if type(known) is kind and known is not None else kind()

    def _register(self, task: BaseTask, name: str | None, options: Mapping[str, Any]) -> BaseTask:
        function = getattr(task, "__wrapped__", None)
        kind = type(task)
        if function is None:
            function = getattr(kind, "run", None)
            if function is None:
                raise ImproperlyConfigured(f"{kind.__qualname__} has no run(); define it, or say abstract = True.")
            name = (vars(kind).get("name") or self._name_of(kind)) if name is None else name
            kind.name = name
        name = (vars(kind).get("name") or self._name_of(function)) if name is None else name
        definition = Definition(task, options, function)
        definition.attach(self, name, self.conf.task_annotations)
        own = task.own_backend
        if isinstance(own, str):
            try:
                check_url("option 'backend'", own)
            except ImproperlyConfigured as error:
                raise ImproperlyConfigured(f"Task {name!r}: {error}") from None
        self._registry.add(task, definition)
        if own is not None:
            self._adapters.want(own)
        return task

    def _known_task(self, name: str) -> BaseTask:
        try:
            return self._registry[name]
        except NotRegistered as error:
            raise NotRegistered(f"{error} With task_always_eager every call runs here, and this one can't.") from None

    def _lay_annotations(self, conf: Settings) -> None:
        """Lay the annotations that are about to be set over the tasks that there are."""
        self._registry.annotate(self, self.conf.task_annotations, conf.task_annotations)

    def _name_of(self, function: Callable[..., Any]) -> str:
        module = function.__module__
        if module in ("__main__", "__mp_main__"):  # the second in a process that imports the script once more
            module = self.main or "__main__"
        qualname = getattr(function, "__qualname__", None)
        if qualname is None:
            raise ImproperlyConfigured(f"{function!r:.80} has no name of its own; give it one by name=.")
        return f"{module}.{qualname.rpartition('<locals>.')[2]}"


def _check_making(bind: Any, base: Any) -> None:
    if not isinstance(bind, bool):
        raise ImproperlyConfigured(f"bind is {bind!r:.80}; it takes True or False.")
    if base is not None and not (isinstance(base, type) and issubclass(base, BaseTask)):
        raise ImproperlyConfigured(f"base is {base!r:.80}; it takes a subclass of aiotask.Task.")


def _checked_queues(queues: Any, router: Router) -> tuple[str, ...]:
    names = () if queues is None else queues
    # A text is a sequence of texts, too: "mail" would be the queues m, a, i and l.
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ImproperlyConfigured(f"queues is {queues!r:.80}; it takes a list of names, such as ['mail'].")
    for name in names:
        refusal = router.why_undeclared(name)
        if refusal is not None:
            raise ImproperlyConfigured(f"A worker can't take from {name!r}. {refusal}")
    return tuple(names)
