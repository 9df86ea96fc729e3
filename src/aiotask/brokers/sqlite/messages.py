"""What publishing, taking, starting and settling do in the tables. Steps for the storage thread; no waiting in here.

Each takes a batch and costs a few statements however long it is (see `connections.sqlite.storage`). The tables are
described in `connections/sqlite/schema.sql`.
"""

import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from sqlite3 import Connection
from typing import Final, NamedTuple

import msgspec

from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import gather, pack, store_rows, to_json
from aiotask.message import DEAD_BODY_BYTES, Delivery, Envelope, Finish, Settlement, Start, Verdict

_AMONG: Final = "(SELECT value FROM json_each(?))"
_read_numbers = msgspec.json.Decoder(list[int]).decode


# ---- publishing ----

_PUBLISH = f"""
INSERT INTO aiotask_messages (id, queue, priority, due_at, expires_at, content_type, body)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
    coalesce({NOW} + json_extract(value, '$[3]'), json_extract(value, '$[4]'), {NOW}),
    coalesce({NOW} + json_extract(value, '$[5]'), json_extract(value, '$[6]')),
    json_extract(value, '$[7]'), substr(?2, json_extract(value, '$[8]'), json_extract(value, '$[9]'))
FROM json_each(?1)
"""  # noqa: S608 - the time is an expression of ours
_QUEUE_UP = """
INSERT INTO aiotask_waiting (queue, line, available_at, seq, deliveries, losses)
SELECT queue, priority, due_at, seq, 0, 0 FROM aiotask_messages WHERE seq > ?
"""


class Parcel(NamedTuple):
    """Envelopes as the arguments of a statement."""

    listed: str
    bodies: bytes
    size: int


def pack_envelopes(batch: Sequence[Envelope]) -> Parcel:
    """Return `batch` ready for `publish`; done before the step, so that it is done once."""
    bodies, places = pack([envelope.body for envelope in batch])
    listed = [
        (
            envelope.id,
            envelope.queue,
            envelope.priority,
            envelope.delay_s,
            envelope.due_at,
            envelope.ttl_s,
            envelope.expires_at,
            envelope.content_type,
            *place,
        )
        for envelope, place in zip(batch, places, strict=True)
    ]
    return Parcel(to_json(listed), bodies, len(batch))


def publish(connection: Connection, parcel: Parcel) -> None:
    """Store new messages, in their order."""
    last = connection.execute(_PUBLISH, (parcel.listed, parcel.bodies)).lastrowid or 0
    connection.execute(_QUEUE_UP, (last - parcel.size,))  # they are numbered without a gap: nobody else writes now


# ---- taking ----

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
    _, heads = _heads(connection, wanted.queues)
    due_in = min((due_in for _, _, due_in in heads), default=None)
    if due_in is not None and due_in <= 0:
        return None
    return Taken((), due_in, lapse)


def take(connection: Connection, wanted: Wanted) -> Taken:
    """Lease due messages to a consumer: reclaimed ones, then by priority, then as they became due."""
    lapse = _reclaim(connection, wanted) if wanted.scan else None
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
        return Taken(_read(connection, leased_before, order), None, lapse)
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


def _read(connection: Connection, leased_before: int, order: dict[int, int]) -> list[Delivery]:
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


# ---- starting ----

_OWNED = f"SELECT {NOW}, json_group_array(lease) FROM aiotask_leases WHERE lease IN {_AMONG}"  # noqa: S608
_START = f"UPDATE aiotask_leases SET started = 1 WHERE lease IN {_AMONG}"  # noqa: S608


def begin(connection: Connection, batch: Sequence[Start], max_losses: int) -> list[Verdict]:
    """Judge each of `batch` in its order; mark those that may run as started."""
    now, owned = _owned(connection, [start.delivery.receipt for start in batch])
    verdicts = [_judge(start, owned, now, max_losses) for start in batch]
    running = [start.delivery.receipt for start, verdict in zip(batch, verdicts, strict=True) if verdict is Verdict.RUN]
    if running:
        connection.execute(_START, (to_json(running),))
    return verdicts


def _judge(start: Start, owned: set[int], now: float, max_losses: int) -> Verdict:
    delivery = start.delivery
    if delivery.receipt not in owned:
        return Verdict.LOST
    if delivery.losses:
        if not start.acks_late:
            return Verdict.STARTED_BEFORE
        if delivery.losses >= max_losses:
            return Verdict.TOO_MANY_STARTS
    if delivery.expires_at is not None and delivery.expires_at <= now:
        return Verdict.EXPIRED
    return Verdict.RUN


def _owned(connection: Connection, leases: list[int]) -> tuple[float, set[int]]:
    """Return the time, and which of `leases` have not ended. A lease that ended has no row: this is the fence."""
    now, listed = connection.execute(_OWNED, (to_json(leases),)).fetchone()
    return now or 0.0, set(_read_numbers(listed))


# ---- keeping ----

