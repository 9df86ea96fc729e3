import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from aiotask.cli.output import echo_fields, echo_table, from_words, printable, to_json


@dataclass
class Point:
    x: int


class Model(BaseModel):
    y: int


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        (" -2", -2),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('"1"', "1"),
        ('{"a": [1]}', {"a": [1]}),
        ("a", "a"),
        ("", ""),
        ("{", "{"),
        ("NaN", "NaN"),
        ("\udcff", "\udcff"),
        ("12345678901234567890123", 12345678901234567890123),
    ],
)
def test_from_words_reads_json_where_it_parses_else_text(text: str, value: Any) -> None:
    assert from_words(text) == value
    assert type(from_words(text)) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None]}, '{"a": [1, null]}'),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.10"), '"1.10"'),
        (b"ab", '"YWI="'),
        ({"a"}, '["a"]'),
        (math.nan, "null"),
        (Point(1), '{"x": 1}'),
        (Model(y=1), '{"y": 1}'),
        (object, "\"<class 'object'>\""),
        ({(1, 2): 3}, '{"(1, 2)": 3}'),
        ("é\ud800", "\"'\\\\xe9\\\\ud800'\""),
    ],
)
def test_to_json_returns_one_line_whatever_the_value_is(value: Any, text: str) -> None:
    assert to_json(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 日本", "plain é 日本"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x9b2J", "\\x9b2J"),
        ("a\u202eb\u2028", "a\\u202eb\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_printable_escapes_what_moves_the_cursor(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_table_aligns_text_to_the_left_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["NAME", "N"], [("a", 1), ("longer\n", 100)])

    assert capsys.readouterr().out == "NAME        N\na           1\nlonger\\n  100\n"


def test_table_shows_its_header_when_it_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["NAME", "N"], [])

    assert capsys.readouterr().out == "NAME  N\n"


def test_fields_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    echo_fields([("a", 1), ("long", "x")])

    assert capsys.readouterr().out == "a     1\nlong  x\n"
