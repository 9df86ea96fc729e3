"""How result rows lie in Redis, and which of them are final."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask import states
from aiotask.connections.redis.rows import STORE_ROW, STORE_ROWS, is_final, row_key
from aiotask.outcome import TaskMeta
from aiotask.wire.rows import encode_meta


def test_row_lies_under_celery_s_key() -> None:
    assert row_key("88c8bb09") == "celery-task-meta-88c8bb09"


def test_script_knows_the_final_states() -> None:
    [table] = re.findall(r"^local FINAL = \{(.*)\}$", STORE_ROW, re.MULTILINE)
    assert sorted(table.split(", ")) == sorted(f"{state} = true" for state in states.READY_STATES)


def test_batch_s_script_begins_with_the_rule() -> None:
    assert STORE_ROWS.source.startswith(STORE_ROW)


@pytest.mark.parametrize("state", sorted(states.ALL_STATES | {"PROGRESS", "SUCCESSFUL", "SUC"}))
def test_row_is_final_when_its_state_is(state: str) -> None:
    assert bool(is_final(encode_meta(TaskMeta(id="a", state=state)))) == (state in states.READY_STATES)
    celery_s = b'{"status": "%s", "result": null, "traceback": null, "children": []}' % state.encode()
    assert bool(is_final(celery_s)) == (state in states.READY_STATES)


@pytest.mark.parametrize("row", [b"", b"SUCCESS", b'{"result":{"status":"SUCCESS"}}', b'["status":"SUCCESS"]', b"\xff"])
def test_row_is_not_final_when_it_is_none(row: bytes) -> None:
    assert not is_final(row)


@given(st.text(st.characters(categories=["Lu"], max_codepoint=127), min_size=1, max_size=12))
def test_forty_bytes_tell_what_the_whole_row_tells(state: str) -> None:
    row = encode_meta(TaskMeta(id="a", state=state, result="SUCCESS"))
    assert bool(is_final(row[:41])) == (state in states.READY_STATES)
