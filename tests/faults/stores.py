"""What the fault tests see of a broker past its adapter: what is begun, stored and given back."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import redis
from tests.servers.redis import RedisServer

from aiotask.connections.redis.rows import is_final
from aiotask.message import QueueDepth

QUEUE = "default"


class Store(Protocol):
    """The place that a scene's workers and its sender share."""

    url: str
    settings: dict[str, Any]
    """What makes its senders and workers use it, beside the URL."""
    found_within_s: float
    """So soon others get what a worker had that was killed."""
    acknowledges_early: bool
    """Whether what is acknowledged early leaves the broker when it begins, and is lost with its worker."""

    def begun(self, pid: int | None) -> list[str]:
        """Return the ids of what is begun and has no outcome, by process `pid` or by all."""

    def unsettled(self, pid: int) -> int | None:
        """Return of how many messages the broker waits to hear from a process that is frozen; None: `begun` tells."""

    def done_count(self) -> int:
        """Count the final states, the cheap way."""

    def stored_outcomes(self) -> int:
        """Count how often a row was written to the results: the number of ids when each was written once."""

    def given_back(self) -> list[tuple[int, int]] | None:
        """Return of each message that waits how often it was handed out, and how often it was lost.

        None where nobody can look without changing that.
        """

    def leases_have_lapsed(self) -> bool:
        """Tell whether all that is handed out is past its lease."""

    def holds_up_others(self) -> bool:
        """Tell whether nobody can write now, as what some process does keeps everybody from it."""

    def end_waits(self) -> None:
        """Let what all workers wait for run out, as it does every few seconds."""

    def whole(self, depth: QueueDepth) -> QueueDepth:
        """Return what the broker counts of a queue with that which it can't count."""

    def close(self) -> None:
        """Close what was opened to look."""


LEASE_S = 1.5
SCAN_S = LEASE_S / 4
"""Lapsed leases are looked for so often (docs/guarantees.md)."""


class _Leasing:
    """A place whose broker has leases, and keeps each message until its outcome is stored."""

    found_within_s = LEASE_S + SCAN_S
    acknowledges_early = False

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}

    def unsettled(self, pid: int) -> int | None:
        return None

    def whole(self, depth: QueueDepth) -> QueueDepth:
        return depth


class SqliteStore(_Leasing):
    """A SQLite file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "aiotask.db"
        self.url = f"sqlite:///{self.path}"
        self._file: sqlite3.Connection | None = None

    def begun(self, pid: int | None) -> list[str]:
        rows = self.query(
            "SELECT id FROM aiotask_leases AS l JOIN aiotask_messages AS m ON m.seq = l.seq "
            "WHERE started AND consumer LIKE ?",
            "%" if pid is None else f"%-{pid}-%",
        )
        return [row[0] for row in rows]

    def done_count(self) -> int:
        return int(self.query("SELECT count(*) FROM aiotask_results WHERE final")[0][0])

    def stored_outcomes(self) -> int:
        rows = self.query("SELECT seq FROM sqlite_sequence WHERE name = 'aiotask_results'")
        return int(rows[0][0]) if rows else 0

    def given_back(self) -> list[tuple[int, int]]:
        return self.query("SELECT deliveries, losses FROM aiotask_waiting")

    def leases_have_lapsed(self) -> bool:
        (row,) = self.query("SELECT max(until) < (julianday('now') - 2440587.5) * 86400.0 FROM aiotask_leases")
        return bool(row[0])

    def holds_up_others(self) -> bool:
        with closing(sqlite3.connect(self.path, timeout=0.5, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            connection.execute("ROLLBACK")
            return False

    def end_waits(self) -> None:
        """Nobody waits in the file."""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the file's lock, as another process would."""
        with closing(sqlite3.connect(self.path, isolation_level=None, timeout=10)) as locking:
            locking.execute("BEGIN EXCLUSIVE")
            yield
            locking.execute("ROLLBACK")

    def query(self, sql: str, *arguments: Any) -> list[Any]:
        """Read the file, through a connection that reads only."""
        if self._file is None:
            self._file = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=10, isolation_level=None)
        return self._file.execute(sql, arguments).fetchall()


