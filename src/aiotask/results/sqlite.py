"""Results in a SQLite file, shared with a SQLite broker on the same link, so that both are written in one step.

Expired rows are removed in the link's thread about once a minute. What other processes store reaches a watcher within
about 30 ms, what this process stores right after its commit.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from sqlite3 import Connection
from typing import Any

from aiotask.connections.sqlite.link import SqliteLink
from aiotask.connections.sqlite.rows import (
    Row,
    changed_rows,
    changes_since,
    fetch_rows,
    forget_rows,
    last_change,
    store_rows,
    sweep_rows,
)
from aiotask.connections.translating import Translation
from aiotask.exceptions import BackendConnectionError, BackendError
from aiotask.outcome import TaskMeta
from aiotask.wire.rows import decode_meta, encode_meta

_ERRORS = Translation(BackendConnectionError, BackendError, BackendError)


class SqliteBackend:
    """A `ResultBackend` on a `SqliteLink`."""

    def __init__(self, link: SqliteLink) -> None:
        self.link = link
        self._open = False
        self._hubs: dict[asyncio.AbstractEventLoop, _Hub] = {}

    @property
    def connected(self) -> bool:
        """True while it is open and the file can be used."""
        return self._open and self.link.connected

    async def open(self) -> None:
        """Open the link.

        Raises:
            BackendConnectionError: The file can't be used; says which, why, and what to do.
        """
        if self._open:
            return
        self._open = True
        try:
            with self.link.translating(_ERRORS):
                await self.link.open()
        except BaseException:
            self._open = False
            raise
        self.link.add_chore(sweep_rows)

    async def close(self) -> None:
        """End what is watched, and close the link unless a broker still uses it."""
        if not self._open:
            return
        self._open = False
        for hub in self._hubs.values():
            self.link.unobserve(hub)
            hub.end()
        self._hubs.clear()
        await self.link.close()

    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        """See `ResultBackend`."""
        return Row(meta.id, meta.ready, encode_meta(meta), expires)

    async def store(self, rows: Sequence[Row]) -> None:
        """Store encoded rows, in one transaction.

        Raises:
            BackendError: Nothing is stored.

        Cost: one share in a commit.
        """
        with self.link.translating(_ERRORS):
            await self.link.run(partial(store_rows, rows=rows))

    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        """Return what is stored of each id.

        Raises:
            BackendError: The file can't be read.
            DecodeError: A row is no row of ours.

        Cost: one hand-over to the storage thread, a statement per 64 ids.
        """
        with self.link.translating(_ERRORS):
            rows = await self.link.run(partial(fetch_rows, ids=ids), writes=False)
        return [None if row is None else decode_meta(row) for row in rows]

    @asynccontextmanager
    async def watch(self, ids: Sequence[str]) -> AsyncIterator[AsyncIterator[TaskMeta]]:
        """Follow `ids`. An iterator whose backend is closed raises `BackendConnectionError`.

        Cost: one `fetch`; then nothing per change of an id that nobody watches.
        """
        loop = asyncio.get_running_loop()
        watcher = _Watcher(loop)
        with self.link.translating(_ERRORS):
            hub = self._hubs.get(loop)
            if hub is None:
                hub = _Hub(loop)
                self.link.observe(hub)
                self._hubs[loop] = hub
        hub.add(watcher, ids)
        try:
            with self.link.translating(_ERRORS):
                present = await self.link.run(partial(hub.read_present, ids=ids), writes=False)
            for task_id, row in zip(ids, present, strict=True):
                if row is not None:
                    watcher.begin_with(task_id, row)
            yield watcher
        finally:
            watcher.stop()
            hub.remove(watcher, ids)
            if hub.empty and self._hubs.get(loop) is hub:
                self.link.unobserve(hub)
                del self._hubs[loop]

    async def forget(self, ids: Sequence[str]) -> int:
        """Remove what is stored of `ids`; return how many there were."""
        with self.link.translating(_ERRORS):
            return await self.link.run(partial(forget_rows, ids=ids))


class _Watcher:
    """One `watch`: of each id the last row that its reader has not seen, so that a slow reader costs no memory."""

    __slots__ = ("_failed", "_loop", "_order", "_read", "_stopped", "_unread", "_waiter")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unread: dict[str, bytes] = {}
        self._order: deque[str] = deque()
        self._read: dict[str, bytes] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._stopped = False
        self._failed = False

    def begin_with(self, task_id: str, row: bytes) -> None:
        """Take what was stored when watching began, unless a change has come since."""
        if task_id not in self._unread and task_id not in self._read:
            self.push(task_id, row)

    def push(self, task_id: str, row: bytes) -> None:
        """Take a change."""
        if task_id not in self._unread:
            self._order.append(task_id)
        self._unread[task_id] = row
        self._wake()

    def stop(self) -> None:
        """End the iteration: the reader has left the `async with`."""
        self._stopped = True
        self._wake()

    def fail(self) -> None:
        """End the iteration with an error, once what came before is read."""
        self._failed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> "_Watcher":
        return self

    async def __anext__(self) -> TaskMeta:
        while not self._stopped:
            while self._order:
                task_id = self._order.popleft()
                row = self._unread.pop(task_id)
                if self._read.get(task_id) != row:  # an idempotent repeat is no change
                    self._read[task_id] = row
                    return decode_meta(row)
            if self._failed:
                raise BackendConnectionError("The result backend was closed while a result was waited for.")
            self._waiter = self._loop.create_future()
            await self._waiter
        raise StopAsyncIteration


class _Hub:
    """All watchers of one event loop; reads each change of the file once for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._watchers: dict[str, tuple[_Watcher, ...]] = {}
        self._seen: int | None = None

    @property
    def empty(self) -> bool:
        """True when nobody watches."""
        return not self._watchers

    def add(self, watcher: _Watcher, ids: Sequence[str]) -> None:
        """Send `watcher` the changes of `ids`."""
        for task_id in dict.fromkeys(ids):
            self._watchers[task_id] = (*self._watchers.get(task_id, ()), watcher)

    def remove(self, watcher: _Watcher, ids: Sequence[str]) -> None:
        """Send `watcher` nothing more."""
        for task_id in dict.fromkeys(ids):
            left = tuple(other for other in self._watchers.get(task_id, ()) if other is not watcher)
            if left:
                self._watchers[task_id] = left
            else:
                self._watchers.pop(task_id, None)

    def end(self) -> None:
        """Let every watcher know that nothing more will come."""
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fail()

    def read_present(self, connection: Connection, ids: Sequence[str]) -> list[bytes | None]:
        """Return what is stored of `ids`; later changes are shown to `look`. In the storage thread."""
        if self._seen is None:
            self._seen = last_change(connection)
        return fetch_rows(connection, ids)

    def look(self, connection: Connection) -> Callable[[], None] | None:
        """Read what has changed; return what shows it to the watchers. In the storage thread."""
        if self._seen is None:
            return None
        last, changes = changes_since(connection, self._seen)
        if last < self._seen:  # the file is another one by now, and counts from its own beginning
            last, changes = changes_since(connection, 0)
        wanted = [change for change in changes if change[1] in self._watchers]
        rows = changed_rows(connection, [seq for seq, _ in wanted])
        self._seen = last  # only now: an error before makes the next look repeat this one
        if not wanted:
            return None
        return partial(self._push, [(task_id, row) for (_, task_id), row in zip(wanted, rows, strict=True)])

    def _push(self, rows: list[tuple[str, Any]]) -> None:
        for task_id, row in rows:
            if row is not None:  # changed again: the next look has it
                for watcher in self._watchers.get(task_id, ()):
                    watcher.push(task_id, row)
