"""Stored outcomes in Celery's layout."""

import contextlib
import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import DecodeError, EncodeError
from aiotask.outcome import Packed, TaskMeta
from aiotask.wire.rows import decode_meta, encode_meta

DONE = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

FULL = TaskMeta(
    id="id-1",
    state="SUCCESS",
    result={"total": Decimal("1.10")},
    traceback="Traceback ...",
    children=["a", "b"],
    date_done=DONE,
    name="proj.add",
    args=[1, date(2026, 3, 1)],
    kwargs={"raw": b"\xff"},
    retries=2,
    worker="web@host",
    queue="mail",
    parent_id="parent",
    group_id="group",
)


@pytest.mark.parametrize("meta", [FULL, TaskMeta(id="id-1"), TaskMeta(id="id-1", state="PROGRESS", result={"n": 1})])
def test_meta_comes_back_whole(meta: TaskMeta) -> None:
    assert decode_meta(encode_meta(meta)) == meta


def test_status_is_the_first_key_so_that_forty_bytes_tell_a_final_state() -> None:
    assert encode_meta(FULL)[:40].startswith(b'{"status":"SUCCESS",')


@pytest.mark.parametrize("compression", [None, "application/x-gzip"])
def test_packed_result_stays_packed_beside_a_result_that_is_null(compression: str | None) -> None:
    packed = Packed("application/x-msgpack", compression, b"\x93\x01\x02\xff")
    meta = TaskMeta(id="id-1", state="SUCCESS", result=packed, args=[date(2026, 3, 1)])
    row = encode_meta(meta)
    assert row.startswith(b'{"status":"SUCCESS","result":null,')
    assert decode_meta(row) == meta


def test_result_that_looks_like_a_packed_one_is_none() -> None:
    look_alike = {"content_type": "application/x-python-serialize", "compression": None, "data": "AAAA"}
    for result in (look_alike, {"packed": look_alike}, {"__type__": "packed", "__value__": look_alike}):
        assert decode_meta(encode_meta(TaskMeta(id="id-1", state="SUCCESS", result=result))).result == result


def test_row_has_celery_s_keys() -> None:
    row = json.loads(encode_meta(FULL))
    assert list(row)[:6] == ["status", "result", "traceback", "children", "date_done", "task_id"]
    assert row["children"] == [[["a", None], None], [["b", None], None]]
    assert row["date_done"] == "2026-03-01T12:30:00Z"
    assert json.loads(encode_meta(TaskMeta(id="id-1"))) == {
        "status": "PENDING",
        "result": None,
        "traceback": None,
        "children": [],
        "date_done": None,
        "task_id": "id-1",
    }


def test_float_that_json_lacks_is_in_a_row_as_celery_has_it() -> None:
    meta = TaskMeta(
        id="id-1", state="SUCCESS", result=math.inf, args=[-math.inf], kwargs={"a": math.inf}, children=["b"]
    )
    meta.date_done = DONE
    row = encode_meta(meta)
    assert b'"result":Infinity,' in row
    assert b'"args":[-Infinity],"kwargs":{"a":Infinity}' in row
    assert decode_meta(row) == meta
    assert math.isnan(decode_meta(encode_meta(TaskMeta(id="id-1", result=math.nan))).result)


def test_packed_result_is_read_beside_a_float_that_json_lacks() -> None:
    packed = Packed("application/x-msgpack", None, b"\x93\x01\x02\xff")
    meta = TaskMeta(id="id-1", state="SUCCESS", result=packed, args=[math.inf], date_done=DONE)
    assert decode_meta(encode_meta(meta)) == meta


def test_float_with_our_tag_is_read_in_a_row() -> None:
    row = b'{"status":"SUCCESS","result":{"__type__":"float","__value__":"-inf"},"task_id":"id-1"}'
    assert decode_meta(row).result == -math.inf


def test_half_a_surrogate_pair_is_read_in_a_row_of_celery_s() -> None:
    assert decode_meta(b'{"status": "SUCCESS", "result": "caf\\udce9", "task_id": "id-1"}').result == "caf\udce9"


def test_row_of_celery_s_own_is_read() -> None:
    row = (
        b'{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}, '
        b'"traceback": "Traceback", "children": null, "date_done": "2026-03-01T12:30:00.000001+00:00", '
        b'"task_id": "id-1", "unknown": 1}'
    )
    meta = decode_meta(row)
    assert (meta.state, meta.id, meta.children, meta.ready) == ("FAILURE", "id-1", [], True)
    assert meta.date_done == DONE.replace(microsecond=1)


CAPTURED = Path(__file__).with_name("celery_rows.jsonl").read_bytes().splitlines()
"""What Celery 5.7 has stored, tracebacks shortened; it puts a blank after each comma and colon."""


