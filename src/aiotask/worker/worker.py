"""The worker: wires the stages, starts them, and stops them."""

import asyncio
import logging
import math
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from aiotask.exceptions import AioTaskError, BrokerError
from aiotask.message import Delivery
from aiotask.middleware import hooks
from aiotask.outcome import HandedBack, Outcome
from aiotask.protocols import Pipelined, RemoteControlled, Subscription
from aiotask.showing import shown
from aiotask.worker.admission import Admission
from aiotask.worker.execution import Execution
from aiotask.worker.executors import ThreadPool
from aiotask.worker.fetcher import Fetcher
from aiotask.worker.leases import Leases
from aiotask.worker.lines import Lines
from aiotask.worker.revoked import RevokedIds
from aiotask.worker.runner import Runner
from aiotask.worker.runtime import Runtime
from aiotask.worker.settler import Settler
from aiotask.worker.slots import Slots

logger = logging.getLogger("aiotask.worker")

_LOG_GRACE_S = 2.0
_WRITE_GRACE_S = 5.0
"""How long a worker that was stopped at once keeps trying to write its last outcomes."""
_LEAVE_GRACE_S = 0.5
"""How long each further step may take when that was not enough: what does not answer now will not answer soon."""
_SMALLEST_BATCH = 10
"""Smaller ones cost more in round trips than they save in waiting."""


