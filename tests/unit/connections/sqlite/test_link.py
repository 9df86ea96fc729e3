"""The link to a SQLite file is made, opened by several, and closed by the last, in one event loop or another."""

import asyncio
import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.connections.sqlite.steps import Hold, Lookout, names, put

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink, database, storage
from aiotask.connections.sqlite.storage import LinkClosed
from aiotask.results.sqlite import SqliteBackend


def test_path_is_absolute_when_it_is_given_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    link = SqliteLink("relative.db")
    monkeypatch.chdir("/")
    assert link.path == str(tmp_path / "relative.db")


def test_nothing_is_made_when_a_link_is_constructed(path: Path) -> None:
    SqliteLink(path)
    assert not path.exists()


def test_link_is_refused_when_synchronous_is_unknown(path: Path) -> None:
    with pytest.raises(ValueError, match="OFF"):
        SqliteLink(path, synchronous="OFF")  # type: ignore[arg-type]


async def test_link_closes_when_the_last_user_leaves(path: Path) -> None:
    link = SqliteLink(path)
    broker, backend = SqliteBroker(link), SqliteBackend(link)
    await broker.open()
    await backend.open()
    await broker.open()  # once more is not one more
    await broker.close()
    assert (broker.connected, backend.connected) == (False, True)
    await backend.close()
    assert not link.connected
    assert not Path(f"{path}-wal").exists()  # SQLite tidies up when the last connection closes
    with pytest.raises(LinkClosed):
        link.run(names)


async def test_what_was_submitted_is_done_when_the_link_closes(path: Path) -> None:
    link = SqliteLink(path)
    await link.open()
    stored = link.run(put("a"))
    await link.close()
    assert await stored == "a"


async def test_link_closes_though_another_process_keeps_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 3600.0)
    monkeypatch.setattr(storage, "CLOSE_S", 0.1)
    link = SqliteLink(path)
    await link.open()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as locking:
        locking.execute("BEGIN EXCLUSIVE")
        waiting, queued = link.run(put("a")), link.run(put("b"))
        async with asyncio.timeout(20):
            await link.close()
        for future in (waiting, queued):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                await future
        locking.execute("ROLLBACK")


def test_link_works_on_a_new_loop_when_the_old_one_left_it_open(path: Path) -> None:
    link = SqliteLink(path)
    backend = SqliteBackend(link)

    async def first() -> None:
        await backend.open()
        async with Hold(link):
            link.run(put("a"))  # its answer comes when the loop is closed
        link.observe(Lookout(asyncio.get_running_loop()))

    async def second() -> list[str]:
        await backend.open()
        await link.run(put("b"))
        found = await link.run(names, writes=False)
        await backend.close()
        return found

    asyncio.run(first())
    assert asyncio.run(second()) == ["a", "b"]


async def test_fork_is_told_when_a_link_crosses_it(link: SqliteLink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.os, "getpid", lambda: -1)
    with pytest.raises(LinkClosed, match="fork"):
        link.run(names)
    monkeypatch.undo()


def test_process_ends_at_once_when_a_link_is_left_open(path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from aiotask.connections.sqlite import SqliteLink\n"
        "link = SqliteLink(sys.argv[1])\n"
        "asyncio.run(link.open())\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=20)
