"""Which messages a consumer gets next, and the leases that it gets them under. Steps for the storage thread.

Each costs a few statements however long the batch is (see `connections.sqlite.storage`). The tables are described in
`connections/sqlite/schema.sql`.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from sqlite3 import Connection
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from aiotask.brokers.sqlite import presence
from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import gather
from aiotask.message import Delivery

# Jumps from line to line of each queue; how much waits in one makes no difference.
_HEADS = f"""
WITH RECURSIVE heads (queue, line) AS (
    SELECT value, (SELECT line FROM aiotask_waiting WHERE queue = value ORDER BY line LIMIT 1) FROM json_each(?)
    UNION ALL
    SELECT queue, (
        SELECT line FROM aiotask_waiting AS next
        WHERE next.queue = heads.queue AND next.line > heads.line ORDER BY next.line LIMIT 1
    ) FROM heads WHERE line IS NOT NULL
)
SELECT now, json_group_array(json_array(line, queue, due_in)) FROM (
    SELECT {NOW} AS now, line, queue, (
        SELECT available_at FROM aiotask_waiting AS first
        WHERE first.queue = heads.queue AND first.line = heads.line ORDER BY available_at LIMIT 1
    ) - {NOW} AS due_in
    FROM heads WHERE line IS NOT NULL
)
"""  # noqa: S608
_read_heads = msgspec.json.Decoder(list[tuple[int, str, float]]).decode

# What each of several queues could give from one line.
_CANDIDATES = """
SELECT json_group_array(json_array(available_at, seq, queue)) FROM (
    SELECT available_at, seq, queue FROM aiotask_waiting
    WHERE queue = ?1 AND line = ?2 AND available_at <= ?3 ORDER BY available_at, seq LIMIT ?4
)
"""
_read_candidates = msgspec.json.Decoder(list[tuple[float, int, str]]).decode

_LEASE = """
INSERT INTO aiotask_leases (seq, consumer, until, started, deliveries, losses)
SELECT seq, ?1, ?2, 0, deliveries + 1, losses FROM aiotask_waiting
WHERE queue = ?3 AND line = ?4 AND available_at <= ?5 ORDER BY available_at, seq LIMIT ?6
"""
_UNQUEUE = """
DELETE FROM aiotask_waiting
WHERE queue = ?1 AND line = ?2 AND (available_at, seq) <= (
    SELECT available_at, seq FROM aiotask_waiting
    WHERE queue = ?1 AND line = ?2 ORDER BY available_at, seq LIMIT 1 OFFSET ?3 - 1
)
"""
# JSON would cut a REAL to 15 digits.
_LEASED = """
SELECT json_group_array(json_array(
    lease, l.seq, id, queue, content_type, priority, deliveries, losses,
    CASE WHEN expires_at IS NOT NULL THEN printf('%!.17g', expires_at) END
)) FROM aiotask_leases AS l JOIN aiotask_messages AS m ON m.seq = l.seq WHERE lease > ?
"""
_BODY = "SELECT body FROM aiotask_messages WHERE seq = ?"
_read_leased = msgspec.json.Decoder(list[tuple[int, int, str, str, str, int, int, int, str | None]]).decode

_NEXT_LAPSE = f"SELECT {NOW}, min(until) FROM aiotask_leases"  # noqa: S608
_RECLAIM = """
INSERT INTO aiotask_waiting (queue, line, available_at, seq, deliveries, losses)
SELECT queue, priority - 10, until, l.seq, deliveries, losses + started
FROM aiotask_leases AS l JOIN aiotask_messages AS m ON m.seq = l.seq WHERE until <= ?
"""
_END_LAPSED = "DELETE FROM aiotask_leases WHERE until <= ?"


class Wanted(NamedTuple):
    """What a consumer asks for."""

    consumer: str
    queues: str
    """JSON."""
    limit: int
    lease_s: float
    scan: bool
    """True when it is time to look for lapsed leases."""
    lost_by: float
    """Lapsed leases are taken from their consumers if they had lapsed by this time of the broker's."""
    asked_mono: float
    """When it was asked, in monotonic seconds."""
    wait_s: float
    """Who has waited longer for the file takes no lease from anybody: its owner may have waited to renew it."""


class Taken(NamedTuple):
    """What a consumer got, and when to look again if that is nothing."""

    deliveries: Sequence[Delivery]
    due_in_s: float | None = None
    """Until the next message is due; None when none waits."""
    lapse: "Lapse | None" = None
    """None when there are no leases, or they were not asked for."""


class Lapse(NamedTuple):
    """What a look for lapsed leases has found."""

    looked_at: float
    """The broker's time of the look."""
    until: float
    """When the first lease lapses, or has lapsed, if nobody renews it."""


