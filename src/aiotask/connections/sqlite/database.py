"""Opens the SQLite file: checks the place, makes it private, sets it up. Called by the storage thread."""

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 5.0
"""How long a statement waits for another process's lock."""

SCHEMA_VERSION: Final = 3

NOW: Final = "((julianday('now') - 2440587.5) * 86400.0)"
"""Epoch seconds, to the millisecond, the same throughout one statement (`unixepoch('subsec')` needs SQLite 3.42)."""

_SCHEMA = (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")

# WAL needs memory that all its processes share, and locks that hold: https://www.sqlite.org/wal.html, section 1.
_NETWORK = re.compile(
    r"(fuse\.)?(afs|beegfs|ceph|cifs|coda|davfs|gcsfuse|glusterfs|lustre|ncpfs|nfs4?|rclone|s3fs|smb[23]?|smbfs|sshfs)"
)


class FileRefused(Exception):  # noqa: N818 - says what happened to the file
    """The file can't be used. The text is for the user: which file, why, and what to do."""


def open_database(path: str, synchronous: str) -> sqlite3.Connection:
    """Open the file, making it (mode 0600) and its tables where they don't exist.

    Args:
        path: Absolute.
        synchronous: `FULL` or `NORMAL`, as SQLite means them.

    Raises:
        FileRefused: It can't be used.

    Cost: about a millisecond, ten when the file is new; waits `BUSY_TIMEOUT_S` for other processes.
    """
    _check_place(path)
    try:
        _make_private(path)
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,  # transactions are ours to begin
            cached_statements=256,
        )
    except (OSError, sqlite3.Error) as error:
        raise FileRefused(_explain(path, error)) from error
    try:
        _set_up(connection, synchronous)
        _make_tables(connection, path)
        connection.execute("PRAGMA busy_timeout=0")  # from now on see `patiently`
    except sqlite3.Error as error:
        connection.close()
        raise FileRefused(_explain(path, error)) from error
    except BaseException:
        connection.close()
        raise
    return connection


def identity(path: str) -> tuple[int, int] | None:
    """Return what tells this file from another of the same name, or None when there is none.

    By `stat`: to open and close the file here would drop the locks that SQLite holds on it in this process
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


_PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PROTOCOL,
    }
)


def may_pass(error: BaseException) -> bool:
    """Tell whether what failed can succeed later without a change of ours: locked, full, out of reach."""
    return isinstance(error, FileRefused) or primary_code(error) in _PASSING


def patiently(call: Callable[[], T], is_hurried: Callable[[], bool]) -> T:
    """Return what `call` returns, repeated while another process has the lock that it needs.

    For 5 s at most, and not once `is_hurried` says so.

    SQLite's own waiting sleeps up to 0.1 s between two tries: with eight processes that publish one message after the
    other the slowest of them had to wait 0.6 s. Nothing else may have happened in `call` when it meets the lock.
    """
    begun = now = 0.0
    while True:
        try:
            return call()
        except sqlite3.OperationalError as error:
            if primary_code(error) != sqlite3.SQLITE_BUSY:
                raise
            now = time.monotonic()
            begun = begun or now
            if now - begun > BUSY_TIMEOUT_S or is_hurried():
                raise
        time.sleep(random.uniform(0.0002, 0.001) if now - begun < 0.1 else 0.005)  # noqa: S311 - spreads processes


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code of an error, 0 where there is none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def file_system(folder: str, mounts: str = "/proc/self/mounts") -> str | None:
    """Return the type of the file system that holds `folder`; None where the system does not tell."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    folder = os.path.realpath(folder)
    best, found = "", None
    for line in lines:
        _, point, kind, *_ = line.split(" ")
        for code, character in (("\\040", " "), ("\\011", "\t"), ("\\134", "\\")):
            point = point.replace(code, character)
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):  # of mounts on one point the last hides the others
            best, found = point, kind
    return found


def _check_place(path: str) -> None:
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise FileRefused(
            f"The SQLite file {path} can't be opened: the folder {folder} does not exist. "
            "Make it, or name another file."
        )
    if os.path.isdir(path):
        raise FileRefused(f"The SQLite file {path} can't be opened: it is a folder. Name a file in it.")
    kind = file_system(folder)
    if kind is not None and _NETWORK.fullmatch(kind):
        raise FileRefused(
            f"The SQLite file {path} can't be used: it lies on a network file system ({kind}), where SQLite's locks "
            "don't hold. Put it on a local disk; to share work between machines use redis:// or amqp://."
        )


def _make_private(path: str) -> None:
    if os.path.exists(path):
        return
    try:
        # SQLite gives the -wal and -shm files the mode of this one. O_EXCL: closing a file that is open elsewhere in
        # this process would drop its locks.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:  # another process was faster
        return


def _set_up(connection: sqlite3.Connection, synchronous: str) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _turn_on_wal(connection)
    for setting in (
        f"synchronous={synchronous}",
        "secure_delete=OFF",  # on in some builds; it writes each deleted row once more
        "temp_store=MEMORY",
        "cache_size=-16000",  # KiB
        "wal_autocheckpoint=4000",  # pages; four times the default: a page that changes often is copied back less often
        "journal_size_limit=67108864",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {setting}")


def _turn_on_wal(connection: sqlite3.Connection) -> None:
    give_up = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError as error:
            # SQLite does not wait here when several processes make the file at once.
            if primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _make_tables(connection: sqlite3.Connection, path: str) -> None:
    if _version(connection) < SCHEMA_VERSION:
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    version = _version(connection)
    if version != SCHEMA_VERSION:
        raise FileRefused(
            f"The SQLite file {path} has tables of version {version}; this aiotask reads version {SCHEMA_VERSION}. "
            "Use the aiotask that made it, or another file."
        )


def _version(connection: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 where there are none."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'aiotask_schema'").fetchone() is None:
        return 0
    (version,) = connection.execute("SELECT max(version) FROM aiotask_schema").fetchone()
    return int(version)


def _explain(path: str, error: Exception) -> str:
    start = f"The SQLite file {path} can't be opened: {error}."
    match primary_code(error):
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return f"{start} It is not a SQLite database, or damaged. Name another file, or restore it from a backup."
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return (
                f"{start} Another process has held its lock for {BUSY_TIMEOUT_S:g} s. End the one that does "
                f"(`fuser {path}` names it)."
            )
        case sqlite3.SQLITE_FULL:
            return f"{start} Free space on its disk."
        case _:
            return (
                f"{start} Both the file and its folder have to be writable by this user, because SQLite makes "
                "its -wal and -shm files beside it. Change their permissions, or name another file."
            )
