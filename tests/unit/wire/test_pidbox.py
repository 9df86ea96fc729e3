"""Celery's remote control: what is asked of this node is read, whatever else comes is left alone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.wire.pidbox import OURS, Command, make_answer, make_command, read_answer, read_command

NODE = "web@host"
# Captured from `celery inspect ping`; ids shortened.
PING: dict[str, Any] = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
    "ticket": "a-ticket",
    "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "an-oid"},
}


def read(body: Any, **headers: Any) -> Command | None:
    return read_command(json.dumps(body).encode(), headers, NODE, 1000.0)


def test_command_is_read_and_answered_where_it_was_asked() -> None:
    command = read(PING, clock=7, expires=0)
    assert command == Command("ping", {}, ("reply.celery.pidbox", "an-oid"), "a-ticket", 7)
    answer = make_answer(command, NODE, {"ok": "pong"})
    assert answer is not None
    assert (answer.exchange, answer.routing_key) == ("reply.celery.pidbox", "an-oid")
    assert json.loads(answer.body) == {NODE: {"ok": "pong"}}
    assert answer.headers == {"ticket": "a-ticket", "clock": 8, "aiotask": True}


def test_nothing_is_answered_to_who_wants_no_answer() -> None:
    command = read(PING | {"reply_to": None, "ticket": None})
    assert command is not None
    assert make_answer(command, NODE, {"ok": "pong"}) is None


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({"destination": [NODE, "other@host"]}, True),
        ({"destination": ["other@host"]}, False),
        ({"destination": []}, False),
        ({"pattern": "web@*", "matcher": "glob"}, True),
        ({"pattern": "mail@*", "matcher": "glob"}, False),
        ({"pattern": ".*", "matcher": "pcre"}, False),
    ],
)
def test_command_is_for_who_is_meant(asked: dict[str, Any], meant: bool) -> None:
    assert (read(PING | asked) is not None) is meant


@pytest.mark.parametrize(("expires", "late"), [(0, False), (999.0, True), (1001.0, False), (None, False), ("x", False)])
def test_command_that_is_too_late_is_left_alone(expires: Any, late: bool) -> None:
    assert (read(PING, expires=expires) is None) is late


def test_answer_that_is_no_plain_value_is_its_repr() -> None:
    command = read(PING)
    assert command is not None
    answer = make_answer(command, NODE, {"ok": object})
    assert answer is not None
    assert json.loads(answer.body) == {NODE: {"ok": "<class 'object'>"}}


@given(st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode()))
def test_whatever_else_comes_is_no_command(body: bytes) -> None:
    assert read_command(body, {}, NODE, 0.0) is None


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.text(), st.dictionaries(st.text(), plain), plain)
def test_command_and_answer_are_read_as_they_were_made(method: str, arguments: dict[str, Any], reply: Any) -> None:
    body, headers = make_command(method, arguments, [NODE], "a-ticket", "replies")
    command = read_command(body, headers, NODE, 1e12)
    assert command == Command(method, arguments, ("", "replies"), "a-ticket", 0)
    answer = make_answer(command, NODE, reply)
    assert answer is not None
    assert read_answer(answer.body, answer.headers, "a-ticket") == {NODE: reply}
    assert OURS in answer.headers


def test_command_says_all_that_one_of_celery_does() -> None:
    body, headers = make_command("ping", {}, None, "a-ticket", "replies")
    assert json.loads(body) == PING | {"reply_to": {"exchange": "", "routing_key": "replies"}}
    assert headers == {"clock": 0, "expires": 0}


@pytest.mark.parametrize(
    ("body", "ticket"),
    [(b'{"a@b": 1}', "another"), (b'{"a@b": 1}', None), (b"[1]", "a-ticket"), (b"", "a-ticket"), (b"\xff", "a-ticket")],
)
def test_what_is_no_answer_to_the_ticket_is_left_alone(body: bytes, ticket: str | None) -> None:
    assert read_answer(body, {"ticket": ticket}, "a-ticket") == {}