def due_in_s(connection: Connection, queues: str) -> float | None:
    """Return in how many seconds there is a message to take, zero or less for now; None when none waits."""
    _, heads = _heads(connection, queues)
    return min((due_in for _, _, due_in in heads), default=None)


def nothing_to_take(connection: Connection, wanted: Wanted) -> Taken | None:
    """Return when to look again, or None when `take` has something to do. Only reads."""
    lapse = _next_lapse(connection) if wanted.scan else None
    if lapse is not None and lapse.until <= min(lapse.looked_at, wanted.lost_by):
        return None
    if wanted.scan and not presence.is_announced(connection, wanted.consumer, wanted.queues, wanted.lease_s):
        return None
    _, heads = _heads(connection, wanted.queues)
    due_in = min((due_in for _, _, due_in in heads), default=None)
    if due_in is not None and due_in <= 0:
        return None
    return Taken((), due_in, lapse)


def take(connection: Connection, wanted: Wanted) -> Taken:
    """Lease due messages to a consumer: reclaimed ones, then by priority, then as they became due."""
    lapse = None
    if wanted.scan:
        lapse = _reclaim(connection, wanted)
        presence.announce(connection, wanted.consumer, wanted.queues, wanted.lease_s)
    now, heads = _heads(connection, wanted.queues)
    order: dict[int, int] = {}
    leased_before = taken = 0
    for line, due in groupby(sorted(head for head in heads if head[2] <= 0), key=itemgetter(0)):
        room = wanted.limit - taken
        if room <= 0:
            break
        queues = [queue for _, queue, _ in due]
        shares = {queues[0]: room}
        if len(queues) > 1:
            shares = _shares(connection, queues, line, now, room, order, taken)
        for queue, share in shares.items():
            cursor = connection.execute(_LEASE, (wanted.consumer, now + wanted.lease_s, queue, line, now, share))
            if cursor.rowcount:
                connection.execute(_UNQUEUE, (queue, line, cursor.rowcount))
                taken += cursor.rowcount
                leased_before = (cursor.lastrowid or 0) - taken  # they are numbered without a gap
    if taken:
        return Taken(read_leased(connection, leased_before, order), None, lapse)
    return Taken((), min((due_in for _, _, due_in in heads), default=None), lapse)


def _reclaim(connection: Connection, wanted: Wanted) -> Lapse | None:
    """Put messages that are lost by `wanted` ahead of all that waits; return what lapses next."""
    lapse = _next_lapse(connection)
    if lapse is None or time.monotonic() - wanted.asked_mono > wanted.wait_s:
        return lapse
    lost_by = min(lapse.looked_at, wanted.lost_by)
    if lapse.until > lost_by:
        return lapse
    connection.execute(_RECLAIM, (lost_by,))
    connection.execute(_END_LAPSED, (lost_by,))
    return _next_lapse(connection)


def _next_lapse(connection: Connection) -> Lapse | None:
    now, until = connection.execute(_NEXT_LAPSE).fetchone()
    return None if until is None else Lapse(now, until)


def _heads(connection: Connection, queues: str) -> tuple[float, list[tuple[int, str, float]]]:
    """Return the time, and of each line in use its number, its queue and in how many seconds its first is due."""
    now, listed = connection.execute(_HEADS, (queues,)).fetchone()
    return now or 0.0, _read_heads(listed)


def _shares(
    connection: Connection, queues: list[str], line: int, now: float, room: int, order: dict[int, int], taken: int
) -> dict[str, int]:
    """Return how many of each queue come first in a line that several have; put their places into `order`."""
    candidates: list[tuple[float, int, str]] = []
    for queue in queues:
        (listed,) = connection.execute(_CANDIDATES, (queue, line, now, room)).fetchone()
        candidates += _read_candidates(listed)
    candidates.sort()
    for place, (_, seq, _) in enumerate(candidates[:room], taken):
        order[seq] = place
    return Counter(queue for _, _, queue in candidates[:room])


def read_leased(
    connection: Connection, leased_before: int, order: Mapping[int, int] = MappingProxyType({})
) -> list[Delivery]:
    """Return the deliveries of the leases after `leased_before`, in the order of the leases but for `order`."""
    (listed,) = connection.execute(_LEASED, (leased_before,)).fetchone()
    leased = _read_leased(listed)
    first = leased_before + 1
    leased.sort(key=lambda row: order.get(row[1], row[0] - first))
    bodies = gather(connection, _BODY, [row[1] for row in leased])
    return [
        Delivery(
            id_,
            queue,
            body,
            content_type,
            priority,
            lease,
            deliveries,
            losses,
            None if expires_at is None else float(expires_at),
        )
        for (lease, _, id_, queue, content_type, priority, deliveries, losses, expires_at), body in zip(
            leased, bodies, strict=True
        )
    ]
