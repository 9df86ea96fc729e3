"""Runs the body of an execution in another process, and makes of the answer what a thread would have left behind."""

import os
from functools import partial
from typing import Any

from aiotask.exceptions import ImproperlyConfigured, Retry, WorkerLost
from aiotask.protocols import Application
from aiotask.request import Request
from aiotask.tasks import Task
from aiotask.worker.execution import Execution
from aiotask.worker.executors import settable
from aiotask.worker.pipe import (
    Call,
    PackedError,
    PackedRetry,
    Place,
    Raised,
    Setup,
    Unready,
    pack_value,
    unpack_error,
    unpack_value,
)
from aiotask.worker.preparation import place_of, places_of, setup
from aiotask.worker.processes import ProcessLost, ProcessPool


class Offloading:
    """Where tasks with `offload="process"` run: as many processes as there are processors, at most `concurrency`."""

    def __init__(self, app: Application, concurrency: int, hostname: str) -> None:
        """Make no process yet; the first call does.

        Args:
            app: Whose tasks are run.
            concurrency: Most executions at once.
            hostname: The node name.
        """
        self._app = app
        self._places: list[Place] = []
        self._pool = ProcessPool(min(concurrency, _processors()), hostname, self._setup)

    async def run(self, task: Task, request: Request, *, own_arguments: bool) -> Any:
        """Run the body; return its value, or raise what it has raised.

        Args:
            task: A task of the app.
            request: Its request here. Gets the children, and the retry that is asked for without raising it.
            own_arguments: True runs it with the request's arguments, which something may have changed; False with the
                message's.

        Raises:
            WorkerLost: The process has ended before the body; it is noted as the execution's `lost`.
            ImproperlyConfigured: The task can't be found there.
            EncodeError: The value, or an argument, can't be handed over.
        """
        execution: Execution = request._execution
        if not self._places:
            self._places = _located(execution, self._app, task)
        try:
            reply = await self._pool.run(_call(task, request, own_arguments=own_arguments), partial(_report, request))
        except ProcessLost as error:
            execution.lost = WorkerLost(f"The process that ran it {error}.")
            raise execution.lost from None
        if isinstance(reply, Unready):
            unready = ImproperlyConfigured(f'{task.name} has offload="process". {reply.why}')
            execution.raised = unready, reply.traceback
            raise unready
        request.children += reply.children
        if isinstance(reply, Raised):
            raise _raised(execution, reply.error)
        if reply.retry is not None:
            retry = _raised(execution, reply.retry)
            if not isinstance(retry, Retry):
                raise retry
            request.pending_retry = retry
        return unpack_value(reply.value, f"What {task.name} returns")

    async def close(self) -> None:
        """End the processes."""
        await self._pool.close()

    def _setup(self) -> Setup:
        return setup(self._app, self._places)


def _raised(execution: Execution, packed: PackedError | PackedRetry) -> BaseException:
    execution.raised = unpack_error(packed)
    return settable(execution.raised[0])


def _located(execution: Execution, app: Application, task: Task) -> list[Place]:
    try:
        return places_of(app, task.__module__)
    except ImproperlyConfigured as error:
        execution.raised = error, None  # a traceback would tell of us
        raise


def _call(task: Task, request: Request, *, own_arguments: bool) -> Call:
    execution: Execution = request._execution
    delivery, message = execution.delivery, execution.message
    assert message is not None  # noqa: S101 - only a message that was read is run
    arguments = None
    if own_arguments:
        arguments = pack_value((request.args, request.kwargs), f"An argument of {task.name}")
    return Call(
        number=0,
        message=message,
        module=place_of(task),
        queue=delivery.queue,
        delivery_count=delivery.delivery_count,
        priority=delivery.priority,
        hostname=request.hostname,
        is_eager=request.is_eager,
        arguments=arguments,
    )


def _report(request: Request, state: str, meta: bytes) -> None:
    request.report(state, unpack_value(meta, "A state's meta"))


def _processors() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
