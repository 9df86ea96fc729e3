"""Runs bodies: one asyncio task and one context for each. Everything that can happen becomes an `Outcome`."""

import asyncio
import inspect
import logging
import os
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiotask.exceptions import Ignore, Reject, Retry
from aiotask.outcome import Failed, HandedBack, Ignored, Outcome, Rejected, Retried, Revoked, Succeeded
from aiotask.request import Request, set_current
from aiotask.states import STARTED
from aiotask.tasks import Task
from aiotask.worker.chain import Chain
from aiotask.worker.decisions import after_failure, after_loss, ignores_result
from aiotask.worker.execution import Execution
from aiotask.worker.executors import ThreadPool, raised_by_body
from aiotask.worker.tracebacks import retry_traceback, users_traceback

if TYPE_CHECKING:
    from aiotask.worker.offloading import Offloading

logger = logging.getLogger("aiotask.worker")

CANCEL_GRACE_S: Final = 0.5
"""How long a cancelled body may take to end, so that a second signal ends the worker within a second."""


class Runner:
    """Holds what is running."""

    def __init__(
        self,
        hostname: str,
        threads: ThreadPool,
        execute_hooks: Sequence[Any],
        conclude: Callable[[Execution, Outcome], None],
        update: Callable[[Execution, str, Any], None],
        failed: Callable[[BaseException], None],
        on_wait: Callable[[bool], None] | None = None,
        *,
        concurrency: int = 1,
        eager: bool = False,
    ) -> None:
        """Wire the stage.

        Args:
            hostname: The node name, for requests.
            threads: Where plain functions run.
            execute_hooks: The middleware's, the outermost first.
            conclude: Takes each outcome, once per execution.
            update: Takes a state that a body reports, on the loop.
            failed: Told of an error that is not the body's.
            on_wait: Told, on the loop, True when an execution begins to wait for another task, False when it goes on.
            concurrency: Most executions at once in other processes; there are no more processes than processors.
            eager: True when it runs for a caller, with no worker around it.
        """
        self._hostname = hostname
        self._threads = threads
        self._execute_hooks = execute_hooks
        self._chains: dict[int, Chain] = {}  # by id: a class of the user's may not be hashable
        self._conclude = conclude
        self._update = update
        self._failed = failed
        self._waits = on_wait
        self._concurrency = concurrency
        self._offloading: Offloading | None = None
        self._eager = eager
        self._loop = asyncio.get_running_loop()
        self._started_meta = {"pid": os.getpid(), "hostname": hostname}
        self.running: dict[Execution, asyncio.Task[None]] = {}

    def start(self, execution: Execution) -> None:
        """Run an admitted execution."""
        self.running[execution] = self._loop.create_task(self._run(execution))

    def find(self, asyncio_task: "asyncio.Task[Any] | None") -> Execution | None:
        """Return the execution whose own asyncio task this is. Callable from another thread."""
        return next((execution for execution, task in list(self.running.items()) if task is asyncio_task), None)

    def terminate(self, ids: Collection[str]) -> list[str]:
        """End what runs of these task ids for good; return their ids. A body that resists for a while is left."""
        found = {execution: task for execution, task in self.running.items() if execution.delivery.id in ids}
        for execution, asyncio_task in found.items():
            execution.terminated = True
            asyncio_task.cancel()
            if execution.started_mono:
                self._loop.call_later(CANCEL_GRACE_S, self._leave, execution, Revoked("terminated"))
            else:
                self._end(execution, Revoked("terminated"))  # cancelled before its first step, it never has one
        return list(dict.fromkeys(execution.delivery.id for execution in found))

    async def hand_back(self) -> None:
        """End everything that runs, to be run by another worker; a body that resists for a while is left."""
        for execution, asyncio_task in list(self.running.items()):
            execution.handing_back = True
            asyncio_task.cancel()
        if self.running:
            await asyncio.wait(list(self.running.values()), timeout=CANCEL_GRACE_S)
        for execution in list(self.running):
            self._leave(execution, HandedBack())

    def _leave(self, execution: Execution, outcome: Outcome) -> None:
        if execution in self.running:
            logger.warning("%s ignores its cancellation; it is left behind", execution)
            self._end(execution, outcome)

    async def close(self) -> None:
        """End the processes that bodies ran in, where there are any."""
        if self._offloading is not None:
            await self._offloading.close()

    async def _run(self, execution: Execution) -> None:
        task = execution.task
        assert task is not None  # noqa: S101 - admission refuses messages without a task
        request = execution.request = Request(
            execution.message,
            execution.delivery,
            task_object=task,
            hostname=self._hostname,
            report=self._report,
            on_wait=None if self._waits is None else self._on_wait,
            is_eager=self._eager,
            execution=execution,
        )
        set_current(request)
        execution.started_mono = time.monotonic()
        try:
            if task.track_started and not ignores_result(execution):
                self._update(execution, STARTED, self._started_meta)
            chain = self._chains.get(id(task)) or self._make_chain(task)
            outcome: Outcome
            try:
                args, kwargs = task.arguments.arrive(execution.args, execution.kwargs)
                request.args, request.kwargs = args, kwargs
                if chain.watched:
                    await chain.before(request)
                if chain.call is not None:
                    value = await chain.call(request)
                elif task.is_async:
                    value = await task.run(*args, **kwargs)
                else:
                    value = await self._run_plain(task, request, hooked=chain.watched)
                retry = request.pending_retry
                outcome = Succeeded(value) if retry is None else Retried(retry, _traceback(execution, retry))
            except BaseException as exc:  # noqa: BLE001 - SystemExit, too, ends its own message only
                outcome = self._outcome_of(execution, raised_by_body(exc))
            if execution.terminated:
                outcome = Revoked("terminated")  # whatever it has made of its cancellation
            if chain.watched:
                outcome = await self._watch(chain, execution, outcome)
            self._end(execution, outcome)
        except BaseException as error:  # noqa: BLE001 - our own error: without this the execution would hang unseen
            self._failed(error)

    def _make_chain(self, task: Task) -> Chain:
        async def body(request: Request) -> Any:
            if task.is_async:
                return await task.run(*request.args, **request.kwargs)
            return await self._run_plain(task, request, hooked=True)

        chain = self._chains[id(task)] = Chain(task, self._execute_hooks, body, self._threads.call)
        return chain

    async def _watch(self, chain: Chain, execution: Execution, outcome: Outcome) -> Outcome:
        """Run the handlers; a worker that stops does not wait for them."""
        try:
            await chain.after(execution.request or Request(), outcome)
        except BaseException as exc:  # noqa: BLE001 - what a handler raises changes nothing; our own cancellation does
            return HandedBack() if execution.handing_back and isinstance(exc, asyncio.CancelledError) else outcome
        return outcome

    async def _run_plain(self, task: Task, request: Request, *, hooked: bool) -> Any:
        """Run a plain function; `hooked` tells that something may have changed the arguments in the request."""
        if task.offload == "loop":
            value = task.run(*request.args, **request.kwargs)
        elif task.offload == "process":
            return await self._offload(task).run(task, request, own_arguments=hooked or self._eager)
        else:
            called = self._threads.call(task.run, request.args, request.kwargs)
            try:
                value = await called
            except asyncio.CancelledError:
                if request._execution.terminated:  # of a worker that ends nobody wants another thread
                    self._threads.abandon(called)
                raise
        # A plain wrapper around a coroutine function returns a coroutine, which is no result.
        return await value if inspect.iscoroutine(value) else value

    def _offload(self, task: Task) -> "Offloading":
        if self._offloading is None:
            from aiotask.worker.offloading import Offloading  # noqa: PLC0415 - who has no such task pays nothing

            self._offloading = Offloading(task.app, self._concurrency, self._hostname)
        return self._offloading

    def _outcome_of(self, execution: Execution, exc: BaseException) -> Outcome:
        if execution.handing_back:
            return HandedBack()
        if execution.lost is exc:
            return Failed(exc) if self._eager else after_loss(execution, execution.lost)
        if isinstance(exc, Retry):
            return Retried(exc, _traceback(execution, exc))
        if isinstance(exc, Ignore):
            return Ignored()
        if isinstance(exc, Reject):
            return Rejected(exc)
        if execution.request is None or execution.request.args is None:
            return Failed(exc)  # the arguments don't fit: the body has no part in it, and no traceback
        return after_failure(execution, Failed(exc, _traceback(execution, exc)), random.uniform)

    def _end(self, execution: Execution, outcome: Outcome) -> None:
        if self.running.pop(execution, None) is not None:
            if execution.waits:
                self._lend(execution, False)  # it has left something running that still waits
            self._conclude(execution, outcome)

    def _report(self, execution: Execution, state: str, meta: Any) -> None:
        """Take a state from a body, in whatever thread it runs; the loop keeps the order in which they come."""
        self._on_loop(self._update, execution, state, meta)

    def _on_wait(self, execution: Execution, begins: bool) -> None:
        """Note that an execution waits, or goes on, in whatever thread that is."""
        self._on_loop(self._count_wait, execution, begins)

    def _count_wait(self, execution: Execution, begins: bool) -> None:
        """Lend the one slot of an execution while anything in it waits: it may wait for several at once."""
        if execution not in self.running:
            return
        execution.waits += 1 if begins else -1
        if execution.waits == int(begins):
            self._lend(execution, begins)

    def _lend(self, execution: Execution, begins: bool) -> None:
        assert self._waits is not None  # noqa: S101 - only then is a request told to report waits
        self._waits(begins)
        task = execution.task
        if task is not None and not task.is_async:
            (self._threads.lend if begins else self._threads.take_back)()

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            call(*args)
        else:
            self._loop.call_soon_threadsafe(call, *args)


def _traceback(execution: Execution, exc: BaseException) -> str | None:
    """Return the traceback of what a body has raised, in whatever process; of a retry's reason, when it is one."""
    raised = execution.raised
    if raised is not None and raised[0] is exc:
        return raised[1]
    return retry_traceback(exc) if isinstance(exc, Retry) else users_traceback(exc)
