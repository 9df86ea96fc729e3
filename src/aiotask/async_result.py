"""What a caller holds of a task that it has sent: its state and its result, awaited by push."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from aiotask.control import Control
from aiotask.exceptions import TaskRevokedError
from aiotask.outcome import Packed, TaskMeta
from aiotask.protocols import Application, ResultBackend
from aiotask.request import find_current, waiting
from aiotask.states import ABORTED, EXCEPTION_STATES, FAILURE, PENDING, PROPAGATE_STATES, REVOKED, SUCCESS
from aiotask.wire.errors import from_record, to_record
from aiotask.wire.payload import read_result

R = TypeVar("R")
T = TypeVar("T")

_NOT_YET = frozenset({"abort", "graph"})


class AsyncResult(Generic[R]):
    """The result of one task, known by its id. Awaiting it is `get()`.

    A final state is remembered, so that asking again costs nothing. An id that nobody has sent is PENDING.
    """

    __slots__ = ("_app", "_final", "id", "name")

    parent: "AsyncResult[Any] | None" = None

    def __init__(self, id: str, *, app: Application, name: str | None = None) -> None:  # noqa: A002 - the contract's name
        """Refer to the task `id`; nothing is looked up.

        Args:
            id: The task id.
            app: Where its result is.
            name: The task's name, when known.
        """
        self.id = id
        self.name = name
        self._app = app
        self._final: TaskMeta | None = None

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    @property
    def app(self) -> Application:
        """Where its result is."""
        return self._app

    @property
    def sync(self) -> "SyncResult[R]":
        """The same for code without an event loop: `result.sync.get()` blocks."""
        return SyncResult(self)

    def on(self, app: Application) -> "AsyncResult[R]":
        """Return the result as `app`, which has the same results, sees it; itself when that is its own."""
        return self if app is self._app or self._final is not None else AsyncResult(self.id, app=app, name=self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __await__(self) -> Generator[Any, None, R]:
        return self.get().__await__()

    if not TYPE_CHECKING:  # a visible __getattr__ would allow every name in the eyes of a type checker

        def __getattr__(self, name: str) -> Any:
            if name in _NOT_YET:
                raise AttributeError(f"AsyncResult.{name} is not available in this version of aiotask yet.")
            raise AttributeError(f"AsyncResult has no attribute {name!r}.")

    async def get(self, timeout: float | None = None, propagate: bool = True) -> R:
        """Wait for the final state and return the task's value.

        Args:
            timeout: Seconds to wait; None waits for ever.
            propagate: False returns the exception of a failed task instead of raising it.

        Raises:
            TimeoutError: There was no final state in time.
            Exception: The task's own, or `TaskRevokedError`; its remote traceback is a note on it.
            ContentDisallowed: The result is of a format that `result_accept_content` does not name; it isn't decoded.
            DecodeError: It can't be read.

        Cost: one read; then pushed where the backend can push, never polled.
        """
        meta = self._final or await self._wait(timeout)
        if meta.state in PROPAGATE_STATES:
            exc = self._exception_of(meta)
            if propagate:
                raise exc
            return exc  # type: ignore[return-value]
        return self._value_of(meta)  # type: ignore[no-any-return]

    async def meta(self) -> TaskMeta:
        """Return all that is stored; `result` is the value, the exception, or a state's meta.

        Cost: one round trip until the state is final, then none.
        """
        return self._shown(await self._fetch())

    async def state(self) -> str:
        """Return the state; PENDING when nothing is known. Cost: as `meta`."""
        return (await self._fetch()).state

    async def info(self) -> Any:
        """Return the value, the exception, or a state's meta. Cost: as `meta`."""
        return (await self.meta()).result

    async def ready(self) -> bool:
        """Tell whether the state is final. Cost: as `meta`."""
        return (await self._fetch()).ready

    async def successful(self) -> bool:
        """Tell whether the task succeeded. Cost: as `meta`."""
        return (await self._fetch()).state == SUCCESS

    async def failed(self) -> bool:
        """Tell whether the task failed. Cost: as `meta`."""
        return (await self._fetch()).state == FAILURE

    async def traceback(self) -> str | None:
        """Return the remote traceback of a failed or retried task as text. Cost: as `meta`."""
        return (await self._fetch()).traceback

    async def children(self) -> "list[AsyncResult[Any]]":
        """Return the results of the tasks that it has sent, in the order of sending (`trail`). Cost: as `meta`."""
        return [AsyncResult(child, app=self._app) for child in (await self._fetch()).children]

    async def forget(self) -> None:
        """Remove what is stored. The id is PENDING afterwards. Cost: one round trip."""
        await self._app.connect()
        await self._backend.forget([self.id])
        self._final = None

    async def revoke(self, terminate: bool = False) -> dict[str, Any]:
        """Let the task not start any more, on any worker; with `terminate` also end it when it runs.

        Returns what the workers have answered, by node name; see `app.control.revoke`.

        Raises:
            BrokerError: It may not be kept; call again.
        """
        return await Control(self._app).revoke(self.id, terminate)

    async def updates(self) -> AsyncIterator[TaskMeta]:
        """Yield each change of state as it happens; ends with the final one, at once when it is there already."""
        if self._final is not None:
            yield self._shown(self._final)
            return
        await self._app.connect()
        async with self._backend.watch([self.id]) as metas:
            async for meta in metas:
                if meta.ready:
                    self._final = meta
                yield self._shown(meta)
                if meta.ready:
                    return

    @property
    def _backend(self) -> ResultBackend:
        return self._app.backend_for(self.name)

    async def _fetch(self) -> TaskMeta:
        if self._final is not None:
            return self._final
        await self._app.connect()
        meta = (await self._backend.fetch([self.id]))[0] or TaskMeta(id=self.id, state=PENDING)
        if meta.ready:
            self._final = meta
        return meta

    async def _wait(self, timeout: float | None) -> TaskMeta:
        if timeout is not None and not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout is {timeout!r:.80}; it takes seconds as a number, or None to wait for ever.")
        if timeout is not None and timeout <= 0:
            if (meta := await self._fetch()).ready:
                return meta
            raise TimeoutError(f"There is no result of task {self.id} yet.")
        await self._app.connect()
        try:
            with waiting(find_current()):
                if timeout is None:
                    return await self._watch_to_the_end()
                async with asyncio.timeout(timeout):
                    return await self._watch_to_the_end()
        except TimeoutError:
            raise TimeoutError(f"No result of task {self.id} within {timeout} s.") from None

    async def _watch_to_the_end(self) -> TaskMeta:
        async with self._backend.watch([self.id]) as metas:
            async for meta in metas:
                if meta.ready:
                    self._final = meta
                    return meta
        raise RuntimeError(f"The watch of {self.id} ended without a final state.")  # a backend broke its contract

    def _shown(self, meta: TaskMeta) -> TaskMeta:
        failed = meta.state in EXCEPTION_STATES and (
            meta.ready or meta.result is not None
        )  # a retry may give no reason
        return msgspec.structs.replace(meta, result=self._exception_of(meta) if failed else self._value_of(meta))

    def _value_of(self, meta: TaskMeta) -> Any:
        returned = meta.state in (SUCCESS, ABORTED)
        value = meta.result
        if returned or type(value) is Packed:
            value = read_result(value, self._app.conf)
        if not returned:
            return value
        task = self._app.tasks.get(meta.name or self.name or "")
        return value if task is None else task.arguments.result(value)

    def _exception_of(self, meta: TaskMeta) -> Exception:
        if meta.result is None and meta.state == REVOKED:
            return TaskRevokedError(f"Task {meta.id} was revoked.")
        return from_record(meta.result, meta.traceback)


