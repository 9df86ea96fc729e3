"""A task's calls for code without an event loop: `add.sync.delay(2, 3)` blocks until the broker has it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, Unpack

from aiotask.async_result import AsyncResult, EagerResult
from aiotask.options import BatchOptions, CallOptions
from aiotask.protocols import Application, Outgoing
from aiotask.sending import Sendable, note_children, outgoing_call, outgoing_calls

P = ParamSpec("P")
R = TypeVar("R")


class RunsEagerly(Sendable, Protocol):
    """A task that can be run where it is called, too."""

    async def run_eagerly(self, call: Outgoing) -> EagerResult[Any]:
        """Run a call here and now, as `task_always_eager` wants it."""


class SyncCaller(Generic[P, R]):
    """A task's calls, blocking."""

    def __init__(self, task: RunsEagerly) -> None:
        """Call `task`."""
        self._task = task

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Send the task; see `Task.delay`.

        Raises:
            AioTaskError: The calling thread runs an event loop.
        """
        return self._send("delay", [outgoing_call(self._task, args, kwargs, {})])[0]

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Send the task with options; see `Task.apply_async`."""
        call = outgoing_call(self._task, () if args is None else args, {} if kwargs is None else kwargs, options)
        return self._send("apply_async", [call])[0]

    def send_many(self, calls: Iterable[Sequence[Any]], **options: Unpack[BatchOptions]) -> list[AsyncResult[R]]:
        """Send one task per tuple of arguments; see `Task.send_many`."""
        return self._send("send_many", outgoing_calls(self._task, calls, options))

    def _send(self, how: str, calls: Sequence[Outgoing]) -> list[AsyncResult[R]]:
        # The messages are made in the calling thread, whose execution, if it is one, is their parent.
        task = self._task

        async def send(app: Application) -> list[AsyncResult[R]]:
            if task.app.conf.task_always_eager:
                return [await task.run_eagerly(call) for call in calls]
            if calls:
                await app.send(calls)
            return [AsyncResult(call.message.id, app=task.app, name=task.name) for call in calls]

        results: list[AsyncResult[R]] = task.app.run_sync(f"{task.name}.sync.{how}", send)
        if not task.app.conf.task_always_eager:
            note_children(calls)
        return results
