"""Our own message format: exact, extensible, and hard to break."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import DecodeError
from aiotask.message import TaskMessage
from aiotask.wire.native import NativeCodec

codec = NativeCodec()

FULL = TaskMessage(
    "proj.add",
    "id-1",
    b'[[2,3],{"a":null}]',
    retries=2,
    root_id="root",
    parent_id="parent",
    eta=1.5,
    expires=2.5,
    priority=0,
    ignore_result=False,
    origin="gen1@host",
    headers={"trace": "00-ab", "depth": [1, {"x": None}], "raw": b"\xff"},
    compression="application/x-gzip",
    shadow="other",
    argsrepr="(...)",
    kwargsrepr="{...}",
)


@pytest.mark.parametrize("message", [FULL, TaskMessage("t", "i", b"[[],{}]")])
def test_message_comes_back_whole(message: TaskMessage) -> None:
    assert codec.decode(codec.encode(message)) == message


def test_message_is_read_when_a_later_version_has_added_fields() -> None:
    fields = msgspec.msgpack.decode(codec.encode(FULL))
    assert codec.decode(msgspec.msgpack.encode([*fields, "new", {"newer": 1}])) == FULL


def test_new_fields_stand_at_the_end_so_that_messages_under_way_are_read() -> None:
    assert list(TaskMessage.__struct_fields__)[:17] == [
        *("task", "id", "payload", "content_type", "retries", "root_id", "parent_id", "eta", "expires", "priority"),
        *("ignore_result", "origin", "headers", "compression", "shadow", "argsrepr", "kwargsrepr"),
    ]


def test_message_is_read_when_an_earlier_version_knew_fewer_fields() -> None:
    assert codec.decode(msgspec.msgpack.encode(["t", "i", b"[[],{}]"])) == TaskMessage("t", "i", b"[[],{}]")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(["t", "i"]),
        msgspec.msgpack.encode({"task": "t", "id": "i", "payload": b""}),
        msgspec.msgpack.encode([5, "i", b""]),
        msgspec.msgpack.encode(["t", None, b""]),
        msgspec.msgpack.encode(["t", "i", b"", "application/json", "twice"]),
        codec.encode(FULL)[:-1],
        codec.encode(FULL) + b"\x00",
        b"\x91" * 100_000,
        b'["t", "i", "e30="]',
    ],
)
def test_body_is_refused_when_it_is_no_message(body: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^Not a message of application/vnd\.aiotask\+msgpack: "):
        codec.decode(body)


@given(st.binary())
def test_body_raises_nothing_but_decode_error_whatever_it_is(body: bytes) -> None:
    with contextlib.suppress(DecodeError):
        codec.decode(body)
