from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from amqp.serialization import loads as read_by_celery
from pamqp.decode import field_table

from aiotask.connections.amqp.tables import encode_table

TABLE: dict[str, Any] = {
    "small": -5,
    "large": 2**40,
    "float": 1.1,
    "huge": 1e300,
    "text": "tüx",
    "no text": b"caf\xe9",
    "moment": datetime(2026, 1, 1, 12, tzinfo=UTC),
    "decimal": Decimal("1.25"),
    "nothing": None,
    "yes": True,
    "no": False,
    "list": [1, "x", {"deep": b"\xff", "empty": []}],
    "table": {"in": {"it": {}}},
    "n" * 200: 1,
}


def test_what_was_read_is_written_as_it_came() -> None:
    encoded = encode_table({**TABLE, "bytes": bytearray(b"12")})
    assert field_table(encoded) == (len(encoded), {**TABLE, "bytes": bytearray(b"12")})


def test_celery_reads_what_is_written() -> None:
    [found], _ = read_by_celery("F", encode_table(TABLE), 0)
    assert found == {**TABLE, "moment": found["moment"]}
    assert found["moment"].replace(tzinfo=UTC) == TABLE["moment"]


def test_half_a_character_is_written_as_celery_writes_it() -> None:
    [found], _ = read_by_celery("F", encode_table({"name": "caf\udce9"}), 0)
    assert found == {"name": "caf\udce9"}


def test_time_is_that_of_its_offset_or_in_utc() -> None:
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    _, found = field_table(encode_table({"aware": moment, "naive": datetime(2026, 1, 1, 12)}))  # noqa: DTZ001
    assert found == {"aware": moment, "naive": datetime(2026, 1, 1, 12, tzinfo=UTC)}


@pytest.mark.parametrize(
    "value", [2**70, Decimal("1e30"), Decimal("NaN"), object(), {1, 2}], ids=lambda value: type(value).__name__
)
def test_what_amqp_does_not_have_is_refused_by_its_name(value: object) -> None:
    with pytest.raises(ValueError, match="'odd'"):
        encode_table({"list": [{"odd": value}]})


def test_long_name_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 255"):
        encode_table({"n" * 256: 1})
