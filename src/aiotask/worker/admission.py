"""Decides what of the received messages may start, and when: readable, known, still ours, a slot free."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Container

from aiotask.exceptions import (
    BrokerError,
    DecodeError,
    NotRegistered,
    SerializationError,
    WorkerLost,
)
from aiotask.message import Delivery, Start, TaskMessage, Verdict
from aiotask.outcome import Expired, Failed, HandedBack, Outcome, Parked, Postponed, Revoked
from aiotask.protocols import Application, Subscription
from aiotask.showing import shown
from aiotask.wire.celery import read_message
from aiotask.wire.payload import read_call
from aiotask.worker.execution import Execution
from aiotask.worker.lines import Lines
from aiotask.worker.reporting import log_receptions
from aiotask.worker.slots import Slots
from aiotask.worker.suspects import Suspects

logger = logging.getLogger("aiotask.worker")


class Admission:
    """Holds what is received and not started; starts it in batches, one `begin` for each."""

    def __init__(
        self,
        app: Application,
        subscription: Subscription,
        running: Slots,
        lines: Lines,
        start: Callable[[Execution], None],
        conclude: Callable[[Execution, Outcome], None],
        forget: Callable[[Execution], None],
        budget: int | None = None,
        at_once: int | None = None,
        revoked: Container[str] = (),
    ) -> None:
        """Wire the stage.

        Args:
            app: Its registry, codec and settings.
            subscription: Judges the starts.
            running: The slots of executions.
            lines: The places of tasks that have only so many.
            start: Runs an admitted execution, whose slot is taken.
            conclude: Takes the outcome of one that never starts.
            forget: Takes one that is no longer ours.
            budget: Most executions to start in all; None for no limit.
            at_once: Most to begin in one step; None for as many as there are slots.
            revoked: Task ids that must not start here, whatever the broker says: it may not have told yet.
        """
        self._app = app
        self._tasks = app.tasks
        self._codec = app.codec
        self._max_bytes = app.conf.message_max_bytes
        self._accept = tuple(app.conf.accept_content)
        self._subscription = subscription
        self._running = running
        self._lines = lines
        self._start = start
        self._conclude = conclude
        self._forget = forget
        self._ready: deque[Execution] = deque()
        self._suspects = Suspects(app.conf.task_max_deliveries)
        self._work = asyncio.Event()
        self._closed = False
        self._release: asyncio.TimerHandle | None = None
        self._revoked = revoked
        self._at_once = running.limit if at_once is None else at_once
        self.budget = budget

    def offer(self, deliveries: list[Delivery]) -> None:
        """Take a batch: refuse what can't run, park what has no place, line up the rest."""
        read = [execution for delivery in deliveries if (execution := self._read(delivery)) is not None]
        log_receptions(read)
        for execution in read:
            task = execution.task
            if execution.delivery.begun and execution.delivery.id in self._revoked:
                self._conclude(execution, Revoked())
            elif task is not None and task.concurrency is not None and not self._lines.enter(execution):
                self._conclude(execution, Parked(execution.name))
            elif execution.delivery.losses and self._suspects.take(execution):
                pass
            elif execution.delivery.begun and self._suspects.hold_others:
                self._conclude(execution, HandedBack())  # or it would count as lost beside who may end the process
            elif execution.delivery.begun and self._running.free and not self._closed:
                self._running.take(1)
                self._start(execution)
            else:
                # What was begun as it came has lost its slot to another meanwhile: in its turn it is judged again.
                self._ready.append(execution)
        if self._ready or self._suspects.pending:
            self._work.set()

    def startable(self) -> int:
        """Return how many of what comes next can start as it comes: none while something waits that may be before it.

        What is parked waits, too: who comes for a full line would be begun only to be parked.
        """
        if self._ready or self._suspects.pending or self.budget is not None or not self._lines.are_empty():
            return 0
        return min(self._running.free, self._at_once)

    def left(self, execution: Execution) -> None:
        """Note that an execution has ended: its slot is free, and a suspect makes way for the next."""
        if execution.delivery.losses:
            self._suspects.left(execution)
        self._running.give()
        if self._ready or self._suspects.pending:
            self._work.set()

    def lend(self) -> None:
        """Let another execution use a slot whose own only waits."""
        self._running.give()
        if self._ready or self._suspects.pending:
            self._work.set()

    def take_back(self) -> None:
        """Count a lent slot again, whether or not one is free: what waited goes on at once."""
        self._running.take(1)

    def withdraw(self) -> list[Execution]:
        """Give up everything that has not started; the caller hands it back."""
        waiting = [*self._suspects.withdraw(), *self._ready]
        self._ready.clear()
        return waiting

    async def run(self) -> None:
        """Start what may be started, until closed."""
        while True:
            await self._work.wait()
            self._work.clear()
            if self._closed:
                return
            batch = self._next_batch()
            if len(batch) == self._at_once and self._ready:
                self._work.set()
            if batch:
                await self._begin(batch)

    def close(self) -> None:
        """Start nothing more: `run` ends, once the `begin` under way has its answer."""
        self._closed = True
        if self._release is not None:
            self._release.cancel()
        self._work.set()

    def _next_batch(self) -> list[Execution]:
        batch: list[Execution] = []
        free = min(self._running.free, self._at_once)
        if self.budget is not None:
            free = min(free, self.budget)
        if free and self._suspects.pending and self._add_suspect(batch):
            free = len(batch)
        ready = self._ready
        if len(ready) <= free - len(batch):
            batch.extend(ready)
            ready.clear()
        else:
            batch.extend(ready.popleft() for _ in range(free - len(batch)))
        self._running.take(len(batch))
        if self.budget is not None:
            self.budget -= len(batch)
        return batch

    def _add_suspect(self, batch: list[Execution]) -> bool:
        """Add the suspect that starts now to `batch`, if one may; tell whether nothing else may start meanwhile."""
        loop = asyncio.get_running_loop()
        suspect, held_s = self._suspects.next(loop.time(), others_run=self._running.used > 0)
        if suspect is not None:
            batch.append(suspect)
        if self._release is not None:
            self._release.cancel()
        self._release = loop.call_later(held_s, self._work.set) if held_s else None
        return held_s > 0

    async def _begin(self, batch: list[Execution]) -> None:
        starts = [Start(execution.delivery, execution.acks_late) for execution in batch]
        try:
            verdicts = await self._verdicts(starts)
        except asyncio.CancelledError:
            self._ready.extend(batch)  # handed back with what waits, whether it is begun by now or not
            raise
        run = Verdict.RUN
        for execution, verdict in zip(batch, verdicts, strict=True):
            if verdict is not run:
                self._refuse(execution, verdict)
            elif execution.delivery.id in self._revoked:
                self._refuse(execution, Verdict.REVOKED)
            elif self._closed:
                # Begun, but the worker was asked to stop meanwhile, and nothing starts after that.
                self._running.give()
                self._ready.append(execution)
            else:
                self._start(execution)

    async def _verdicts(self, starts: list[Start]) -> list[Verdict]:
        try:
            return await self._subscription.begin(starts)
        except BrokerError as error:
            # Nothing was begun for certain: leave it to the lease, and to whoever gets it next.
            logger.error("Can't begin %d messages: %s", len(starts), error)
            return [Verdict.LOST] * len(starts)

    def _refuse(self, execution: Execution, verdict: Verdict) -> None:
        if self.budget is not None:
            self.budget += 1
        self.left(execution)
        delivery = execution.delivery
        if verdict is Verdict.LOST:
            logger.warning("Lost the lease of %s[%s] before it started", shown(execution.shadow), shown(delivery.id))
            self._forget(execution)
        elif verdict is Verdict.REVOKED:
            self._conclude(execution, Revoked())
        elif verdict is Verdict.EXPIRED:
            self._conclude(execution, Expired())
        elif verdict is Verdict.STARTED_BEFORE:
            why = WorkerLost("The worker that had started it was lost; acknowledged early, it is not started again.")
            self._conclude(execution, Failed(why, dead=True))
        else:
            why = WorkerLost(f"Workers were lost {delivery.losses} times after starting it (task_max_deliveries).")
            self._conclude(execution, Failed(why, dead=True))

    def _read(self, delivery: Delivery) -> Execution | None:
        if len(delivery.body) > self._max_bytes:
            self._refuse_unread(
                delivery,
                DecodeError(
                    f"The message has {len(delivery.body):,} bytes, more than message_max_bytes ({self._max_bytes:,})."
                ),
            )
            return None
        try:
            own = delivery.content_type == self._codec.content_type
            message = self._codec.decode(delivery.body) if own else read_message(delivery)
        except SerializationError as error:
            self._refuse_unread(delivery, error)
            return None
        task = self._tasks.get(message.task)
        if task is None:
            self._refuse_unknown(Execution(delivery, message))
            return None
        execution = Execution(delivery, message, task)
        try:
            execution.args, execution.kwargs = read_call(message, self._accept, self._max_bytes)
        except SerializationError as error:
            self._conclude(execution, Failed(error, dead=True))
            return None
        return execution if own else self._in_time(execution, message)

    def _in_time(self, execution: Execution, message: TaskMessage) -> Execution | None:
        """Do for a message of another protocol what its broker was not told: when it is due, and when it expires."""
        delivery = execution.delivery
        if delivery.expires_at is None:
            delivery.expires_at = message.expires
        now = time.time()
        if delivery.expires_at is not None and delivery.expires_at <= now:
            self._conclude(execution, Expired())
        elif message.eta is not None and message.eta > now:
            self._conclude(execution, Postponed(message.eta - now))
        else:
            return execution
        return None

    def _refuse_unread(self, delivery: Delivery, error: Exception) -> None:
        self._conclude(Execution(delivery), Failed(error, dead=True))

    def _refuse_unknown(self, execution: Execution) -> None:
        try:
            self._tasks[execution.name]
        except NotRegistered as error:
            why = NotRegistered(f"{error} Does the worker import the module that defines it?")
            self._conclude(execution, Failed(why, dead=True))
