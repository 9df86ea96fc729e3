"""Who consumes which queues: a row for each subscription, valid for a lease. Steps for the storage thread."""

from collections.abc import Sequence
from sqlite3 import Connection

from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import to_json

_IS_ANNOUNCED = f"""
SELECT 1 FROM aiotask_consumers WHERE consumer = ? AND queues = ? AND until > {NOW} + ? / 2
"""  # noqa: S608 - the time is an expression of ours
_ANNOUNCE = f"""
INSERT INTO aiotask_consumers (consumer, queues, until) VALUES (?, ?, {NOW} + ?)
ON CONFLICT (consumer) DO UPDATE SET queues = excluded.queues, until = excluded.until
"""  # noqa: S608
_FORGET_LAPSED = f"DELETE FROM aiotask_consumers WHERE until <= {NOW}"  # noqa: S608
_KEEP = f"UPDATE aiotask_consumers SET until = {NOW} + ? WHERE consumer = ?"  # noqa: S608
_WITHDRAW = "DELETE FROM aiotask_consumers WHERE consumer = ?"
_COUNT = f"""
SELECT (
    SELECT count(*) FROM aiotask_consumers AS c
    WHERE until > {NOW} AND EXISTS (SELECT 1 FROM json_each(c.queues) AS q WHERE q.value = wanted.value)
) FROM json_each(?) AS wanted ORDER BY wanted.key
"""  # noqa: S608


def is_announced(connection: Connection, consumer: str, queues: str, lease_s: float) -> bool:
    """Tell whether `consumer` is known to take from `queues` (JSON), for half a lease at least. Only reads."""
    return connection.execute(_IS_ANNOUNCED, (consumer, queues, lease_s)).fetchone() is not None


def announce(connection: Connection, consumer: str, queues: str, lease_s: float) -> None:
    """Let `consumer` count as one that takes from `queues` (JSON) for a lease from now; forget who has gone."""
    connection.execute(_ANNOUNCE, (consumer, queues, lease_s))
    connection.execute(_FORGET_LAPSED)


def keep(connection: Connection, consumer: str, lease_s: float) -> None:
    """Let `consumer` count for a lease from now, unless it has gone."""
    connection.execute(_KEEP, (lease_s, consumer))


def withdraw(connection: Connection, consumer: str) -> None:
    """Let `consumer` count no more."""
    connection.execute(_WITHDRAW, (consumer,))


def count(connection: Connection, queues: Sequence[str]) -> list[int]:
    """Return how many consumers take from each of `queues`."""
    return [counted for (counted,) in connection.execute(_COUNT, (to_json(queues),))]