class RedisStore(_Leasing):
    """A Redis server, empty at first."""

    PREFIX = f"aiotask:{{{QUEUE}}}:"
    _IN_AOF = re.compile(rb"\r\n\$3\r\nset\r\n\$\d+\r\ncelery-task-meta-", re.IGNORECASE)

    def __init__(self, server: RedisServer, *, durable: RedisServer | None = None) -> None:
        """Look at `server` from now on; `durable` has the results, when that one writes what it does to disk."""
        super().__init__()
        self.server = server
        self.url = server.url()
        self.client = redis.Redis.from_url(self.url, protocol=2, socket_timeout=30)
        self._durable = durable
        self._rows = self._final_rows = 0
        self._news = self.client.pubsub()
        if durable is None:
            self._news.psubscribe("celery-task-meta-*")

    def begun(self, pid: int | None) -> list[str]:
        pipe = self.client.pipeline(transaction=False)
        for line in self.lines():
            for entry_id, name, _ in self._pending(line):
                if _is_begun(name, pid):
                    pipe.xrange(self.key(line), entry_id, entry_id)
        # Empty where it has ended since.
        return [_task_id(fields) for entries in pipe.execute() for _, fields in entries]

    def done_count(self) -> int:
        self._hear()
        return self._final_rows

    def stored_outcomes(self) -> int:
        if self._durable is not None:  # the server may be killed, and nothing be heard meanwhile
            files = self._durable.folder.glob("appendonlydir/*.incr.aof")
            return sum(len(self._IN_AOF.findall(file.read_bytes())) for file in files)
        self._hear()
        return self._rows

    def _hear(self) -> None:
        """Count what was published: each row is when it is stored."""
        self.client.ping()  # what was published before has been sent to us by now
        while self._news.connection is not None and self._news.connection.can_read(0):
            message = self._news.get_message(timeout=10)  # of a long one there may be the beginning
            if message is not None and message["type"] == "pmessage" and message["data"]:
                self._rows += 1
                self._final_rows += is_final(message["data"]) is not None

    def given_back(self) -> list[tuple[int, int]]:
        out = {entry_id for line in self.lines() for entry_id, _, _ in self._pending(line)}
        given = []
        for line in self.lines():
            for entry_id, fields in self.client.xrange(self.key(line)):
                if entry_id not in out:
                    losses, _, deliveries = fields.get(b"n", b"0:0").partition(b":")
                    given.append((int(deliveries), int(losses)))
        return given

    def leases_have_lapsed(self) -> bool:
        pending = [each for line in self.lines() for each in self._pending(line)]
        return all(idle_ms > int(name.partition(b":")[0]) for _, name, idle_ms in pending)

    def holds_up_others(self) -> bool:
        return False

    def end_waits(self) -> None:
        for client in self.client.client_list():
            if "b" in client["flags"]:
                self.client.client_unblock(int(client["id"]))

    def close(self) -> None:
        self._news.close()
        self.client.close()

    def lines(self) -> list[bytes]:
        """Return the names of the lines in use."""
        self.client.ping()  # what others had sent before is carried out by now
        found: Any = self.client.zrange(f"{self.PREFIX}lines", 0, -1)
        return list(found)

    def key(self, line: bytes) -> str:
        """Return where the stream of a line lies."""
        return f"{self.PREFIX}s:{line.decode()}"

    def _pending(self, line: bytes) -> list[tuple[bytes, bytes, int]]:
        try:
            pending: Any = self.client.xpending_range(self.key(line), "w", "-", "+", 100_000)
        except redis.ResponseError:
            return []  # nothing was ever read from it
        return [(each["message_id"], each["consumer"], each["time_since_delivered"]) for each in pending]


def _is_begun(consumer: bytes, pid: int | None) -> bool:
    return consumer.endswith(b"!") and (pid is None or f"-{pid}-".encode() in consumer)


def _task_id(fields: dict[bytes, bytes]) -> str:
    message: list[Any] = msgspec.msgpack.decode(fields[b"e"])
    return str(message[0])
