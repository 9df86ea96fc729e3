"""Commands and answers as bytes."""

from typing import Any

import pytest

from aiotask.wire.commands import carry_out, pack, unpack


@pytest.mark.parametrize(
    "value", [None, True, 1.5, "ü\x00", [1, {"a": []}], {"task_id": ["a", "b"], "terminate": False}]
)
def test_plain_value_is_unchanged_when_it_was_packed(value: Any) -> None:
    assert unpack(pack(value)) == value


def test_answer_is_what_the_command_returns() -> None:
    answer = carry_out({"echo": lambda arguments: {"ok": arguments["text"]}}, "echo", pack({"text": "a"}))
    assert unpack(answer) == {"ok": "a"}


@pytest.mark.parametrize(
    ("command", "arguments", "error"),
    [
        ("no_such_command", b"{}", "KeyError('no_such_command')"),
        ("fail", b"{}", "ZeroDivisionError('of this')"),
        ("fail", b"{", "DecodeError"),
        ("circle", b"{}", "RecursionError"),
    ],
)
def test_answer_is_an_error_when_anything_goes_wrong(command: str, arguments: bytes, error: str) -> None:
    circle: list[Any] = []
    circle.append(circle)

    def fail(_: Any) -> None:
        raise ZeroDivisionError("of this")

    answer = unpack(carry_out({"fail": fail, "circle": lambda _: circle}, command, arguments))
    assert list(answer) == ["error"]
    assert error in answer["error"]


def test_repr_is_answered_when_a_value_is_not_plain() -> None:
    assert unpack(carry_out({"odd": lambda _: [range(3)]}, "odd", b"{}")) == ["range(0, 3)"]
