"""The result backend on Redis. It may share its link with a Redis broker, which then stores rows with its settlements.

Keys, channels and rows are Celery's, so that clients of either make read what workers of either make have stored.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager

from aiotask.connections.redis import RedisLink
from aiotask.connections.redis.rows import STORE_ROWS, RedisRow, row_key
from aiotask.exceptions import BackendConnectionError
from aiotask.outcome import TaskMeta
from aiotask.results.redis.reading import ERRORS, decode_row, read_rows
from aiotask.results.redis.watching import Hub, Watch
from aiotask.wire.rows import encode_meta


class RedisBackend:
    """A `ResultBackend` on a `RedisLink`."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        link.holds_results = True
        self._open = False
        self._hub: Hub | None = None

    @property
    def connected(self) -> bool:
        """True while it is open and there is a connection."""
        return self._open and self.link.connected

    async def open(self) -> None:
        """Open the link.

        Raises:
            BackendConnectionError: There is no Redis that can be used; says which, why, and what to do.
        """
        if self._open:
            return
        with self.link.translating(ERRORS):
            await self.link.open()
        self._open = True

    async def close(self) -> None:
        """End what is watched, and close the link unless a broker still uses it."""
        if not self._open:
            return
        self._open = False
        hub, self._hub = self._hub, None
        if hub is not None:
            await hub.close()
        await self.link.close()

    def encode(self, meta: TaskMeta, expires: float | None) -> RedisRow:
        """See `ResultBackend`; the time of expiry counts from the storing."""
        expires_ms = None if expires is None else max(1, math.ceil(expires * 1000))
        return RedisRow(row_key(meta.id), encode_meta(meta), meta.ready, expires_ms)

    async def store(self, rows: Sequence[RedisRow]) -> None:
        """Store encoded rows, as one step, and publish them.

        Raises:
            BackendConnectionError: There is no connection, or it was lost.
            BackendError: The server refuses it, or is full.
        """
        keys: list[str] = []
        args: list[bytes | int | str] = []
        for row in rows:
            keys.append(row.key)
            args.append(row.data)
            args.append("" if row.expires_ms is None else row.expires_ms)
        with self.link.translating(ERRORS):
            await self.link.run(STORE_ROWS, keys, args)

    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        """Return what is stored of each id.

        Raises:
            BackendConnectionError: There was no connection for as long as a command may take.
            BackendError: The server's answer.
            DecodeError: A row is neither ours nor Celery's; names its key.
        """
        keys = [row_key(task_id) for task_id in ids]
        rows = await read_rows(self.link, keys)
        return [None if row is None else decode_row(self.link, key, row) for key, row in zip(keys, rows, strict=True)]

    def watch(self, ids: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[TaskMeta]]:
        """Follow `ids`.

        Its iterator raises `BackendConnectionError` when it has read nothing for as long as a command may take since
        there is no connection, and when the backend is closed; once it has begun it outlives whatever the server does.
        A row that is none raises `DecodeError`; the iterator can be read on.

        Cost: one round trip to subscribe and one to read, which all share who begin in the same iteration of the loop;
        then nothing but what is published, and a look every five seconds for what was not heard.
        """
        return Watch(self._watching, [row_key(task_id) for task_id in ids])

    def _watching(self) -> Hub:
        if not self._open:
            raise BackendConnectionError(f"The result backend {self.link.place} is not open. Open the app first.")
        if self._hub is None:
            self._hub = Hub(self.link)
        return self._hub

    async def forget(self, ids: Sequence[str]) -> int:
        """Remove what is stored of `ids`; return how many there were.

        Raises:
            BackendConnectionError: There was no connection for as long as a command may take, or it was lost: nobody
                knows whether they are removed.
            BackendError: The server's answer.
        """
        with self.link.translating(ERRORS):
            removed: int = await self.link.command(
                "UNLINK", *[row_key(task_id) for task_id in ids], wait=self.link.command_timeout_s
            )
        return removed
