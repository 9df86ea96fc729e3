"""Batches as arguments: what is alike is said once, and times are whole milliseconds that are never early."""

from typing import Any

import pytest

from aiotask.brokers.redis.entries import pack_message
from aiotask.brokers.redis.keys import Keys
from aiotask.brokers.redis.packing import pack_envelopes, pack_finishes, pack_given_back
from aiotask.connections.redis.rows import RedisRow
from aiotask.message import Delivery, Envelope, Finish, Settlement

KEYS = Keys("aiotask")
MAIL, FEEDS = "aiotask:{mail}:", "aiotask:{feeds}:"


def envelope(queue: str = "mail", **fields: Any) -> Envelope:
    return Envelope("id", queue, b"body", "type", **fields)


def delivery(line: str = "5", entry_id: bytes = b"1-1") -> Delivery:
    return Delivery("id", "mail", b"body", "type", 5, (KEYS.line("mail", line), entry_id))


def test_messages_of_one_line_are_one_run() -> None:
    packed = pack_message(envelope())
    parcel = pack_envelopes(KEYS, [envelope(), envelope()])
    assert parcel.prefixes == [MAIL]
    assert parcel.args == [1, 5, "e", 2, packed, packed]


def test_run_ends_where_queue_priority_or_kind_change() -> None:
    batch = [envelope(), envelope("feeds"), envelope("feeds", priority=0), envelope("feeds", priority=0, ttl_s=1.0)]
    parcel = pack_envelopes(KEYS, batch)
    assert parcel.prefixes == [MAIL, FEEDS]
    packed = [pack_message(each) for each in batch]
    assert parcel.args == [
        *(1, 5, "e", 1, packed[0]),
        *(2, 5, "e", 1, packed[1]),
        *(2, 0, "e", 1, packed[2]),
        *(2, 0, "s", 1, packed[3], "", "+1000"),
    ]


@pytest.mark.parametrize(
    ("fields", "due", "expires"),
    [
        ({"delay_s": 0.0001}, "+1", ""),
        ({"delay_s": 0.0}, "", ""),
        ({"due_at": 12.3451}, "12346", ""),
        ({"delay_s": 1.5, "ttl_s": 2.0}, "+1500", "+2000"),
        ({"expires_at": 7.0}, "", "7000"),
    ],
)
def test_times_are_milliseconds_and_never_early(fields: dict[str, float], due: str, expires: str) -> None:
    assert pack_envelopes(KEYS, [envelope(**fields)]).args[-2:] == [due, expires]


def test_acknowledged_ones_are_a_run_with_rows_and_one_without() -> None:
    row = RedisRow("celery-task-meta-id", b"{}", True, 60_000)
    finishes = [
        Finish(Settlement(delivery(entry_id=b"1-1")), row),
        Finish(Settlement(delivery(entry_id=b"2-1")), row._replace(expires_ms=None)),
        Finish(Settlement(delivery(entry_id=b"3-1"))),
    ]
    assert pack_finishes(KEYS, finishes).args == [
        *(1, "5", "r", 2, b"1-1", row.key, b"{}", 60_000, b"2-1", row.key, b"{}", ""),
        *(1, "5", "a", 1, b"3-1"),
    ]


@pytest.mark.parametrize(
    ("settlement", "fate"),
    [
        (Settlement(delivery(), "release"), ["release", "5r", 0, 0]),
        (Settlement(delivery(), "release", delay_s=0.0101, lost=True), ["release", 5, 11, 1]),
        (Settlement(delivery(), "park", line="slow"), ["park", "slow", 5, ""]),
    ],
)
def test_what_becomes_of_a_message_is_said_in_four_words(settlement: Settlement, fate: list[Any]) -> None:
    assert pack_finishes(KEYS, [Finish(settlement)]).args == [1, "5", "o", 1, b"1-1", "", "", "", *fate, 0]


def test_replacement_is_the_first_of_the_follow_ups() -> None:
    replacement, follow_up = envelope(delay_s=1.0), envelope("feeds")
    settlement = Settlement(delivery(), "replace", envelope=replacement)
    parcel = pack_finishes(KEYS, [Finish(settlement, follow_ups=(follow_up,))])
    assert parcel.prefixes == [MAIL, FEEDS]
    assert parcel.args[8:] == [
        *("ack", "", "", "", 2),
        *(1, 5, pack_message(replacement), "+1000", ""),
        *(2, 5, pack_message(follow_up), "", ""),
    ]


@pytest.mark.parametrize(("line", "ahead"), [("5", "5r"), ("5r", "5r"), ("r", "r"), ("u", "r")])
def test_what_nobody_has_seen_goes_ahead_of_its_line(line: str, ahead: str) -> None:
    parcel = pack_given_back(KEYS, [(KEYS.line("mail", line), b"1-1")])
    assert parcel.args == [1, line, "o", 1, b"1-1", "", "", "", "release", ahead, 0, 0, 0]