class EagerResult(AsyncResult[R]):
    """The result of a task that was run where it was called: it is there already, and nothing is stored."""

    __slots__ = ()

    def __init__(self, meta: TaskMeta, *, app: Application) -> None:
        """Take what became of the execution; `meta.result` is the value or the exception itself."""
        super().__init__(meta.id, app=app, name=meta.name)
        self._final = meta

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    async def forget(self) -> None:
        """Nothing is stored, so there is nothing to remove."""

    async def revoke(self, terminate: bool = False) -> dict[str, Any]:
        """It has run already, so there is nothing to revoke; no worker answers."""
        return {}

    def _value_of(self, meta: TaskMeta) -> Any:
        return meta.result

    def _exception_of(self, meta: TaskMeta) -> Exception:
        exc = meta.result
        # SystemExit and its like would end the caller; they come as they would from a worker.
        return exc if isinstance(exc, Exception) else from_record(to_record(exc), meta.traceback)


class SyncResult(Generic[R]):
    """An `AsyncResult` for code without an event loop: the same methods, blocking."""

    __slots__ = ("_result",)

    def __init__(self, result: AsyncResult[R]) -> None:
        """Look at the same task as `result`."""
        self._result = result

    def get(self, timeout: float | None = None, propagate: bool = True) -> R:
        """Wait for the final state and return the value; see `AsyncResult.get`."""
        return self._run(lambda result: result.get(timeout, propagate))

    def meta(self) -> TaskMeta:
        """See `AsyncResult.meta`."""
        return self._run(lambda result: result.meta())

    def state(self) -> str:
        """See `AsyncResult.state`."""
        return self._run(lambda result: result.state())

    def info(self) -> Any:
        """See `AsyncResult.info`."""
        return self._run(lambda result: result.info())

    def ready(self) -> bool:
        """See `AsyncResult.ready`."""
        return self._run(lambda result: result.ready())

    def successful(self) -> bool:
        """See `AsyncResult.successful`."""
        return self._run(lambda result: result.successful())

    def failed(self) -> bool:
        """See `AsyncResult.failed`."""
        return self._run(lambda result: result.failed())

    def traceback(self) -> str | None:
        """See `AsyncResult.traceback`."""
        return self._run(lambda result: result.traceback())

    def children(self) -> list[AsyncResult[Any]]:
        """See `AsyncResult.children`."""
        return self._run(lambda result: result.children())

    def forget(self) -> None:
        """See `AsyncResult.forget`."""
        self._run(lambda result: result.forget())

    def revoke(self, terminate: bool = False) -> dict[str, Any]:
        """See `AsyncResult.revoke`."""
        return self._run(lambda result: result.revoke(terminate))

    def _run(self, ask: Callable[[AsyncResult[R]], Coroutine[Any, Any, T]]) -> T:
        result = self._result
        return result.app.run_sync(f"result {result.id}.sync", lambda app: ask(result.on(app)))
