"""What a caller holds of a task that it has sent: its state and its result, awaited by push."""

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any, Generic, TypeVar

import msgspec

from aiotask.exceptions import TaskRevokedError
from aiotask.outcome import TaskMeta
from aiotask.protocols import Application
from aiotask.states import ABORTED, EXCEPTION_STATES, FAILURE, PENDING, PROPAGATE_STATES, SUCCESS
from aiotask.wire.errors import from_record

R = TypeVar("R")

_NOT_YET = frozenset({"children", "revoke", "abort", "sync", "graph"})


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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __await__(self) -> Generator[Any, None, R]:
        return self.get().__await__()

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

        Cost: one read; then pushed where the backend can push, never polled.
        """
        meta = self._final or await self._wait(timeout)
        if meta.state in PROPAGATE_STATES:
            exc = _exception_of(meta)
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

    async def forget(self) -> None:
        """Remove what is stored. The id is PENDING afterwards. Cost: one round trip."""
        await self._app.connect()
        await self._app.backend.forget([self.id])
        self._final = None

    async def updates(self) -> AsyncIterator[TaskMeta]:
        """Yield each change of state as it happens; ends with the final one, at once when it is there already."""
        if self._final is not None:
            yield self._shown(self._final)
            return
        await self._app.connect()
        async with self._app.backend.watch([self.id]) as metas:
            async for meta in metas:
                if meta.ready:
                    self._final = meta
                yield self._shown(meta)
                if meta.ready:
                    return

    async def _fetch(self) -> TaskMeta:
        if self._final is not None:
            return self._final
        await self._app.connect()
        meta = (await self._app.backend.fetch([self.id]))[0] or TaskMeta(id=self.id, state=PENDING)
        if meta.ready:
            self._final = meta
        return meta

    async def _wait(self, timeout: float | None) -> TaskMeta:
        await self._app.connect()
        try:
            async with asyncio.timeout(timeout):
                async with self._app.backend.watch([self.id]) as metas:
                    async for meta in metas:
                        if meta.ready:
                            self._final = meta
                            return meta
        except TimeoutError:
            raise TimeoutError(f"No result of task {self.id} within {timeout} s.") from None
        raise RuntimeError(f"The watch of {self.id} ended without a final state.")  # a backend broke its contract

    def _shown(self, meta: TaskMeta) -> TaskMeta:
        failed = meta.state in EXCEPTION_STATES
        return msgspec.structs.replace(meta, result=_exception_of(meta) if failed else self._value_of(meta))

    def _value_of(self, meta: TaskMeta) -> Any:
        if meta.state not in (SUCCESS, ABORTED):
            return meta.result
        task = self._app.tasks.get(meta.name or self.name or "")
        return meta.result if task is None else task.arguments.result(meta.result)


def _exception_of(meta: TaskMeta) -> Exception:
    if meta.result is None:
        return TaskRevokedError(f"Task {meta.id} was revoked.")
    return from_record(meta.result, meta.traceback)
