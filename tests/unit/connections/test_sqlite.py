"""The link to a SQLite file: its place, its opening and closing, group commit, and what waits on it."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink, database, storage
from aiotask.connections.sqlite.database import FileRefused, file_system
from aiotask.connections.sqlite.rows import Row, fetch_rows, gather, pack, store_rows, sweep_rows
from aiotask.connections.sqlite.storage import LinkClosed
from aiotask.exceptions import BackendConnectionError, BrokerConnectionError
from aiotask.message import Settlement, Start, Verdict
from aiotask.results.sqlite import SqliteBackend


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aiotask.db"


@pytest.fixture
async def link(path: Path) -> AsyncIterator[SqliteLink]:
    link = SqliteLink(path)
    await link.open()
    yield link
    await link.close()


def put(name: str) -> Callable[[sqlite3.Connection], str]:
    def step(connection: sqlite3.Connection) -> str:
        store_rows(connection, [Row(name, False, name.encode(), None)])
        return name

    return step


def names(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT id FROM aiotask_results ORDER BY seq")]


def fail(connection: sqlite3.Connection) -> str:
    put("failed")(connection)
    raise ZeroDivisionError


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


# ---- the file ----


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


# ---- opening and closing ----


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


class Lookout:
    """An observer that tells how often it looked."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.calls = 0
        self.changed = asyncio.Event()

    def look(self, _: sqlite3.Connection) -> Callable[[], None]:
        self.calls += 1
        return self.changed.set


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


# ---- group commit ----


async def test_steps_share_a_transaction_when_they_wait_together(link: SqliteLink) -> None:
    statements = await traced(link)
    async with Hold(link):
        stored = asyncio.gather(*(link.run(put(f"{at}")) for at in range(50)))
    assert await stored == [f"{at}" for at in range(50)]
    assert statements.count("COMMIT") == 1
    assert await link.run(names, writes=False) == [f"{at}" for at in range(50)]


async def test_others_are_stored_when_one_step_fails(link: SqliteLink) -> None:
    async with Hold(link):
        stored = asyncio.gather(link.run(put("a")), link.run(fail), link.run(put("b")), return_exceptions=True)
    a, error, b = await stored
    assert (a, type(error), b) == ("a", ZeroDivisionError, "b")
    assert await link.run(names, writes=False) == ["a", "b"]


async def test_step_is_left_out_when_its_caller_is_cancelled_before(link: SqliteLink) -> None:
    async with Hold(link):
        cancelled, kept = link.run(put("a")), link.run(put("b"))
        cancelled.cancel()
    await kept
    assert await link.run(names, writes=False) == ["b"]


async def test_step_is_undone_when_its_caller_is_cancelled_after(link: SqliteLink) -> None:
    undone: list[str] = []
    stored = link.run(put("a"), undo=undone.append)
    while not link.call(names, timeout=5):  # blocks the loop, so that the answer can't arrive
        pass
    assert stored.cancel()
    while not undone:
        await asyncio.sleep(0)
    assert undone == ["a"]


async def test_no_write_lock_is_taken_when_the_probe_has_an_answer(link: SqliteLink, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await link.run(put("a"), probe=lambda _: "nothing to do") == "nothing to do"
    assert await link.run(names, writes=False) == []
    other.execute("ROLLBACK")
    other.close()
    assert await link.run(put("a"), probe=lambda _: None) == "a"


async def test_commit_waits_for_the_disk_when_any_step_of_it_is_durable(link: SqliteLink) -> None:
    async def modes(*durable: bool) -> list[str]:
        statements = await traced(link)
        async with Hold(link):
            stored = asyncio.gather(*(link.run(put("a"), durable=each) for each in durable))
        await stored
        return [statement for statement in statements if statement.startswith("PRAGMA synchronous")]

    assert await modes(True) == []  # as it is opened
    assert await modes(False, False) == ["PRAGMA synchronous=NORMAL"]
    assert await modes(False) == []
    assert await modes(False, True) == ["PRAGMA synchronous=FULL"]


async def test_step_of_a_thread_is_done_when_the_loop_is_blocked(link: SqliteLink) -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(link.call(put("a"), timeout=5)))
    thread.start()
    thread.join()  # blocks the loop
    assert done == ["a"]


async def test_thread_is_told_when_its_step_takes_too_long(link: SqliteLink) -> None:
    async with Hold(link):
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(link.call, put("a"), timeout=0.01)


# ---- waking ----


async def test_observer_looks_when_this_process_commits(link: SqliteLink) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    await link.run(put("a"))
    await asyncio.wait_for(lookout.changed.wait(), 5)
    link.unobserve(lookout)


