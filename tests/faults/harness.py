"""What the fault tests share: a broker with worker processes and a sender on it, and the counts of the guarantee table.

Nothing in here waits for time: everything waits for a condition, with a deadline that is far from what is usual.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.processes import PATIENCE_S, start_worker

from aiotask import AioTask
from aiotask.message import DeadLetter, QueueDepth
from aiotask.outcome import TaskMeta

from .record import Event, Record
from .stores import LEASE_S, QUEUE, SCAN_S, Store
from .workers import Worker, cpu_seconds, is_alive, state_of, until

__all__ = ["LEASE_S", "SCAN_S", "Event", "Worker", "cpu_seconds", "is_alive", "state_of", "until"]

HERE = Path(__file__).parent

EACH_BROKER = pytest.mark.parametrize("broker", ["sqlite", "redis", "amqp"])
"""Runs a test on each broker that outlives a process; without it, it is run on SQLite."""
EACH_LEASING_BROKER = pytest.mark.parametrize("broker", ["sqlite", "redis"])
"""On those whose leases end by time, and that keep a message until its outcome is stored."""
ON_REDIS = pytest.mark.parametrize("broker", ["redis"])
ON_RABBITMQ = pytest.mark.parametrize("broker", ["amqp"])
ACKS = pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])

# The same, with what takes long to tell little more among the long runs.
EACH_BROKER_REDIS_LONG = pytest.mark.parametrize("broker", ["sqlite", pytest.param("redis", marks=pytest.mark.long)])
ACKS_EARLY_LONG = pytest.mark.parametrize(
    "acks_late", [pytest.param(True, id="late"), pytest.param(False, id="early", marks=pytest.mark.long)]
)
EACH_BROKER_AND_ACKS = pytest.mark.parametrize(
    ("broker", "acks_late"),
    [
        pytest.param("sqlite", True, id="sqlite-late"),
        pytest.param("sqlite", False, id="sqlite-early"),
        pytest.param("redis", True, id="redis-late"),
        pytest.param("redis", False, id="redis-early", marks=pytest.mark.long),
        pytest.param("amqp", True, id="amqp-late"),
        pytest.param("amqp", False, id="amqp-early"),
    ],
)

RENEWAL_S = 0.3
SLACK_S = 2.0
"""What a machine with much else to do may add to a time of the guarantee table; `tell` prints what it was.

