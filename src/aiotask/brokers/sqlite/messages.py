"""What publishing, starting, keeping and settling do in the tables. Steps for the storage thread; no waiting in here.

Each takes a batch and costs a few statements however long it is (see `connections.sqlite.storage`). The tables are
described in `connections/sqlite/schema.sql`.
"""

from collections import defaultdict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from sqlite3 import Connection
from typing import Final, NamedTuple

import msgspec

from aiotask.brokers.sqlite import parking, presence, revoked
from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.rows import pack, store_rows, to_json
from aiotask.message import DEAD_BODY_BYTES, Envelope, Finish, Settlement, Start, Verdict

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


# ---- starting ----

_TO_BEGIN = f"""
SELECT {NOW}, json_group_array(lease), EXISTS (SELECT 1 FROM aiotask_revoked)
FROM aiotask_leases WHERE lease IN {_AMONG}
"""  # noqa: S608
_OWNED = f"SELECT {NOW}, json_group_array(lease) FROM aiotask_leases WHERE lease IN {_AMONG}"  # noqa: S608
_START = f"UPDATE aiotask_leases SET started = 1 WHERE lease IN {_AMONG}"  # noqa: S608


def begin(connection: Connection, batch: Sequence[Start], max_losses: int) -> list[Verdict]:
    """Judge each of `batch` in its order; mark those that may run as started."""
    leases = to_json([start.delivery.receipt for start in batch])
    now, listed, any_revoked = connection.execute(_TO_BEGIN, (leases,)).fetchone()
    owned = set(_read_numbers(listed))
    ended = revoked.among(connection, [start.delivery.id for start in batch]) if any_revoked else frozenset()
    verdicts = [_judge(start, owned, ended, now, max_losses) for start in batch]
    running = [start.delivery.receipt for start, verdict in zip(batch, verdicts, strict=True) if verdict is Verdict.RUN]
    if running:
        connection.execute(_START, (to_json(running),))
    return verdicts


def _judge(start: Start, owned: set[int], ended: AbstractSet[str], now: float, max_losses: int) -> Verdict:
    delivery = start.delivery
    if delivery.receipt not in owned:
        return Verdict.LOST
    if delivery.id in ended:
        return Verdict.REVOKED
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


def renew(connection: Connection, leases: list[int], consumer: str, lease_s: float) -> list[int]:
    """Extend `leases` of `consumer`, which shows that it is there; return those that have ended."""
    presence.keep(connection, consumer, lease_s)
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
    END, l.seq, deliveries, losses + json_extract(value, '$[2]')
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
    by_action: defaultdict[str, list[Settlement]] = defaultdict(list)
    for position, settlement in enumerate(batch):
        lease = settlement.delivery.receipt
        if lease not in owned:
            refused.append(position)
            continue
        owned.discard(lease)  # a second settlement of it in this batch is refused
        ended.append(lease)
        by_action[settlement.action].append(settlement)
    if released := by_action["release"]:
        listed = [(settlement.delivery.receipt, settlement.delay_s, int(settlement.lost)) for settlement in released]
        connection.execute(_RELEASE, (to_json(listed),))
    if parked := by_action["park"]:
        parking.park(connection, parked)
    if dead := by_action["dead"]:
        buried = [(settlement.delivery.receipt, settlement.reason, settlement.detail) for settlement in dead]
        connection.execute(_BURY, (to_json(buried),))
    if removed := [*by_action["ack"], *(replaced := by_action["replace"]), *dead]:
        connection.execute(_REMOVE, (to_json([settlement.delivery.receipt for settlement in removed]),))
    if ended:
        connection.execute(_END, (to_json(ended),))
    if envelopes := [settlement.envelope for settlement in replaced if settlement.envelope is not None]:
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
        connection.execute(_RELEASE, (to_json([(lease, 0.0, 0) for lease in leases]),))
        connection.execute(_END, (to_json(leases),))


def give_back_all(connection: Connection, consumer: str) -> None:
    """Put all that `consumer` has ahead of what waits; what was started counts as lost."""
    connection.execute(_COUNT_STARTED, (consumer,))
    (listed,) = connection.execute(_HELD, (consumer,)).fetchone()
    give_back(connection, sorted(_read_numbers(listed)))