async def test_observer_looks_when_another_process_commits(link: SqliteLink, path: Path) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    await link.run(names, writes=False)
    lookout.changed.clear()
    other = sqlite3.connect(path)
    with other:
        put("a")(other)
    await asyncio.wait_for(lookout.changed.wait(), 5)
    link.unobserve(lookout)
    calls = lookout.calls
    with other:
        put("b")(other)
    other.close()
    await asyncio.sleep(3 * storage.POLL_S)
    assert lookout.calls == calls


async def test_patient_observer_looks_later_when_it_has_just_looked(link: SqliteLink) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout, every_s=0.3)
    begun = time.monotonic()
    for _ in range(5):
        await link.run(put("a"))
    assert lookout.calls == 1
    lookout.changed.clear()
    await asyncio.wait_for(lookout.changed.wait(), 5)  # what it has missed, though nothing more happens
    assert time.monotonic() - begun >= 0.29
    assert lookout.calls == 2
    link.unobserve(lookout)


async def test_changes_are_looked_for_less_often_when_all_who_wait_are_patient(link: SqliteLink) -> None:
    statements = await traced(link)
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout, every_s=0.25)
    begun = time.monotonic()
    while statements.count("PRAGMA data_version") < 4:
        await asyncio.sleep(storage.POLL_S)
    assert time.monotonic() - begun >= 0.7
    link.unobserve(lookout)


async def test_nothing_is_polled_when_nobody_waits(link: SqliteLink) -> None:
    statements = await traced(link)
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    while len(statements) < 3:
        await asyncio.sleep(storage.POLL_S)
    link.unobserve(lookout)
    await link.run(names, writes=False)
    statements.clear()
    await asyncio.sleep(4 * storage.POLL_S)
    assert statements == []


async def test_answers_come_when_an_observer_raises(link: SqliteLink, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Lookout):
        def look(self, _: sqlite3.Connection) -> Callable[[], None]:
            raise ZeroDivisionError

    broken = Broken(asyncio.get_running_loop())
    link.observe(broken)
    assert await link.run(put("a")) == "a"
    link.unobserve(broken)
    assert "goes on after an error" in caplog.text


async def test_chores_are_done_when_it_is_time(link: SqliteLink) -> None:
    rows = [Row(f"{at}", True, b"{}", -1.0) for at in range(1200)]
    await link.run(lambda connection: store_rows(connection, [*rows, Row("kept", True, b"{}", 60.0)]))
    link.add_chore(sweep_rows)
    link._opened()._next_chore = 0.0
    while len(await link.run(names, writes=False)) > 1:
        await asyncio.sleep(0.01)
    assert await link.run(names, writes=False) == ["kept"]


async def test_chore_is_done_no_more_when_it_was_removed(link: SqliteLink) -> None:
    done: list[str] = []

    def chore_a(_: sqlite3.Connection) -> bool:
        done.append("a")
        return False

    def chore_b(_: sqlite3.Connection) -> bool:
        done.append("b")
        return False

    link.add_chore(chore_a)
    link.add_chore(chore_b)
    link.remove_chore(chore_a)
    link.remove_chore(chore_a)
    link._opened()._next_chore = 0.0
    await link.run(names, writes=False)
    assert done == ["b"]


# ---- rows ----


@pytest.mark.parametrize("bodies", [[b""], [b"", b""], [b"", b"a", b""], [b"abc", b"de"]])
async def test_each_part_is_found_when_parts_are_packed(link: SqliteLink, bodies: list[bytes]) -> None:
    whole, places = pack(bodies)
    sql = "SELECT substr(?, ?, ?)"
    found = await link.run(lambda c: [c.execute(sql, (whole, *place)).fetchone()[0] for place in places], writes=False)
    assert found == bodies


async def test_each_key_has_its_value_when_many_are_gathered(link: SqliteLink) -> None:
    for count in (0, 1, 8, 9, 64, 65, 200):
        keys = list(range(count))
        assert await link.run(lambda c, keys=keys: gather(c, "SELECT ? * 2", keys), writes=False) == [
            2 * key for key in keys
        ]


async def test_new_row_is_stored_when_the_final_one_has_expired(link: SqliteLink) -> None:
    await link.run(lambda c: store_rows(c, [Row("a", True, b"old", -1.0)]))
    assert await link.run(lambda c: fetch_rows(c, ["a"]), writes=False) == [None]
    await link.run(lambda c: store_rows(c, [Row("a", False, b"new", None)]))
    assert await link.run(lambda c: fetch_rows(c, ["a"]), writes=False) == [b"new"]
