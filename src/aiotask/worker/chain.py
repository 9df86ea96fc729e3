"""What an execution goes through besides its body: middleware, `execute`, handlers. Built once per task.

A task that uses none of it has none of it: no handler, no call.
"""

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiotask.middleware import Next, fold
from aiotask.outcome import ExceptionInfo, Failed, Outcome, Retried, Succeeded
from aiotask.request import Request
from aiotask.states import FAILURE, SUCCESS
from aiotask.tasks import Task
from aiotask.wire.errors import format_traceback

logger = logging.getLogger("aiotask.worker")

InThread = Callable[[Callable[..., Any], Any, Any], Awaitable[Any]]
_HANDLERS = ("before_start", "on_success", "on_failure", "on_retry", "after_return")


class Chain:
    """How one task is run.

    Attributes:
        call: Goes through middleware and `execute` to the body; None when there is nothing to go through.
        watched: True when it has handlers.
    """

    __slots__ = ("_handlers", "_in_thread", "_task", "call", "watched")

    def __init__(self, task: Task, execute_hooks: Sequence[Any], body: Next[Request], in_thread: InThread) -> None:
        """Look once at what the task and the app's middleware define.

        Args:
            task: The task.
            execute_hooks: The middleware's, the outermost first.
            body: Runs the task's function with the request's arguments.
            in_thread: Runs a plain handler.
        """
        self._task = task
        self._in_thread = in_thread
        own = [task.execute] if type(task).execute is not Task.execute else []
        around = [*execute_hooks, *own]
        self.call: Next[Request] | None = fold(around, body) if around else None
        self._handlers = {
            name: getattr(task, name) for name in _HANDLERS if getattr(type(task), name) is not getattr(Task, name)
        }
        self.watched = bool(self._handlers)

    async def before(self, request: Request) -> None:
        """Run `before_start`."""
        await self._handle("before_start", request.id, request.args, request.kwargs)

    async def after(self, request: Request, outcome: Outcome) -> None:
        """Run what the outcome asks for."""
        call = (request.id, request.args, request.kwargs)
        if request.args is None:  # they could not be converted: as they came
            call = (request.id, request._execution.args, request._execution.kwargs)
        if isinstance(outcome, Succeeded):
            await self._handle("on_success", outcome.value, *call)
            await self._handle("after_return", SUCCESS, outcome.value, *call, None)
        elif isinstance(outcome, Failed):
            # Without a traceback of the body's: its arguments did not fit, and ours would say nothing.
            text = "".join(traceback.format_exception_only(outcome.exc))
            einfo = ExceptionInfo(outcome.exc, outcome.traceback or text)
            await self._handle("on_failure", outcome.exc, *call, einfo)
            await self._handle("after_return", FAILURE, outcome.exc, *call, einfo)
        elif isinstance(outcome, Retried):
            exc = outcome.retry.exc or outcome.retry
            await self._handle("on_retry", exc, *call, ExceptionInfo(exc, outcome.traceback or format_traceback(exc)))

    async def _handle(self, name: str, *args: Any) -> None:
        handler = self._handlers.get(name)
        if handler is None:
            return
        try:
            if inspect.iscoroutinefunction(handler):
                await handler(*args)
            else:
                await self._in_thread(handler, args, {})
        except asyncio.CancelledError:
            raise
        except BaseException:  # SystemExit, too, changes nothing
            logger.exception("The handler %s of task %s failed", name, self._task.name)