_RENEW = f"UPDATE aiotask_leases SET until = {NOW} + ? WHERE lease IN {_AMONG}"  # noqa: S608


def renew(connection: Connection, leases: list[int], lease_s: float) -> list[int]:
    """Extend `leases`; return those that have ended."""
    _, owned = _owned(connection, leases)
    if owned:
        connection.execute(_RENEW, (lease_s, to_json(list(owned))))
    return [lease for lease in leases if lease not in owned]


# ---- ending ----

_RELEASE = f"""
INSERT INTO aiotask_waiting (queue, line, available_at, seq, deliveries, losses)
SELECT queue, priority, CASE
        WHEN json_extract(value, '$[1]') > 0 THEN {NOW} + json_extract(value, '$[1]')
        ELSE key * 1e-6 - {NOW} -- ahead of what waits, the latest first, in the order of the batch
    END, l.seq, deliveries, losses
FROM json_each(?)
CROSS JOIN aiotask_leases AS l ON lease = json_extract(value, '$[0]')
CROSS JOIN aiotask_messages AS m ON m.seq = l.seq
"""  # noqa: S608
_BURY = f"""
INSERT INTO aiotask_dead_letters (id, queue, reason, detail, died_at, body, body_bytes, content_type, priority)
SELECT m.id, queue, json_extract(value, '$[1]'), json_extract(value, '$[2]'), {NOW},
    coalesce(substr(body, 1, {DEAD_BODY_BYTES}), x''), length(body), content_type, priority -- substr(x'') is NULL
FROM json_each(?)
CROSS JOIN aiotask_leases AS l ON lease = json_extract(value, '$[0]')
CROSS JOIN aiotask_messages AS m ON m.seq = l.seq
"""  # noqa: S608
_REMOVE = f"""
DELETE FROM aiotask_messages WHERE seq IN (SELECT seq FROM aiotask_leases WHERE lease IN {_AMONG})
"""  # noqa: S608
_END = f"DELETE FROM aiotask_leases WHERE lease IN {_AMONG}"  # noqa: S608
_COUNT_STARTED = "UPDATE aiotask_leases SET losses = losses + started WHERE consumer = ?"
_HELD = "SELECT json_group_array(lease) FROM aiotask_leases WHERE consumer = ?"


def settle(connection: Connection, batch: Sequence[Settlement]) -> list[int]:
    """Carry out `batch`; return the positions of those whose lease has ended, which have no effect."""
    _, owned = _owned(connection, [settlement.delivery.receipt for settlement in batch])
    refused: list[int] = []
    ended: list[int] = []
    removed: list[int] = []
    released: list[tuple[int, float]] = []
    buried: list[tuple[int, str, str]] = []
    envelopes: list[Envelope] = []
    for position, settlement in enumerate(batch):
        lease = settlement.delivery.receipt
        if lease not in owned:
            refused.append(position)
            continue
        owned.discard(lease)  # a second settlement of it in this batch is refused
        ended.append(lease)
        if settlement.action == "release":
            released.append((lease, settlement.delay_s))
            continue
        removed.append(lease)
        if settlement.action == "dead":
            buried.append((lease, settlement.reason, settlement.detail))
        elif settlement.action == "replace" and settlement.envelope is not None:
            envelopes.append(settlement.envelope)
    if released:
        connection.execute(_RELEASE, (to_json(released),))
    if buried:
        connection.execute(_BURY, (to_json(buried),))
    if removed:
        connection.execute(_REMOVE, (to_json(removed),))
    if ended:
        connection.execute(_END, (to_json(ended),))
    if envelopes:
        publish(connection, pack_envelopes(envelopes))
    return refused


def finish(connection: Connection, batch: Sequence[Finish]) -> list[int]:
    """Settle `batch`, store its rows and publish its follow-ups, but for the refused, whose positions are returned."""
    refused = settle(connection, [finish.settlement for finish in batch])
    done = batch if not refused else [finish for at, finish in enumerate(batch) if at not in set(refused)]
    rows = [finish.row for finish in done if finish.row is not None]
    if rows:
        store_rows(connection, rows)
    follow_ups = [envelope for finish in done for envelope in finish.follow_ups]
    if follow_ups:
        publish(connection, pack_envelopes(follow_ups))
    return refused


def give_back(connection: Connection, leases: Sequence[int]) -> None:
    """Put the messages of `leases` ahead of what waits, where the lease has not ended."""
    if leases:
        connection.execute(_RELEASE, (to_json([(lease, 0.0) for lease in leases]),))
        connection.execute(_END, (to_json(leases),))


def give_back_all(connection: Connection, consumer: str) -> None:
    """Put all that `consumer` has ahead of what waits; what was started counts as lost."""
    connection.execute(_COUNT_STARTED, (consumer,))
    (listed,) = connection.execute(_HELD, (consumer,)).fetchone()
    give_back(connection, sorted(_read_numbers(listed)))
