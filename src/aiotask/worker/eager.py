"""Runs a call here and now, in the caller's loop, through the same runner as a worker's."""

import asyncio
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from aiotask.async_result import EagerResult
from aiotask.exceptions import SerializationError
from aiotask.message import Delivery, TaskMessage
from aiotask.outcome import Failed, Ignored, Outcome, Rejected, Retried, Succeeded, TaskMeta
from aiotask.protocols import Application, Outgoing
from aiotask.states import FAILURE, IGNORED, SUCCESS
from aiotask.tasks import Task
from aiotask.wire.errors import format_traceback
from aiotask.wire.payload import put_other_call, read_call
from aiotask.worker.execution import Execution
from aiotask.worker.executors import ThreadPool
from aiotask.worker.runner import Runner


class EagerRunner:
    """A runner without a broker: nothing is sent, nothing is stored. Bound to the loop that it is made on."""

    def __init__(self, app: Application, threads: int, execute_hooks: Sequence[Any]) -> None:
        """Take what a worker would have: threads for plain functions, and the middleware's hooks."""
        self._app = app
        self._threads = ThreadPool(threads)
        self._waiting: dict[Execution, asyncio.Future[Outcome]] = {}
        self._calls = 0
        self._loop = asyncio.get_running_loop()
        self._runner = Runner(
            f"eager@{socket.gethostname()}",
            self._threads,
            execute_hooks,
            self._conclude,
            _store_nothing,
            self._fail,
            concurrency=threads,
            eager=True,
        )

    async def run(self, task: Task, call: Outgoing) -> EagerResult[Any]:
        """Run a call to its end; retries follow at once, without their delay.

        The arguments go through the serialiser, so that they arrive as they would in a worker.
        """
        self._calls += 1
        try:
            return await self._run(task, call)
        finally:
            self._calls -= 1

    async def _run(self, task: Task, call: Outgoing) -> EagerResult[Any]:
        message = call.message
        while True:
            execution = Execution(
                Delivery(message.id, call.queue, b"", self._app.codec.content_type, message.priority, None),
                message,
                task,
            )
            outcome = await self._run_once(execution, message)
            if not isinstance(outcome, Retried):
                return self._result_of(execution, message, outcome)
            again = msgspec.structs.replace(message, retries=message.retries + 1)
            if outcome.retry.arguments is not None:
                put_other_call(again, *outcome.retry.arguments, self._app.conf)
            message = again

    async def close(self) -> None:
        """End its threads and processes, unless something runs in them still. From whatever loop."""
        if self._calls == 0 or self._loop.is_closed():
            self._threads.close()
            await self._runner.close()

    async def _run_once(self, execution: Execution, message: TaskMessage) -> Outcome:
        conf = self._app.conf
        try:
            execution.args, execution.kwargs = read_call(message, conf.accept_content, conf.message_max_bytes)
        except SerializationError as error:
            return Failed(error)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[execution] = future
        self._runner.start(execution)
        return await future

    def _conclude(self, execution: Execution, outcome: Outcome) -> None:
        future = self._waiting.pop(execution)
        if not future.done():
            future.set_result(outcome)

    def _fail(self, error: BaseException) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def _result_of(self, execution: Execution, message: TaskMessage, outcome: Outcome) -> EagerResult[Any]:
        meta = TaskMeta(
            id=message.id,
            state=IGNORED,
            name=message.task,
            retries=message.retries,
            parent_id=message.parent_id,
            date_done=datetime.now(UTC),
        )
        task, request = execution.task, execution.request
        if request is not None and task is not None and task.trail:
            meta.children = request.children
        match outcome:
            case Succeeded(value=value):
                meta.state, meta.result = SUCCESS, value
            case Failed(exc=exc, traceback=traceback):
                meta.state, meta.result, meta.traceback = FAILURE, exc, traceback
            case Rejected(reject=reject):
                meta.state, meta.result, meta.traceback = FAILURE, reject, format_traceback(reject)
            case _:
                assert isinstance(outcome, Ignored)  # noqa: S101 - nothing else ends an execution without a broker
        return EagerResult(meta, app=self._app)


def _store_nothing(_execution: Execution, _state: str, _meta: Any) -> None:
    """Nobody can look at a state while the caller waits for the end."""
