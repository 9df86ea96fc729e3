"""The waiting lines of a queue: parking messages there and taking them again. Steps for the storage thread.

A line is its name in the rows of `aiotask_parked` (see `connections/sqlite/schema.sql`). How much is parked makes no
difference to what a step costs.
"""

from collections.abc import Mapping, Sequence
from sqlite3 import Connection
from typing import NamedTuple

import msgspec

from aiotask.brokers.sqlite import taking
from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import to_json
from aiotask.message import Settlement

# The handing-out that ends here does not count.
_PARK = """
INSERT INTO aiotask_parked (queue, line, priority, seq, deliveries, losses)
SELECT queue, json_extract(value, '$[1]'), priority, l.seq, deliveries - 1, losses
FROM json_each(?)
CROSS JOIN aiotask_leases AS l ON lease = json_extract(value, '$[0]')
CROSS JOIN aiotask_messages AS m ON m.seq = l.seq
ORDER BY key
"""
_ANYTHING = """
SELECT EXISTS (
    SELECT 1 FROM json_each(?1) AS q CROSS JOIN json_each(?2) AS n
    CROSS JOIN aiotask_parked AS p ON p.queue = q.value AND p.line = n.value
)
"""
# What each queue could give.
_CANDIDATES = """
SELECT (
    SELECT json_group_array(json_array(priority, number)) FROM (
        SELECT priority, number FROM aiotask_parked
        WHERE queue = q.value AND line = ?2 ORDER BY priority, number LIMIT ?3
    )
) FROM json_each(?1) AS q
"""
_read_candidates = msgspec.json.Decoder(list[tuple[int, int]]).decode
_LEASE = f"""
INSERT INTO aiotask_leases (seq, consumer, until, started, deliveries, losses)
SELECT seq, ?1, {NOW} + ?2, 0, deliveries + 1, losses
FROM json_each(?3) CROSS JOIN aiotask_parked ON number = value ORDER BY key
"""  # noqa: S608 - the time is an expression of ours
_TAKE_OUT = "DELETE FROM aiotask_parked WHERE number IN (SELECT value FROM json_each(?))"


class Wanted(NamedTuple):
    """What a consumer asks for."""

    consumer: str
    queues: str
    """JSON."""
    lines: Mapping[str, int]
    """How many of each at most; above 0."""
    lease_s: float


def park(connection: Connection, batch: Sequence[Settlement]) -> None:
    """Put messages at the ends of their lines. Their leases are the caller's to end."""
    connection.execute(_PARK, (to_json([(settlement.delivery.receipt, settlement.line) for settlement in batch]),))


def nothing_to_unpark(connection: Connection, wanted: Wanted) -> taking.Taken | None:
    """Return an empty answer, or None when `unpark` has something to do. Only reads."""
    (anything,) = connection.execute(_ANYTHING, (wanted.queues, to_json(list(wanted.lines)))).fetchone()
    return None if anything else taking.Taken(())


def unpark(connection: Connection, wanted: Wanted) -> taking.Taken:
    """Lease parked messages to a consumer: line by line, by priority, then as they were parked."""
    names: list[str] = []
    numbers: list[int] = []
    for line, limit in wanted.lines.items():
        candidates: list[tuple[int, int]] = []
        for (listed,) in connection.execute(_CANDIDATES, (wanted.queues, line, limit)):
            candidates += _read_candidates(listed)
        chosen = [number for _, number in sorted(candidates)[:limit]]
        numbers += chosen
        names += [line] * len(chosen)
    if not numbers:
        return taking.Taken(())
    listed = to_json(numbers)
    cursor = connection.execute(_LEASE, (wanted.consumer, wanted.lease_s, listed))
    connection.execute(_TAKE_OUT, (listed,))
    # Leases are numbered without a gap.
    deliveries = taking.read_leased(connection, (cursor.lastrowid or 0) - len(numbers))
    for delivery, line in zip(deliveries, names, strict=True):
        delivery.line = line
    return taking.Taken(deliveries)
