"""The link to one SQLite file: what a broker and a result backend open, submit their steps to, and close."""

import asyncio
import concurrent.futures
import os
import sqlite3
import threading
from collections.abc import Callable
from typing import Literal, TypeVar

from aiotask.connections.sqlite.database import BUSY_TIMEOUT_S, FileRefused, primary_code
from aiotask.connections.sqlite.storage import Job, LinkClosed, Observer, Step, Storage
from aiotask.connections.translating import Translating, Translation

T = TypeVar("T")


class SqliteLink:
    """One storage thread for one file, shared by all that open it. Not to be used across a fork.

    Its methods are called in an event loop, any loop, unless they say otherwise. An open link does not keep the process
    from ending.
    """

    def __init__(self, path: str | os.PathLike[str], *, synchronous: Literal["FULL", "NORMAL"] = "FULL") -> None:
        """Name the file. No I/O.

        Args:
            path: Of the file; a relative one is of the current folder as it is now.
            synchronous: `FULL`: what is confirmed survives a power failure. `NORMAL`: it survives the process, and a
                power failure may take back the last commits, as a whole.
        """
        if synchronous not in {"FULL", "NORMAL"}:
            raise ValueError(f"synchronous is FULL or NORMAL, not {synchronous!r}")
        self.path = os.path.abspath(os.fspath(path))
        self._synchronous = synchronous
        self._lock = threading.Lock()
        self._users = 0
        self._storage: Storage | None = None

    @property
    def connected(self) -> bool:
        """True while the link is open and its last use of the file did not fail for the file's sake."""
        storage = self._storage
        return storage is not None and storage.healthy

    async def open(self) -> None:
        """Open the file, or share it when it is open.

        Raises:
            FileRefused: The file can't be used.

        Cost: a few milliseconds the first time.
        """
        with self._lock:
            self._users += 1
            if self._storage is None:
                self._storage = Storage(self.path, self._synchronous)
        try:
            await self.run(_nothing, writes=False)
        except BaseException:
            self._leave()
            raise

    async def close(self) -> None:
        """Give up one opening; the last one closes the file, after what was submitted."""
        storage = self._leave()
        if storage is not None:
            await asyncio.shield(asyncio.wrap_future(storage.ended))

    def run(
        self,
        step: Step[T],
        *,
        probe: Step[T | None] | None = None,
        writes: bool = True,
        durable: bool = True,
        undo: Callable[[T], None] | None = None,
    ) -> "asyncio.Future[T]":
        """Run `step` in the storage thread; see `Job` for the arguments.

        The future raises what `step` raises, and sqlite3's errors and `FileRefused`. A step whose future is cancelled
        before it ran is left out.

        Raises:
            LinkClosed: The link is not open.

        Cost: one hand-over to the thread and back, and a share in one commit (one wait for the disk).
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._opened().submit(Job(step, future, probe=probe, writes=writes, durable=durable, undo=undo))
        return future

    def call(self, step: Step[T], *, timeout: float, durable: bool = True) -> T:
        """Run `step` as `run` does, from a thread without a loop.

        Raises:
            TimeoutError: It was not done within `timeout` seconds; it may still be.
            LinkClosed: The link is not open.
        """
        future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._opened().submit(Job(step, future, durable=durable))
        return future.result(timeout)

    def observe(self, observer: Observer, *, every_s: float = 0.0) -> None:
        """Let `observer` look after each commit, here or by another process, until `unobserve`.

        What was committed before this call is not shown to it: observe first, then read.

        Args:
            observer: Who looks.
            every_s: So many seconds lie between two looks of it at least; what was committed meanwhile is seen then.
        """
        self._opened().observe(observer, every_s)

    def unobserve(self, observer: Observer) -> None:
        """Let `observer` look no more. Idempotent."""
        storage = self._storage
        if storage is not None:
            storage.unobserve(observer)

    def add_chore(self, chore: Step[bool]) -> None:
        """Run `chore` about once a minute until the link closes, and at once again while it returns True."""
        self._opened().add_chore(chore)

    def remove_chore(self, chore: Step[bool]) -> None:
        """Run `chore` no more. Idempotent."""
        storage = self._storage
        if storage is not None:
            storage.remove_chore(chore)

    def translating(self, translation: Translation) -> Translating:
        """Raise the adapter's errors for those of the link and of SQLite."""
        return Translating(str(self.path), translation, _translated)

    def _opened(self) -> Storage:
        storage = self._storage
        if storage is None:
            raise LinkClosed(f"The SQLite file {self.path} is not open. Open the app first.")
        return storage

    def _leave(self) -> Storage | None:
        """Count one user less; return the storage if that was the last, ending."""
        with self._lock:
            self._users -= 1
            if self._users:
                return None
            storage, self._storage = self._storage, None
        if storage is not None:
            storage.close()
        return storage


def _nothing(_connection: sqlite3.Connection) -> None:
    return None


def _translated(path: str, translation: Translation, error: BaseException) -> Exception | None:
    if isinstance(error, (FileRefused, LinkClosed)):
        return translation.connection(str(error))
    if not isinstance(error, sqlite3.Error):
        return None
    match primary_code(error):
        case sqlite3.SQLITE_FULL:
            return translation.full(
                f"There is no room for the SQLite file {path} ({error}); nothing was stored. Free space on its disk."
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return translation.other(
                f"The SQLite file {path} is locked: another process has been writing to it for {BUSY_TIMEOUT_S:g} s."
            )
        case _:
            return translation.other(f"The SQLite file {path} failed: {error}")
