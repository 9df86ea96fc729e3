"""The result backend that lives in this process: rows are encoded as everywhere, and pushed to who watches."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType

from aiotask.connections.memory import MemoryLink, Row, RowStore, wake
from aiotask.exceptions import BackendConnectionError, BackendError
from aiotask.outcome import TaskMeta
from aiotask.states import READY_STATES
from aiotask.wire.rows import decode_meta, encode_meta


class MemoryBackend:
    """A `ResultBackend` on a `MemoryLink`."""

    def __init__(self, link: MemoryLink) -> None:
        self.link = link
        self._rows = link.rows
        self._watches: set[MemoryWatch] = set()
        self._open = False

    @property
    def connected(self) -> bool:
        """True while it is open."""
        return self._open

    async def open(self) -> None:
        """Never fails."""
        self._open = True

    async def close(self) -> None:
        """End what is watched. Every row is kept: they are the link's."""
        self._open = False
        fail_watches(self._watches)

    def _must_be_open(self) -> None:
        if not self._open:
            raise BackendConnectionError("The memory backend is not open; call open() first.")

    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        """See `ResultBackend`; the time of expiry counts from here."""
        expires_at = None if expires is None else self.link.clock() + expires
        return Row(meta.id, encode_meta(meta), meta.state in READY_STATES, expires_at)

    async def store(self, rows: Sequence[Row]) -> None:
        """Store encoded rows.

        Raises:
            BackendConnectionError: It is not open.
        """
        self._must_be_open()
        self._rows.store(rows)

    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        """Return what is stored.

        Raises:
            BackendConnectionError: It is not open.
        """
        self._must_be_open()
        return [None if row is None else decode_meta(row.data) for row in self._rows.fetch(ids)]

    def watch(self, ids: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[TaskMeta]]:
        """Follow `ids`: pushed, and decoded only when the reader gets there.

        Raises:
            BackendConnectionError: It is not open; or, from the iterator, it was closed.
        """
        self._must_be_open()
        return MemoryWatch(self._rows, ids, self._watches)

    async def forget(self, ids: Sequence[str]) -> int:
        """Remove what is stored.

        Raises:
            BackendConnectionError: It is not open.
        """
        self._must_be_open()
        return self._rows.forget(ids)


class MemoryWatch(AbstractAsyncContextManager[AsyncIterator[TaskMeta]], AsyncIterator[TaskMeta]):
    """One reader's rows that it has not seen: of each id the last one only, so a slow reader costs no memory."""

    def __init__(self, rows: RowStore, ids: Sequence[str], watches: "set[MemoryWatch]") -> None:
        """Take what to watch. No I/O.

        Args:
            rows: Where the rows lie.
            ids: Of which tasks.
            watches: Those of the backend: this is among them for as long as it is open.
        """
        self._rows = rows
        self._watches = watches
        self._ids = tuple(dict.fromkeys(ids))
        self._unread: dict[str, Row] = {}
        self._order: deque[str] = deque()
        self._read: dict[str, bytes] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BackendError | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncIterator[TaskMeta]:
        self._watches.add(self)
        self._rows.add_watcher(self._ids, self._push)
        for row in self._rows.fetch(self._ids):
            if row is not None:
                self._push(row)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._watches.discard(self)
        self._rows.remove_watcher(self._ids, self._push)
        self._closed = True
        self._wake()

    def fail(self, failure: BackendError) -> None:
        """End the iteration with an error, once what came before is read."""
        self._failure = failure
        self._wake()

    def _push(self, row: Row) -> None:
        if row.id not in self._unread:
            self._order.append(row.id)
        self._unread[row.id] = row
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None:
            wake(self._waiter)

    async def __anext__(self) -> TaskMeta:
        while not self._closed:
            while self._order:
                id_ = self._order.popleft()
                data = self._unread.pop(id_).data
                if self._read.get(id_) != data:  # an idempotent repeat is no change
                    self._read[id_] = data
                    return decode_meta(data)
            if self._failure is not None:
                raise type(self._failure)(str(self._failure)) from self._failure
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                if not (self._order or self._failure):  # else another thread has pushed before there was one to wake
                    await self._waiter
            finally:
                self._waiter = None
        raise StopAsyncIteration


def fail_watches(watches: "set[MemoryWatch]") -> None:
    """Let every reader know that nothing more will come: its backend is closed."""
    while watches:
        watches.pop().fail(BackendConnectionError("The result backend was closed while a result was waited for."))