def of_celery(meta: TaskMeta) -> tuple[Any, ...]:
    return meta.id[:8], meta.state, meta.result, [child[:8] for child in meta.children], meta.date_done


def test_rows_that_celery_has_stored_are_read() -> None:
    plain, extended, in_group, parent, failed, revoked, started, progress, retried = map(decode_meta, CAPTURED)

    def done(micro: int) -> datetime:
        return datetime(2026, 11, 21, 12, 28, 41, micro, tzinfo=UTC)

    def error(kind: str, *args: str, module: str = "builtins") -> dict[str, Any]:
        return {"exc_type": kind, "exc_message": list(args), "exc_module": module}

    assert of_celery(plain) == ("ea5fa2c7", "SUCCESS", 3, [], done(110105))
    assert (extended.name, extended.args, extended.kwargs) == ("t.integration.tasks.add", [1, 2], {})
    assert (extended.worker, extended.retries, extended.queue) == ("celery@vm", 0, "celery")
    assert in_group.group_id == "9215f3d4-ea4e-4069-ac9e-a5cbe39b3a21"
    assert in_group.parent_id == "2678585c-8292-41ff-a22a-bb3941b9e5fa"
    # A task, then a group of two: its members stand for it.
    returned = [datetime(2026, 1, 1)]  # noqa: DTZ001 - what the task has returned
    assert of_celery(parent) == ("0650af2e", "SUCCESS", returned, ["64dc39e2", "01603061", "cbd43fb5"], done(147732))
    assert of_celery(failed) == ("27046f42", "FAILURE", error("Custom", "no", "way", module="capp"), [], done(114927))
    assert failed.traceback is not None
    assert failed.traceback.endswith("capp.Custom: ('no', 'way')\n")
    reason = error("TaskRevokedError", "revoked", module="celery.exceptions")
    assert of_celery(revoked) == ("7f39d3a7", "REVOKED", reason, [], done(133261))
    assert of_celery(started) == ("ea5fa2c7", "STARTED", {"pid": 5647, "hostname": "celery@vm"}, [], None)
    assert of_celery(progress) == ("0f57b31e", "PROGRESS", {"n": 1}, [], None)
    assert of_celery(retried) == ("71541211", "RETRY", error("ValueError", "x"), ["71541211"], None)


def test_time_is_utc_when_an_older_celery_does_not_say_so() -> None:
    row = b'{"status": "SUCCESS", "result": 1, "date_done": "2026-03-01T12:30:00.000001", "task_id": "id-1"}'
    assert decode_meta(row) == TaskMeta(id="id-1", state="SUCCESS", result=1, date_done=DONE.replace(microsecond=1))


def test_row_is_read_when_it_tells_nothing_but_a_state() -> None:
    assert decode_meta(b'{"status": "PENDING", "task_id": "id-1"}') == TaskMeta(id="id-1")


def test_child_is_read_when_it_has_no_parent_s_place() -> None:
    assert decode_meta(b'{"status": "SUCCESS", "children": [["a", null]], "task_id": "id-1"}').children == ["a"]


@pytest.mark.parametrize("part", ["result", "args", "kwargs"])
def test_meta_is_refused_when_a_part_can_not_be_serialised(part: str) -> None:
    values: dict[str, Any] = {"result": object(), "args": [object()], "kwargs": {"a": object()}}
    with pytest.raises(EncodeError, match=r"\$.*object is not serialisable"):
        encode_meta(TaskMeta(id="id-1", **{part: values[part]}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"NaN",
        b'{"status": 5, "result": NaN, "task_id": "x"}',
        b'{"status": "A", "result": NaN, "\\ud800": 1, "task_id": "\\ud800"',
        b"[]",
        b'{"status": 5, "result": 1, "traceback": null, "children": [], "date_done": null, "task_id": "x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [5], "date_done": null, "task_id": "x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [[]], "date_done": null, "task_id": "x"}',
        b'{"status": "A", "children": [[[5, null], null]], "task_id": "x"}',
        b'{"status": "A", "children": [[["a", null], 5]], "task_id": "x"}',
        b'{"status": "A"}',
        b'{"status":"A","result":{"__type__":"bytes","__value__":5},"traceback":null,"children":[],"date_done":null,"task_id":"x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [], "date_done": "noon", "task_id": "x"}',
        b'{"status":"A","result":1,"traceback":null,"children":[],"date_done":null,"task_id":"x","packed":"AAAA"}',
    ],
)
def test_bytes_are_refused_when_they_are_no_row(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^A stored result can't be read: "):
        decode_meta(data)


@given(st.binary())
def test_bytes_raise_nothing_but_decode_error_whatever_they_are(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_meta(data)
