"""Stands in for a full disk: a link may enlarge its file no further. Imported by the tests and by their workers."""

import sqlite3
from typing import Any


async def set_limit(link: Any, more_pages: int) -> None:
    """Let `link` enlarge the file by so many pages and no more."""

    def step(connection: sqlite3.Connection) -> None:
        (used,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={used + more_pages}")

    await link.run(step, writes=False)


async def lift_limit(link: Any) -> None:
    """Let it grow as it likes."""
    await set_limit(link, 2**30)