class Worker:
    """Runs tasks inside the event loop that enters it. Made by `app.worker()`; used once.

    Attributes:
        on_stall: Called in another thread when the loop was blocked longer than `worker_loop_stall_limit`, after it is
            logged; for a program that owns the process.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Take the settings; nothing is started."""
        self._runtime = runtime
        self._stopping = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._stack = AsyncExitStack()
        self._stages: list[asyncio.Task[None]] = []
        self._host: asyncio.Task[Any] | None = None
        self._host_cancelled = False
        self._closing = False
        self._failure: BaseException | None = None
        self._ending: asyncio.Task[None] | None = None
        self._not_stored = 0
        self._patience_s: float | None = None
        self.on_stall: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<Worker: {self.hostname}>"

    @property
    def hostname(self) -> str:
        """The node name: `name@host`."""
        return self._runtime.hostname

    @property
    def left_behind(self) -> int:
        """How many executions were ended to be run by another worker, or have an outcome that could not be stored."""
        return max(self._settler.handed_back, self._not_stored)

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise AioTaskError("A worker runs once. Ask the app for another: app.worker().")
        self._host = asyncio.current_task()
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._closing = True
        here = asyncio.current_task()
        if self._host_cancelled and here is not None and here is self._host:
            here.uncancel()
        await self._shut_down()
        if self._failure is not None and (exc is None or self._host_cancelled):
            raise self._failure

    def stop(self) -> None:
        """Stop taking work, and let what runs finish; called again, stop at once.

        What still runs then is handed back: late-acknowledged executions run again elsewhere, early-acknowledged ones
        end as FAILURE (`WorkerLost`). To be called on the worker's loop.
        """
        if self._stopping.is_set():
            self._stop_now.set()
        self._stopping.set()

    async def wait(self) -> None:
        """Wait until the worker is asked to stop, or has nothing more to do (`burst`, `max_tasks`).

        Raises:
            AioTaskError: It was not started.
        """
        if self._host is None:
            raise AioTaskError(
                "This worker was not started: write `async with app.worker() as worker:` around the wait."
            )
        await self._stopping.wait()

    async def _start(self) -> None:
        runtime = self._runtime
        app = runtime.app
        app.import_tasks()
        self._loop = asyncio.get_running_loop()
        await self._stack.enter_async_context(runtime.lifespan)
        conf = app.conf
        subscription = await app.broker.subscribe(
            runtime.queues,
            consumer=runtime.new_consumer(),
            lease=conf.worker_lease,
            max_losses=conf.task_max_deliveries,
        )
        self._stack.push_async_callback(self._unsubscribe, subscription)
        self._room = Slots(runtime.concurrency * conf.worker_prefetch_multiplier)
        self._leases = Leases(
            subscription.lease_keeper(),
            renewal=conf.worker_lease_renewal,
            stall_limit=conf.worker_loop_stall_limit,
            lost=self._on_lost,
            describe=self._describe,
            stalled=self._on_stalled,
        )
        self._settler = Settler(
            app,
            subscription,
            limit=runtime.concurrency,
            settled=self._on_settled,
            failed=self._fail,
        )
        threads = ThreadPool(runtime.threads)
        self._stack.callback(threads.close)
        self._runner = Runner(
            self.hostname,
            threads,
            hooks(app.middleware, "execute"),
            self._on_run,
            self._settler.update,
            self._fail,
            self._on_wait,
            concurrency=runtime.concurrency,
        )
        self._stack.push_async_callback(self._runner.close)
        revoked = RevokedIds(self._runner.terminate)
        if isinstance(app.broker, RemoteControlled):
            commands = {"ping": _pong, "revoke": revoked.revoke}
            await self._stack.enter_async_context(app.broker.answering(self.hostname, commands))
        self._lines = Lines(app.tasks, subscription, self._on_unparked, self._is_connected)
        self._admission = Admission(
            app,
            subscription,
            Slots(runtime.concurrency),
            self._lines,
            self._runner.start,
            self._on_refused,
            self._on_gone,
            runtime.max_tasks,
            _batch_size(subscription, runtime.concurrency),
            revoked.known,
        )
        self._fetcher = Fetcher(
            subscription,
            self._room,
            self._on_received,
            self._settler.behind,
            self._nothing_is_under_way,
            self._admission.startable,
            self._is_connected,
        )
        self._leases.start()
        self._supervise(self._fetch())
        self._supervise(self._lines.run())
        self._supervise(self._admission.run())
        logger.info(
            "Worker %s is ready: queues %s, concurrency %d",
            self.hostname,
            ", ".join(runtime.queues),
            runtime.concurrency,
        )

    async def _fetch(self) -> None:
        await self._fetcher.run(burst=self._runtime.burst)
        self._stopping.set()

    # What the stages tell each other

    def _nothing_is_under_way(self) -> bool:
        return self._settler.all_written() and self._lines.are_empty()

    def _is_connected(self) -> bool:
        return self._runtime.app.broker.connected

    def _on_received(self, deliveries: list[Delivery]) -> None:
        self._leases.hold(deliveries)
        self._admission.offer(deliveries)

    def _on_unparked(self, deliveries: list[Delivery]) -> None:
        # Room or not: there is a place for each, and what else is received waits for room.
        self._room.take(len(deliveries))
        self._on_received(deliveries)

    def _on_run(self, execution: Execution, outcome: Outcome) -> None:
        self._admission.left(execution)
        self._on_refused(execution, outcome)
        if self._admission.budget == 0 and not self._runner.running:
            self._stopping.set()

    def _on_refused(self, execution: Execution, outcome: Outcome) -> None:
        self._settler.conclude(execution, outcome)
        if execution.place is not None:
            self._lines.leave(execution)
        self._room.give()

    def _on_gone(self, execution: Execution) -> None:
        self._leases.drop([execution.delivery])
        if execution.place is not None:
            self._lines.leave(execution)
        self._room.give()

    def _on_settled(self, deliveries: list[Delivery]) -> None:
        self._leases.drop(deliveries)
        self._lines.settled(deliveries)

    def _on_wait(self, begins: bool) -> None:
        """Lend the slot of an execution that waits for another task: that one may need it."""
        if begins:
            self._room.give()
            self._admission.lend()
        else:
            self._room.take(1)
            self._admission.take_back()

    def _on_lost(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            logger.warning("The lease of %s was lost: another worker has it by now", shown(delivery.id))

    def _describe(self, asyncio_task: "asyncio.Task[Any] | None") -> str:
        execution = self._runner.find(asyncio_task)
        if execution is not None:
            return f"task {shown(execution.shadow)}[{shown(execution.delivery.id)}]"
        return "no task of ours" if asyncio_task is None else f"{asyncio_task.get_name()} (no task of ours)"

    def _on_stalled(self, seconds: float) -> None:
        """Let the leases lapse; called in the leases' thread, while the loop is still blocked."""
        frames = sys._current_frames().values()
        stacks = "\n".join("".join(traceback.format_stack(frame)) for frame in frames)
        what = f"The event loop was blocked for {seconds:.0f} s (worker_loop_stall_limit); the leases lapse."
        # In a thread of its own: the one that blocks the loop may hold the lock of a log handler.
        logging_it = threading.Thread(target=logger.critical, args=("%s\n%s", what, stacks), daemon=True)
        logging_it.start()
        logging_it.join(_LOG_GRACE_S)
        if self.on_stall is not None:
            self.on_stall()
        self._loop.call_soon_threadsafe(self._fail, AioTaskError(what))

    # Failing and stopping

    def _supervise(self, stage: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(stage)
        task.add_done_callback(self._stage_ended)
        self._stages.append(task)

    def _stage_ended(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Make a failure surface in the scope that runs the worker, as a task group would.

        That is in the asyncio task that has entered it: whether that one is inside still can't be known. When it has
        ended, what the worker holds is handed back now, and the failure is raised where the scope is left.
        """
        if self._failure is not None:
            return
        self._failure = error
        self._stopping.set()
        self._stop_now.set()
        if self._closing:
            return
        if self._host is not None and not self._host.done():
            self._host_cancelled = True
            self._host.cancel()
        else:
            logger.critical("Worker %s has failed, and stops: %r", self.hostname, error)
            self._ending = self._loop.create_task(self._end())

    async def _shut_down(self) -> None:
        async with self._stack:
            await (self._ending or self._end())

    async def _end(self) -> None:
        try:
            await self._stop_taking()
            await self._let_finish()
        except asyncio.CancelledError:
            # The scope is cancelled while it waits for what runs: as a second signal.
            self._stop_now.set()
            await self._end_what_runs()
            raise
        await self._end_what_runs()

    async def _stop_taking(self) -> None:
        self._admission.close()
        # A `receive` that is cut off gives back what it had taken; a `begin` under way is let finish, if there is time.
        for taking in self._stages[:2]:
            taking.cancel()
        await self._until_ended(self._stages, self._runtime.shutdown_timeout)
        for stage in self._stages:
            stage.cancel()
        await asyncio.gather(*self._stages, return_exceptions=True)
        for execution in self._admission.withdraw():
            self._on_refused(execution, HandedBack())

    async def _let_finish(self) -> None:
        running = list(self._runner.running.values())
        if not running:
            return
        grace = self._runtime.shutdown_timeout
        logger.info("Stopping: %d running tasks get up to %g s to finish", len(running), grace)
        await self._until_ended(running, grace)

    async def _until_ended(self, tasks: "list[asyncio.Task[None]]", timeout: float | None) -> None:
        """Wait until `tasks` have ended, at most `timeout` seconds, and not when the worker is to stop at once."""
        now = asyncio.ensure_future(self._stop_now.wait())
        ended = asyncio.ensure_future(asyncio.wait(tasks))
        try:
            await asyncio.wait([now, ended], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            now.cancel()
            ended.cancel()

    async def _end_what_runs(self) -> None:
        await self._runner.hand_back()
        try:
            async with asyncio.timeout(_WRITE_GRACE_S):
                await self._settler.drain()
        except TimeoutError:
            self._not_stored, self._patience_s = self._settler.give_up(), _LEAVE_GRACE_S
            logger.error(
                "Stopped with %d outcomes that could not be stored; their messages are left to their leases",
                self._not_stored,
            )
        await self._leases.stop(self._patience_s)
        logger.info("Worker %s has stopped", self.hostname)

    async def _unsubscribe(self, subscription: Subscription) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                await subscription.close()
        except (BrokerError, TimeoutError) as error:
            logger.error(
                "Could not hand back what was reserved; it is left to its leases: %s", str(error) or "no answer"
            )


def _pong(_: Mapping[str, Any]) -> dict[str, str]:
    return {"ok": "pong"}


def _batch_size(subscription: Subscription, concurrency: int) -> int | None:
    """Return how many executions are begun in one step; None for as many as there are slots."""
    if not isinstance(subscription, Pipelined):
        return None
    return max(_SMALLEST_BATCH, math.ceil(concurrency / subscription.batches))
