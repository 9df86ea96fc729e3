"""Durations and sizes as people write them."""

from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.settings.amounts import to_bytes, to_seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (30, 30.0),
        (0.5, 0.5),
        ("90", 90.0),
        ("90s", 90.0),
        ("250ms", 0.25),
        ("5m", 300.0),
        ("1.5h", 5400.0),
        (".5h", 1800.0),
        ("2d", 172800.0),
        (" 5 m ", 300.0),
        ("-5s", -5.0),
        (timedelta(minutes=1, milliseconds=500), 60.5),
    ],
)
def test_to_seconds_reads_numbers_text_and_timedeltas(value: Any, seconds: float) -> None:
    result = to_seconds(value)
    assert result == pytest.approx(seconds)
    assert type(result) is float


@pytest.mark.parametrize(
    "value",
    [
        "",
        "s",
        "5x",
        "5M",
        "1h30m",
        "five",
        "1e3",
        "\N{ARABIC-INDIC DIGIT FIVE}s",
        "9" * 400,
        10**400,
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        {},
    ],
)
def test_to_seconds_refuses_what_is_no_duration(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        to_seconds(value)


@given(st.integers(0, 10**9), st.sampled_from([("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]))
def test_to_seconds_multiplies_exactly(number: int, unit: tuple[str, int]) -> None:
    assert to_seconds(f"{number}{unit[0]}") == number * unit[1]


@given(st.timedeltas())
def test_to_seconds_agrees_with_timedelta(length: timedelta) -> None:
    assert to_seconds(length) == length.total_seconds()


@given(st.text())
def test_to_seconds_gives_a_float_or_refuses_when_given_any_text(text: str) -> None:
    with suppress(ValueError):
        assert type(to_seconds(text)) is float


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (1024, 1024),
        ("1024", 1024),
        ("10B", 10),
        ("64KiB", 65536),
        ("1MiB", 1048576),
        ("1mib", 1048576),
        ("1.5 MiB", 1572864),
        ("2MB", 2000000),
        ("5kB", 5000),
        ("1GB", 10**9),
        ("1GiB", 2**30),
        ("-1", -1),
    ],
)
def test_to_bytes_reads_numbers_and_text(value: Any, size: int) -> None:
    result = to_bytes(value)
    assert result == size
    assert type(result) is int


@pytest.mark.parametrize("value", ["", "MiB", "1TB", "0.3B", f"{'9' * 400}.5KiB", 1.0, True, None, timedelta(1), []])
def test_to_bytes_refuses_what_is_no_size(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        to_bytes(value)


@given(st.text())
def test_to_bytes_gives_an_int_or_refuses_when_given_any_text(text: str) -> None:
    with suppress(ValueError):
        assert type(to_bytes(text)) is int
