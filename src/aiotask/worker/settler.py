"""Writes what executions lead to: states and outcomes, in batches, at most one flush in flight.

What can't be written is kept and tried again; the fetcher pauses meanwhile, so that it stays bounded.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiotask.exceptions import BackendError, BrokerError, EncodeError
from aiotask.message import Delivery, Finish
from aiotask.outcome import Failed, HandedBack, Outcome
from aiotask.protocols import Application, FusedFinish, ResultBackend, Subscription
from aiotask.showing import shown
from aiotask.states import SUCCESS
from aiotask.wire.errors import format_traceback
from aiotask.wire.payload import pack_result, packs_results
from aiotask.worker.decisions import Decision, decide, state_meta
from aiotask.worker.execution import Execution
from aiotask.worker.reporting import log_outcome

logger = logging.getLogger("aiotask.worker")

_FIRST_BACKOFF_S = 0.1
_LAST_BACKOFF_S = 5.0


class _Place(NamedTuple):
    """A row, and where it is to be stored."""

    backend: ResultBackend
    row: Any


class Settler:
    """Turns outcomes into writes."""

    def __init__(
        self,
        app: Application,
        subscription: Subscription,
        *,
        limit: int,
        settled: Callable[[list[Delivery]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Wire the stage.

        Args:
            app: Its result backends, and the settings of results.
            subscription: Settles; writes the results too, when it can do so in one step.
            limit: `behind` holds when more outcomes than this are not written.
            settled: Told of the deliveries that are off our hands, written or refused.
            failed: Told when writing has failed in a way that trying again does not mend.

        Raises:
            ImproperlyConfigured: `result_serializer` or `result_compression` can't be used.
        """
        self._app = app
        self._subscription = subscription
        self._backend = backend = app.backend
        self._fused = subscription if isinstance(subscription, FusedFinish) and subscription.fuses(backend) else None
        self._expires = app.conf.result_expires
        self._packs = packs_results(app.conf)
        self._limit = limit
        self._settled = settled
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()  # not that of the body whose end starts a flush
        self._updates: dict[str, _Place] = {}
        self._elsewhere: list[_Place] = []
        """Rows of finished executions whose tasks have a result backend of their own."""
        self._finishes: list[Finish] = []
        self._in_flight = 0
        self._flushing: asyncio.Task[None] | None = None
        self._pause: asyncio.Future[None] | None = None
        self.handed_back = 0
        """How many executions were left to another worker: begun, and not ended as a failure."""

    def update(self, execution: Execution, state: str, meta: Any) -> None:
        """Store a state that is not final; of several not yet written the last one is."""
        if execution.finished:
            return  # what a body left running has nothing to say any more
        backend = self._backend_of(execution)
        row = backend.encode(state_meta(execution, state, meta), self._expires)
        self._updates[execution.delivery.id] = _Place(backend, row)
        self._schedule()

    def conclude(self, execution: Execution, outcome: Outcome) -> None:
        """Take the outcome of an execution; a second one is dropped."""
        if execution.finished:
            return
        execution.finished = True
        backend = self._backend_of(execution)
        decision, row = self._decide(execution, outcome, backend)
        log_outcome(execution, decision.outcome)
        if type(decision.outcome) is HandedBack and execution.started_mono:
            self.handed_back += 1
        if row is not None and backend is not self._backend:
            self._elsewhere.append(_Place(backend, row))
            row = None
        self._finishes.append(Finish(decision.settlement, row))
        self._schedule()

    def behind(self) -> "asyncio.Future[None] | None":
        """Return what to wait for while too much is not written, or None."""
        if len(self._finishes) + self._in_flight <= self._limit:
            return None
        if self._pause is None:
            self._pause = self._loop.create_future()
        return self._pause

    def all_written(self) -> bool:
        """Tell whether everything that was taken is written."""
        return self._flushing is None

    async def drain(self) -> None:
        """Wait until everything is written."""
        while self._flushing is not None:
            await asyncio.wait([self._flushing])

    def _backend_of(self, execution: Execution) -> ResultBackend:
        task = execution.task
        return self._backend if task is None or task.own_backend is None else self._app.backend_for(task.name)

    def give_up(self) -> int:
        """Try no longer to write what is not written; return how many outcomes that are."""
        if self._flushing is not None:
            self._flushing.cancel()
        return len(self._finishes) + self._in_flight

    def _decide(self, execution: Execution, outcome: Outcome, backend: ResultBackend) -> tuple[Decision, Any]:
        now = datetime.now(UTC)
        try:
            decision = decide(execution, outcome, now)
            return decision, self._encode(decision, backend)
        except Exception as error:  # noqa: BLE001 - what bodies return and raise is encoded here; all of it has an outcome
            error.__suppress_context__ = True
            # Which part of a value can't be encoded is in the text; a traceback would tell of us alone.
            failed = Failed(error, None if isinstance(error, EncodeError) else format_traceback(error))
            decision = decide(execution, failed, now)
            return decision, self._encode(decision, backend)

    def _encode(self, decision: Decision, backend: ResultBackend) -> Any:
        meta = decision.meta
        if meta is None:
            return None
        if self._packs and meta.state == SUCCESS:
            meta.result = pack_result(meta.result, self._app.conf)
        return backend.encode(meta, self._expires)

    def _schedule(self) -> None:
        if self._flushing is None:  # it begins in the next turn of the loop, with all that comes in this one
            self._flushing = self._loop.create_task(self._flush(), context=self._context)

    async def _flush(self) -> None:
        try:
            while self._updates or self._finishes:
                stores = [*_by_backend(self._updates.values()), *_by_backend(self._elsewhere)]
                self._updates, self._elsewhere = {}, []
                finishes, self._finishes = self._finishes, []
                self._in_flight = len(finishes)
                await self._write(stores, finishes)
                self._in_flight = 0
                if self._pause is not None:
                    self._pause.set_result(None)
                    self._pause = None
        except Exception as error:  # noqa: BLE001 - surfaces in the worker's scope
            self._failed(error)
        finally:
            self._flushing = None

    async def _write(self, stores: list[tuple[ResultBackend, list[Any]]], finishes: list[Finish]) -> None:
        """Write until it is written: updates first, since a final state is the last thing that is said of a task.

        What tasks store elsewhere comes before their messages are settled, so that a crash loses none.
        """
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                while stores:
                    await self._store(*stores[0])
                    del stores[0]
                refused = await self._finish(finishes) if finishes else ()
                break
            except (BackendError, BrokerError) as error:
                logger.error("Can't store %d outcomes, trying again: %s", len(finishes), error)
                await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 - jitter, no secret
                backoff = min(_LAST_BACKOFF_S, backoff * 2)
        for delivery in refused:
            logger.warning("The outcome of %s was refused: another worker has it by now", shown(delivery.id))
        self._settled([finish.settlement.delivery for finish in finishes])

    async def _store(self, backend: ResultBackend, rows: list[Any]) -> None:
        if backend is not self._backend:
            await self._app.connect()  # its task may have come after the worker's start
        await backend.store(rows)

    async def _finish(self, finishes: Sequence[Finish]) -> Sequence[Delivery]:
        if self._fused is not None:
            return await self._fused.finish(finishes)
        # Not one step: a crash between the two repeats work, and loses none.
        rows = [finish.row for finish in finishes if finish.row is not None]
        if rows:
            await self._backend.store(rows)
        return await self._subscription.settle([finish.settlement for finish in finishes])


def _by_backend(places: Iterable[_Place]) -> list[tuple[ResultBackend, list[Any]]]:
    """Return the rows of each backend, in their order."""
    found: dict[int, tuple[ResultBackend, list[Any]]] = {}
    for backend, row in places:
        found.setdefault(id(backend), (backend, []))[1].append(row)
    return list(found.values())
