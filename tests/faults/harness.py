"""What the fault tests share: a SQLite file, worker processes on it, a sender, and the counts of the guarantee table.

Nothing in here waits for time: everything waits for a condition, with a deadline that is far from what is usual.
"""

import asyncio
import inspect
import os
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE_S, READY, WorkerProcess, start_worker

from aiotask import AioTask
from aiotask.message import DeadLetter, QueueDepth
from aiotask.outcome import TaskMeta

HERE = Path(__file__).parent
QUEUE = "default"

LEASE_S = 1.5
RENEWAL_S = 0.3
SCAN_S = LEASE_S / 4
"""Lapsed leases are looked for so often (docs/guarantees.md)."""
SLACK_S = 0.5
"""What a loaded machine may add to a time of the guarantee table."""

_POLL_S = 0.01


async def until(condition: Callable[[], Any], what: str, within: float = PATIENCE_S) -> Any:
    """Wait until `condition`, plain or async, returns something true, and return that."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(_POLL_S)


@dataclass(frozen=True)
class Event:
    """One line of the record that the bodies keep."""

    kind: str
    task_id: str
    delivery_count: int
    pid: int
    at_mono: float


class Record:
    """What the bodies have recorded so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """Return every event, in the order of the file."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                lines = file.read().splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                kind, task_id, count, pid, at = line.decode().split()
                self._events.append(Event(kind, task_id, int(count), int(pid), float(at)))
        return self._events

    def starts(self, task_id: str | None = None) -> list[Event]:
        """Return the starts, of one task or of all."""
        return [e for e in self.events() if e.kind == "start" and (task_id is None or e.task_id == task_id)]

    def ends(self) -> list[Event]:
        """Return the ends of bodies that ran to their last line."""
        return [e for e in self.events() if e.kind == "end"]

    def started_twice(self) -> int:
        """Count the starts beyond the first of each task."""
        starts = self.starts()
        return len(starts) - len({e.task_id for e in starts})


class Worker:
    """An `aiotask run` process, or a supervisor of several, that is waited for without blocking the event loop."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self.pid = process.pid
        self._seen_children: set[int] = set()

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._process.running else self._process.wait()

    @property
    def said(self) -> str:
        """What it and its children have written so far."""
        return self._process.output

    async def ready(self, count: int = 1) -> None:
        """Wait until so many workers in it have said, in all, that they are ready."""

        def answered() -> bool:
            assert self._process.running, f"the worker ended with {self.code}:\n{self.said}"
            return len(re.findall(READY, self.said)) >= count

        await until(answered, f"{count} workers are ready")
        self.children()

    def children(self) -> list[int]:
        """Return the process ids of a supervisor's children that run now."""
        found = [pid for pid in self._process.children() if is_alive(pid)]
        self._seen_children.update(found)
        return found

    def thaw(self) -> float:
        """Let it go on after a SIGSTOP; return the monotonic time just before."""
        return self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> float:
        """Send a signal; return the monotonic time just before."""
        now = time.monotonic()
        self._process.send(number)
        return now

    async def ended(self, within: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit code."""
        try:
            await until(lambda: not self._process.running, "the worker has ended", within)
        except AssertionError as error:
            error.add_note(self.said)
            raise
        code = self.code
        assert code is not None
        return code

    async def kill(self) -> float:
        """End it by SIGKILL, and wait until it is gone; return the monotonic time of the kill."""
        at = self.send(signal.SIGKILL)
        await self.ended()
        return at

    def clean_up(self) -> None:
        """Make sure that nothing of it is left, children of a supervisor that was killed included."""
        self.children()
        for pid in self._seen_children:
            if is_alive(pid) and b"aiotask" in _command_line(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.__exit__(None, None, None)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process that has not ended."""
    return state_of(pid) not in {"Z", "X"}


def state_of(pid: int) -> str:
    """Return the state of a process as the kernel calls it: R, S, T for stopped; X when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def done_mono(meta: TaskMeta) -> float:
    """Return when a task was done, on the clock of the record."""
    assert meta.date_done is not None
    return meta.date_done.timestamp() - time.time() + time.monotonic()


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


class Scene:
    """One file with its sender, its workers and what their bodies have recorded."""

    def __init__(self, folder: Path, *, record: Path) -> None:
        self.path = folder / "aiotask.db"
        self.url = f"sqlite:///{self.path}"
        self.record = Record(record)
        self.app = AioTask("sender", broker=self.url)
        self.workers: list[Worker] = []
        self.sent: list[str] = []
        self._file: sqlite3.Connection | None = None

    # Processes

    def launch(self, *options: str, **settings: Any) -> Worker:
        """Start `aiotask run` with these options and settings; it is not ready yet."""
        values = {"broker_url": self.url, "worker_lease": LEASE_S, "worker_lease_renewal": RENEWAL_S, **settings}
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
        """Start a worker, and freeze it: it is ready the moment that it is thawed, and takes nothing before."""
        worker = await self.worker(*options, **settings)
        await self.freeze(worker)
        return worker

    async def freeze(self, worker: Worker) -> float:
        """Stop a worker by SIGSTOP; return the monotonic time.

        Never while it holds the file's lock, as nobody else could write until it is thawed.
        """
        while True:
            at = worker.send(signal.SIGSTOP)
            await until(lambda: state_of(worker.pid) == "T", "it is stopped")
            if self._lock_is_free():
                return at
            worker.send(signal.SIGCONT)

    def _lock_is_free(self) -> bool:
        with closing(sqlite3.connect(self.path, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
            return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file's lock, as another process would."""
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=10)) as locking:
            locking.execute("BEGIN EXCLUSIVE")
            yield
            locking.execute("ROLLBACK")

    async def close(self) -> None:
        """End every process that was started here, whatever the test has come to."""
        for worker in self.workers:
            worker.clean_up()
        if self._file is not None:
            self._file.close()
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
        return depth  # type: ignore[no-any-return]

    async def drained(self, within: float = PATIENCE_S) -> None:
        """Wait until nothing waits and nothing is handed out."""

        async def is_empty() -> bool:
            depth = await self.depth()
            return depth.ready + depth.delayed + depth.reserved == 0

        await until(is_empty, "the queue is empty", within)

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
        rows = self.query(
            "SELECT id FROM aiotask_leases AS l JOIN aiotask_messages AS m ON m.seq = l.seq "
            "WHERE started AND consumer LIKE ?",
            "%" if pid is None else f"%-{pid}-%",
        )
        return [row[0] for row in rows]

    @staticmethod
    def now() -> float:
        """Return the time on the clock of the record."""
        return time.monotonic()

    def done_count(self) -> int:
        """Count the final states, the cheap way."""
        return int(self.query("SELECT count(*) FROM aiotask_results WHERE final")[0][0])

    def stored_outcomes(self) -> int:
        """Count how often a row was written to the results: the number of ids when each was written once."""
        rows = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'aiotask_results'")
        return int(rows[0][0]) if rows else 0

    def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Read the file, through a connection that reads only."""
        if self._file is None:
            self._file = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10, isolation_level=None)
        return self._file.execute(sql, arguments).fetchall()

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
