"""A broker and a backend on a SQLite file that a test can lock or leave without room; messages and outcomes for it."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.brokers.sqlite.subscription import SqliteSubscription
from aiotask.connections.sqlite import SqliteLink
from aiotask.message import Delivery, Envelope, Finish, Settlement, new_id
from aiotask.outcome import TaskMeta
from aiotask.results.sqlite import SqliteBackend
from aiotask.states import SUCCESS


class Here:
    """A broker and a backend of this process, and a second connection that can lock the file as another would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = SqliteLink(path)
        self.broker = SqliteBroker(self.link)
        self.backend = SqliteBackend(self.link)

    async def consumer(self, lease: float = 60.0, max_losses: int = 3) -> SqliteSubscription:
        return await self.broker.subscribe(["q"], consumer=new_id(), lease=lease, max_losses=max_losses)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    async def limit_pages(self, pages: int) -> None:
        """Let the file have so many pages more: what a full disk does."""

        def step(connection: sqlite3.Connection) -> None:
            (used,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={used + pages}")

        await self.link.run(step, writes=False)


def envelope(**fields: Any) -> Envelope:
    return Envelope(**{"id": new_id(), "queue": "q", "body": b"body", "content_type": "x", **fields})


def success(backend: SqliteBackend, delivery: Delivery) -> Finish:
    return Finish(Settlement(delivery), backend.encode(TaskMeta(id=delivery.id, state=SUCCESS, result=1), None))