A look that comes late is made sure of by another. Less than five seconds in all: what nobody was woken for takes those.
"""


class Killed(NamedTuple):
    """The kill of a worker."""

    at_mono: float
    begun: list[str]
    """What it had begun, and no outcome is stored of."""
    may_start_again: int
    """Of the messages that it had at most so many can start a second time."""


def done_mono(meta: TaskMeta) -> float:
    """Return when a task was done, on the clock of the record."""
    assert meta.date_done is not None
    return meta.date_done.timestamp() - time.time() + time.monotonic()


class Scene:
    """One broker with its sender, its workers and what their bodies have recorded."""

    def __init__(self, store: Store, *, record: Path, **settings: Any) -> None:
        """Take a place that the broker is to lie in; nothing is opened.

        Args:
            store: It.
            record: The file that the bodies write to.
            **settings: Of the sender and of all workers, over those of each test.
        """
        self.store = store
        self.url = store.url
        self.record = Record(record)
        settings = store.settings | settings
        self.app = AioTask("sender", **({"broker": self.url} | settings))
        self.workers: list[Worker] = []
        self.sent: list[str] = []
        self._settings = settings

    # Processes

    def launch(self, *options: str, **settings: Any) -> Worker:
        """Start `aiotask run` with these options and settings; it is not ready yet."""
        values = {"broker_url": self.url, "worker_lease": LEASE_S, "worker_lease_renewal": RENEWAL_S}
        values |= self._settings | settings
        environment = {f"AIOTASK_{name.upper()}": str(value) for name, value in values.items()}
        environment["FAULTS_RECORD"] = str(self.record.path)
        worker = Worker(start_worker("bodies", *options, cwd=HERE, env=environment, ready=False))
        self.workers.append(worker)
        return worker

    async def worker(self, *options: str, **settings: Any) -> Worker:
        """Start one worker process and wait until it is ready."""
        worker = self.launch(*options, **settings)
        await worker.ready()
        return worker

    async def frozen(self, *options: str, **settings: Any) -> Worker:
        """Start a worker, and freeze it: it is ready the moment that it is thawed, and takes nothing before.

        No wake-up either: it no longer waits for one.
        """
        worker = await self.worker(*options, **settings)
        await self.freeze(worker)
        self.store.end_waits()
        return worker

    async def freeze(self, worker: Worker) -> float:
        """Stop a worker by SIGSTOP; return the monotonic time.

        Never while it holds a file's lock, as nobody else could write until it is thawed.
        """
        while True:
            at = worker.send(signal.SIGSTOP)
            await until(lambda: state_of(worker.pid) == "T", "it is stopped")
            if not self.store.holds_up_others():
                return at
            worker.send(signal.SIGCONT)

    async def kill(self, worker: Worker) -> Killed:
        """End a worker by SIGKILL; return what there is to know of that."""
        unsettled = None
        if self.store.acknowledges_early:
            await self.freeze(worker)
            unsettled = self.store.unsettled(worker.pid)
        at = await worker.kill()
        begun = self.begun(worker.pid)
        return Killed(at, begun, len(begun) if unsettled is None else unsettled)

    async def close(self) -> None:
        """End every process that was started here, whatever the test has come to."""
        for worker in self.workers:
            worker.clean_up()
        await self.app.close()

    # Sending

    async def send(self, name: str, *args: Any, times: int = 1) -> list[str]:
        """Send a task so many times; return the ids."""
        ids: list[str] = []
        while len(ids) < times:
            some = min(1000, times - len(ids))
            results = await asyncio.gather(*(self.app.send_task(name, args) for _ in range(some)))
            ids += [result.id for result in results]
        self.sent += ids
        return ids

    # What there is

    async def depth(self) -> QueueDepth:
        """Count what the queue holds."""
        admin: Any = self.app.broker
        (depth,) = await admin.depths([QUEUE])
        return self.store.whole(depth)

    async def drained(self, within: float = PATIENCE_S) -> None:
        """Wait until nothing waits and nothing is handed out."""

        depth = QueueDepth(QUEUE)

        async def is_empty() -> bool:
            nonlocal depth
            depth = await self.depth()
            return depth.ready + depth.delayed + depth.reserved == 0

        try:
            await until(is_empty, "the queue is empty", within)
        except AssertionError as error:
            error.add_note(f"{depth}\n{self.workers[-1].said}")
            raise

    async def outcomes(self, ids: Iterable[str] | None = None) -> dict[str, TaskMeta]:
        """Return the final states that are stored."""
        wanted = list(self.sent if ids is None else ids)
        metas = await self.app.backend.fetch(wanted)
        return {meta.id: meta for meta in metas if meta is not None and meta.ready}

    async def all_done(self, ids: Iterable[str] | None = None, within: float = PATIENCE_S) -> dict[str, TaskMeta]:
        """Wait until each has a final state; return them."""
        wanted = list(self.sent if ids is None else ids)

        async def done() -> dict[str, TaskMeta] | None:
            outcomes = await self.outcomes(wanted)
            return outcomes if len(outcomes) == len(wanted) else None

        found: dict[str, TaskMeta] = await until(done, f"{len(wanted)} tasks are done", within)
        return found

    async def dead(self) -> dict[str, DeadLetter]:
        """Return the dead letters by task id."""
        admin: Any = self.app.broker
        return {letter.id: letter for letter in await admin.dead_letters(None, 100_000)}

    def begun(self, pid: int | None = None) -> list[str]:
        """Return the ids of what is begun and has no outcome, by process `pid` or by all: E, when it was killed."""
        return self.store.begun(pid)

    @staticmethod
    def now() -> float:
        """Return the time on the clock of the record."""
        return time.monotonic()

    def done_count(self) -> int:
        """Count the final states, the cheap way."""
        return self.store.done_count()

    def stored_outcomes(self) -> int:
        """Count how often a row was written to the results: the number of ids when each was written once."""
        return self.store.stored_outcomes()

    # Telling

    async def tell(self, title: str, *, begun: int | None = None, recovery: float | None = None, **more: Any) -> None:
        """Print the numbers of the guarantee table in one line."""
        outcomes = await self.outcomes()
        states = Counter(meta.state for meta in outcomes.values())
        figures: dict[str, Any] = {
            "sent": len(self.sent),
            "lost": len(self.sent) - len(outcomes),
            "started twice": self.record.started_twice(),
            "stored outcomes": self.stored_outcomes(),
            "of which": "/".join(f"{count} {state}" for state, count in sorted(states.items())) or "none",
            "dead letters": len(await self.dead()),
        }
        if begun is not None:
            figures["E"] = begun
        if recovery is not None:
            figures["recovery"] = f"{recovery:.2f} s"
        figures |= more
        print(f"\n{title}: {', '.join(f'{name} {value}' for name, value in figures.items())}", flush=True)
