"""Steps for the storage thread of a SQLite file, what holds it up, and what looks on."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable

from aiotask.connections.sqlite import SqliteLink
from aiotask.connections.sqlite.rows import Row, store_rows


def put(name: str) -> Callable[[sqlite3.Connection], str]:
    def step(connection: sqlite3.Connection) -> str:
        store_rows(connection, [Row(name, False, name.encode(), None)])
        return name

    return step


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT id FROM aiotask_results ORDER BY seq")]


async def traced(link: SqliteLink) -> list[str]:
    """Return the list that the link's statements are appended to from now on."""
    statements: list[str] = []
    await link.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    return statements


class Hold:
    """Keeps the storage thread in a step until it is released, so that jobs pile up."""

    def __init__(self, link: SqliteLink) -> None:
        self._entered = threading.Event()
        self._release = threading.Event()
        self._done = link.run(self._step, writes=False)

    def _step(self, _: sqlite3.Connection) -> None:
        self._entered.set()
        self._release.wait()

    async def __aenter__(self) -> None:
        await asyncio.to_thread(self._entered.wait)

    async def __aexit__(self, *_: object) -> None:
        self._release.set()
        await self._done


class Lookout:
    """An observer that tells how often it looked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls = 0
        self.changed = asyncio.Event()

    def look(self, _: sqlite3.Connection) -> Callable[[], None]:
        self.calls += 1
        return self.changed.set
