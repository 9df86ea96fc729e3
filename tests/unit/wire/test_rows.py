"""Stored outcomes in Celery's layout."""

import contextlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import DecodeError, EncodeError
from aiotask.outcome import TaskMeta
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


def test_row_of_celery_s_own_is_read() -> None:
    row = (
        b'{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}, '
        b'"traceback": "Traceback", "children": null, "date_done": "2026-03-01T12:30:00.000001+00:00", '
        b'"task_id": "id-1", "unknown": 1}'
    )
    meta = decode_meta(row)
    assert (meta.state, meta.id, meta.children, meta.ready) == ("FAILURE", "id-1", [], True)
    assert meta.date_done == DONE.replace(microsecond=1)


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
        b"[]",
        b'{"status": 5, "result": 1, "traceback": null, "children": [], "date_done": null, "task_id": "x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [5], "date_done": null, "task_id": "x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [[]], "date_done": null, "task_id": "x"}',
        b'{"status":"A","result":{"__type__":"bytes","__value__":5},"traceback":null,"children":[],"date_done":null,"task_id":"x"}',
        b'{"status": "A", "result": 1, "traceback": null, "children": [], "date_done": "noon", "task_id": "x"}',
    ],
)
def test_bytes_are_refused_when_they_are_no_row(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^A stored result can't be read: "):
        decode_meta(data)


@given(st.binary())
def test_bytes_raise_nothing_but_decode_error_whatever_they_are(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_meta(data)
