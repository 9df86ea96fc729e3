"""The one thread of a link that talks to the file: group commit, and telling who waits that something has changed.

Steps that wait are run together in one transaction, whose commit answers all of them. A step costs few statements
however long its batch: each statement gives up the interpreter lock and has to get it back, up to 5 ms when the event
loop is busy.
"""

import asyncio
import concurrent.futures
import contextlib
import logging
import math
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from aiotask.connections.sqlite.database import identity, open_database, patiently, primary_code

T = TypeVar("T")
Step = Callable[[sqlite3.Connection], T]
"""Work on the file. It may be run again after a rollback, so it changes nothing but the file."""

POLL_S: Final = 0.025
"""How often the changes of other processes are looked for while somebody waits for one."""
CHORE_S: Final = 60.0
CLOSE_S: Final = 1.0
"""How long what was submitted before a closing may still wait for another process's lock."""
_CHECK_FILE_S: Final = 1.0
_REOPEN_S: Final = 0.5
_BROKEN: Final = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Errors after which the file is opened anew."""

_log = logging.getLogger(__name__)


class LinkClosed(Exception):  # noqa: N818 - says what the link is
    """The link is not open."""


class Observer(Protocol):
    """Somebody who waits for a change of the file."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where what `look` returns is to be called."""

    def look(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        """Read, in the storage thread, what has changed; return what to call in the loop, or None."""


class _Watch:
    """An observer, and when it may look again."""

    __slots__ = ("every_s", "missed", "next_mono", "observer")

    def __init__(self, observer: Observer, every_s: float) -> None:
        self.observer = observer
        self.every_s = every_s
        self.missed = False
        """Whether something has changed that it has not looked at."""
        self.next_mono = 0.0


class Job(Generic[T]):
    """A step on its way through the storage thread.

    Attributes:
        step: What to run.
        probe: Reads whether `step` has anything to do; what it returns, unless None, is the result in its stead, and
            no write lock was taken.
        writes: False for a step that only reads.
        durable: False when a power failure may undo it: its commit does not wait for the disk.
        undo: Takes back, in the loop, what a cancelled caller will never see.
        future: What the caller waits for.
    """

    __slots__ = ("durable", "future", "probe", "step", "undo", "writes")

    def __init__(
        self,
        step: Step[T],
        future: "asyncio.Future[T] | concurrent.futures.Future[T]",
        *,
        probe: Step[T | None] | None = None,
        writes: bool = True,
        durable: bool = True,
        undo: Callable[[T], None] | None = None,
    ) -> None:
        self.step = step
        self.future = future
        self.probe = probe
        self.writes = writes
        self.durable = durable
        self.undo = undo

    def answer(self, result: T) -> None:
        """Give the caller its result; in the caller's loop, if it has one."""
        if not self.future.done():
            self.future.set_result(result)
        elif self.undo is not None and self.future.cancelled():
            self.undo(result)

    def fail(self, error: BaseException) -> None:
        """Give the caller an error; in the caller's loop, if it has one."""
        if not self.future.done():
            self.future.set_exception(error)


class Storage:
    """The thread and its connection, from an opening of the link to its closing."""

    def __init__(self, path: str, synchronous: str) -> None:
        self.healthy = True
        self._path = path
        self._synchronous = synchronous
        self._durable_now = True
        self._jobs: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._close_by_mono = math.inf
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None
        self._version = 0
        self._file_checked = 0.0
        self._polled = 0.0
        self._next_chore = time.monotonic() + CHORE_S * random.uniform(0.1, 1.0)  # noqa: S311 - spreads processes
        self._watches: tuple[_Watch, ...] = ()
        self._poll_s = POLL_S
        self._chores: tuple[Step[bool], ...] = ()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        threading.Thread(target=self._run, name=f"aiotask-sqlite {path}", daemon=True).start()

    def submit(self, job: Job[Any]) -> None:
        """Hand a job over; it is answered after the commit of the transaction that held it.

        Raises:
            LinkClosed: The thread has ended, or belongs to the process that this one was forked from.
        """
        if os.getpid() != self._pid:
            raise LinkClosed(
                f"The SQLite file {self._path} was opened before a fork, which it can't be used across. "
                "Open the app in the new process, or start processes by spawn."
            )
        with self._lock:
            if self._closed:
                raise LinkClosed(f"The SQLite file {self._path} is not open. Open the app first.")
            self._jobs.put(job)

    def observe(self, observer: Observer, every_s: float = 0.0) -> None:
        """Let `observer` look after each change from now on, not again within `every_s` seconds."""
        with self._lock:
            self._set_watches([*self._watches, _Watch(observer, every_s)])
            self._jobs.put(_no_job())  # the thread may sleep long, having had nobody to look for

    def unobserve(self, observer: Observer) -> None:
        """Let `observer` look no more. Idempotent."""
        with self._lock:
            self._set_watches([watch for watch in self._watches if watch.observer is not observer])

    def _set_watches(self, watches: Sequence[_Watch]) -> None:
        self._watches = tuple(watches)
        # Nobody wants to know sooner: a worker that is busy has the thread wake for nothing but its work.
        self._poll_s = max(POLL_S, min((watch.every_s for watch in watches), default=POLL_S))

    def add_chore(self, chore: Step[bool]) -> None:
        """Run `chore` about once a minute, and at once again while it returns True."""
        with self._lock:
            if chore not in self._chores:
                self._chores = (*self._chores, chore)

    def remove_chore(self, chore: Step[bool]) -> None:
        """Run `chore` no more. Idempotent."""
        with self._lock:
            self._chores = tuple(other for other in self._chores if other != chore)

    def close(self) -> None:
        """Let the thread end after the jobs that were submitted; `ended` is resolved then. Idempotent.

        Those that wait for another process's lock fail after `CLOSE_S`.
        """
        with self._lock:
            if not self._closed:
                self._closed = True
                self._close_by_mono = time.monotonic() + CLOSE_S
                self._jobs.put(None)

    # ---- in the thread ----

    def _run(self) -> None:
        closing = False
        while not closing:
            jobs, closing = self._take()
            out = _Outbox()
            try:
                self._serve(jobs, out)
            except Exception as error:  # noqa: BLE001 - without this thread every caller would wait for ever
                _log.exception("The storage thread of %s goes on after an error of its own", self._path)
                for job in jobs:  # those that are answered already take no notice
                    out.fail(job, error)
            for loop in out.send():
                self._forget_loop(loop)
            del jobs, out  # no results are held while the thread sleeps
        self._drop_connection()
        self.ended.set_result(None)

    def _take(self) -> tuple[list[Job[Any]], bool]:
        """Wait for a job, or for the time to look or to tidy up; return all that are there."""
        now = time.monotonic()
        wake_at = self._next_chore
        if self._watches:
            wake_at = min(wake_at, self._polled + self._poll_s)
        taken: list[Job[Any]] = []
        try:
            job = self._jobs.get(timeout=max(0.0, wake_at - now))
            while job is not None:
                taken.append(job)
                job = self._jobs.get_nowait()
        except queue.Empty:
            return taken, False
        return taken, True

    def _serve(self, jobs: list[Job[Any]], out: "_Outbox") -> None:
        try:
            connection = self._open_connection()
        except Exception as error:  # noqa: BLE001 - it is the callers' error
            self.healthy = False
            again = time.monotonic() + _REOPEN_S
            self._polled = again - self._poll_s
            self._next_chore = max(self._next_chore, again)  # else a chore that is due makes this a busy loop
            for job in jobs:
                out.fail(job, error)
            return
        if time.monotonic() >= self._next_chore:
            jobs = [*jobs, *map(self._as_job, self._chores)]
            self._next_chore = time.monotonic() + CHORE_S * random.uniform(0.8, 1.2)  # noqa: S311 - spreads processes
        writes = [job for job in jobs if not self._read(connection, job, out)]
        committed = bool(writes) and self._commit(connection, writes, out)
        if self._watches:
            self._tell(connection, out, changed=self._changed_elsewhere(connection) or committed)
        if not self.healthy:
            self._drop_connection()

    def _read(self, connection: sqlite3.Connection, job: Job[Any], out: "_Outbox") -> bool:
        """Answer a job that needs no write lock; return False when it needs one."""
        if job.future.cancelled():
            return True
        try:
            if not job.writes:
                out.answer(job, self._patiently(partial(job.step, connection)))
                return True
            if job.probe is not None:
                found = self._patiently(partial(job.probe, connection))
                if found is not None:
                    out.answer(job, found)
                    return True
        except Exception as error:  # noqa: BLE001 - it is the caller's error
            self._note(error)
            out.fail(job, error)
            return True
        return False

    def _commit(self, connection: sqlite3.Connection, jobs: list[Job[Any]], out: "_Outbox") -> bool:
        """Run `jobs` in one transaction, or each in its own when one of them fails; return whether any is stored."""
        try:
            self._begin(connection, durable=any(job.durable for job in jobs))
        except Exception as error:  # noqa: BLE001 - it is the callers' error
            self._note(error)
            for job in jobs:
                out.fail(job, error)
            return False
        try:
            results = [job.step(connection) for job in jobs]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - it is the callers' error
            self._note(error)
            if connection.in_transaction:  # SQLite ends it by itself after some errors
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if len(jobs) == 1:
                out.fail(jobs[0], error)
                return False
            # One job's error must not be the others'; whose it was shows when each runs alone.
            stored = 0
            for job in jobs:
                stored += self._commit(connection, [job], out)
            return stored > 0
        self.healthy = True
        for job, result in zip(jobs, results, strict=True):
            out.answer(job, result)
        return True

    def _begin(self, connection: sqlite3.Connection, *, durable: bool) -> None:
        if durable is not self._durable_now:
            # In WAL mode NORMAL commits without waiting for the disk; the next FULL one syncs what came before it.
            connection.execute(f"PRAGMA synchronous={self._synchronous if durable else 'NORMAL'}")
            self._durable_now = durable
        self._patiently(partial(connection.execute, "BEGIN IMMEDIATE"))

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(call, lambda: time.monotonic() > self._close_by_mono)

    def _changed_elsewhere(self, connection: sqlite3.Connection) -> bool:
        now = time.monotonic()
        if now - self._polled < self._poll_s:
            return False
        self._polled = now
        try:
            (version,) = self._patiently(lambda: connection.execute("PRAGMA data_version").fetchone())
        except sqlite3.Error as error:
            self._note(error)
            return False
        changed = bool(version != self._version)
        self._version = version
        return changed

    def _tell(self, connection: sqlite3.Connection, out: "_Outbox", *, changed: bool) -> None:
        now = time.monotonic()
        for watch in self._watches:
            watch.missed = watch.missed or changed
            if not watch.missed or now < watch.next_mono:
                continue
            watch.missed = False
            watch.next_mono = now + watch.every_s
            observer = watch.observer
            try:
                call = self._patiently(partial(observer.look, connection))
            except sqlite3.Error as error:
                self._note(error)
                continue
            if call is not None:
                out.add(observer.loop, call)

    def _as_job(self, chore: Step[bool]) -> Job[Any]:
        def step(connection: sqlite3.Connection) -> None:
            if chore(connection):
                self._next_chore = time.monotonic() + 2 * POLL_S  # there is more

        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        done.add_done_callback(self._log_chore)
        return Job(step, done)

    def _log_chore(self, done: "concurrent.futures.Future[None]") -> None:
        error = done.exception()
        if error is not None:
            _log.warning("Tidying up %s failed, it is repeated in a minute: %s", self._path, error)

    def _forget_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._set_watches([watch for watch in self._watches if watch.observer.loop is not loop])

    def _note(self, error: BaseException) -> None:
        if primary_code(error) in _BROKEN:
            self.healthy = False

    def _open_connection(self) -> sqlite3.Connection:
        """Return the connection, opened anew where it broke, or where the file was deleted or replaced."""
        now = time.monotonic()
        if self._connection is not None:
            if now - self._file_checked < _CHECK_FILE_S:
                return self._connection
            self._file_checked = now
            if identity(self._path) == self._identity:
                return self._connection
            _log.warning("The SQLite file %s was deleted or replaced; opening it anew", self._path)
            self._drop_connection()
        connection = self._connection = open_database(self._path, self._synchronous)
        self._identity = identity(self._path)
        self._file_checked = now
        self._durable_now = True
        self._version = 0
        self.healthy = True
        return connection

    def _drop_connection(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None


class _Outbox:
    """Answers of one transaction, sent with one wake-up for each event loop."""

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}

    def add(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._calls.setdefault(loop, []).append(call)

    def answer(self, job: Job[Any], result: Any) -> None:
        self._settle(job, lambda: job.answer(result))

    def fail(self, job: Job[Any], error: BaseException) -> None:
        self._settle(job, lambda: job.fail(error))

    def _settle(self, job: Job[Any], call: Callable[[], None]) -> None:
        if isinstance(job.future, asyncio.Future):
            self.add(job.future.get_loop(), call)
        else:
            call()

    def send(self) -> list[asyncio.AbstractEventLoop]:
        """Send; return the loops that are closed by now."""
        closed = []
        for loop, calls in self._calls.items():
            try:
                loop.call_soon_threadsafe(_call_all, calls)
            except RuntimeError:
                closed.append(loop)
        return closed


def _call_all(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _nothing(_connection: sqlite3.Connection) -> None:
    return None


def _no_job() -> Job[None]:
    return Job(_nothing, concurrent.futures.Future(), writes=False)
