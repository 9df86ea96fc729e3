"""The SQLite file: who may read it, whose tables it has, which one is refused and why, and when it goes away."""

import asyncio
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.unit.connections.sqlite.steps import names, put

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink, database, storage
from aiotask.connections.sqlite.database import FileRefused, file_system
from aiotask.exceptions import BackendConnectionError, BrokerConnectionError
from aiotask.message import Settlement, Start, Verdict
from aiotask.results.sqlite import SqliteBackend


async def test_files_are_private_when_they_are_made(link: SqliteLink, path: Path) -> None:
    await link.run(put("a"))
    for suffix in ("", "-wal", "-shm"):
        assert stat.S_IMODE(os.stat(f"{path}{suffix}").st_mode) == 0o600, suffix


async def test_mode_stays_when_the_file_exists(path: Path) -> None:
    path.touch(0o640)
    link = SqliteLink(path)
    await link.open()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    await link.close()


async def test_other_tables_stay_when_the_file_is_an_applications(path: Path) -> None:
    with sqlite3.connect(path) as own:
        own.execute("CREATE TABLE messages (text)")
    own.close()
    link = SqliteLink(path)
    await link.open()
    tables = await link.run(
        lambda c: [name for (name,) in c.execute("SELECT name FROM sqlite_master WHERE type = 'table'")], writes=False
    )
    await link.close()
    assert "messages" in tables
    assert {name.split("_")[0] for name in tables} == {"messages", "aiotask", "sqlite"}


async def refusal(path: Path | str) -> str:
    """Return what broker and backend say of a file that can't be opened."""
    link = SqliteLink(path)
    with pytest.raises(BrokerConnectionError) as broker_error:
        await SqliteBroker(link).open()
    with pytest.raises(BackendConnectionError) as backend_error:
        await SqliteBackend(link).open()
    assert isinstance(broker_error.value.__cause__, FileRefused)
    assert str(broker_error.value) == str(backend_error.value)
    assert str(path) in str(broker_error.value)
    assert not link.connected
    return str(broker_error.value)


async def test_open_says_why_when_the_folder_is_missing(tmp_path: Path) -> None:
    text = await refusal(tmp_path / "missing" / "a.db")
    assert f"the folder {tmp_path / 'missing'} does not exist" in text


async def test_open_says_why_when_the_path_is_a_folder(tmp_path: Path) -> None:
    assert "it is a folder" in await refusal(tmp_path)


async def test_open_says_why_when_the_file_is_no_database(path: Path) -> None:
    path.write_bytes(b"not a database, but long enough to look at" * 100)
    assert "not a SQLite database" in await refusal(path)


async def test_open_says_why_when_the_file_may_not_be_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(database.os, "open", refuse)
    text = await refusal(path)
    assert "Permission denied" in text
    assert "writable by this user" in text


async def test_open_says_why_when_another_process_keeps_the_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    text = await refusal(path)
    other.close()
    assert "locked" in text
    assert "fuser" in text


async def test_open_says_why_when_the_file_system_is_a_network(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "file_system", lambda _: "nfs4")
    text = await refusal(path)
    assert "nfs4" in text
    assert "redis://" in text
    assert not path.exists()


async def test_open_says_why_when_the_tables_are_newer(path: Path) -> None:
    link = SqliteLink(path)
    await link.open()
    await link.run(lambda c: c.execute("UPDATE aiotask_schema SET version = 99").rowcount)
    await link.close()
    assert "version 99" in await refusal(path)


@pytest.fixture(params=[1, 2])
def old_path(path: Path, request: pytest.FixtureRequest) -> Path:
    """A file of an older version, with a message that waits and one that is leased."""
    with sqlite3.connect(path) as old:
        old.executescript((Path(__file__).parent / f"schema_{request.param}.sql").read_text(encoding="utf-8"))
        for seq in (1, 2):
            old.execute(
                "INSERT INTO aiotask_messages VALUES (?, ?, 'q', 5, 1.0, NULL, 'x', x'00')", (seq, f"old {seq}")
            )
        old.execute("INSERT INTO aiotask_waiting VALUES ('q', 5, 1.0, 1, 0, 0)")
        old.execute("INSERT INTO aiotask_leases VALUES (7, 2, 'gone', 2.0, 0, 1, 0)")
    old.close()
    return path


async def test_file_of_an_older_version_goes_on_working_when_it_is_opened(old_path: Path) -> None:
    broker = SqliteBroker(SqliteLink(old_path))
    await broker.open()
    consumer = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    taken = await consumer.receive(2, 5)
    assert [delivery.id for delivery in taken] == ["old 2", "old 1"]
    await consumer.settle([Settlement(delivery, "park", line="a") for delivery in taken])
    assert await broker.consumers(["q"]) == [1]
    await broker.close()
    await broker.open()  # it is of this version now
    consumer = await broker.subscribe(["q"], consumer="c", lease=20.0, max_losses=3)
    taken = await consumer.unpark({"a": 2})
    assert [delivery.id for delivery in taken] == ["old 2", "old 1"]
    await broker.revoke(["old 1"])
    assert await consumer.begin([Start(delivery) for delivery in taken]) == [Verdict.RUN, Verdict.REVOKED]
    await broker.close()


async def test_file_of_an_older_version_is_brought_up_once_when_several_open_it(old_path: Path) -> None:
    links = [SqliteLink(old_path) for _ in range(4)]
    await asyncio.gather(*(link.open() for link in links))
    versions = [
        await link.run(lambda c: c.execute("SELECT version FROM aiotask_schema").fetchall(), writes=False)
        for link in links
    ]
    assert versions == [[(database.SCHEMA_VERSION,)]] * 4
    for link in links:
        await link.close()


def test_file_system_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    share = tmp_path / "the share"
    inner = share / "inner"
    inner.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(
        f"/dev/sda / ext4 rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\ntmpfs {escaped}/inner tmpfs rw 0 0\n", encoding="utf-8"
    )
    assert file_system(str(tmp_path), str(mounts)) == "ext4"
    assert file_system(str(share), str(mounts)) == "nfs4"
    assert file_system(str(inner), str(mounts)) == "tmpfs"
    assert file_system(str(inner), str(tmp_path / "no such file")) is None


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "fuse.glusterfs", "ceph"])
def test_network_file_system_is_known(kind: str) -> None:
    assert database._NETWORK.fullmatch(kind)


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "apfs", "fuse.ext4"])
def test_local_file_system_is_no_network(kind: str) -> None:
    assert not database._NETWORK.fullmatch(kind)


async def test_new_file_is_used_when_the_old_one_is_deleted(
    link: SqliteLink, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_CHECK_FILE_S", 0.0)
    await link.run(put("old"))
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()
    await link.run(put("new"))
    other = SqliteLink(path)
    await other.open()
    assert await other.run(names, writes=False) == ["new"]
    await other.close()


async def test_link_recovers_when_the_folder_was_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CHECK_FILE_S", 0.0)
    folder = tmp_path / "here"
    folder.mkdir()
    link = SqliteLink(folder / "a.db")
    await link.open()
    folder.rename(tmp_path / "away")
    with pytest.raises(FileRefused, match="does not exist"):
        await link.run(put("a"))
    assert not link.connected
    (tmp_path / "away").rename(folder)
    assert await link.run(put("b")) == "b"
    assert link.connected
    await link.close()
