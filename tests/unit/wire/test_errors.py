"""Exceptions as plain values and back: whatever is raised has an answer, and nothing runs because a record says so."""

import asyncio
import builtins
import dataclasses
import sys
import types
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import NotRegistered, RemoteError
from aiotask.wire.errors import describe, format_traceback, from_record, text_of, to_record
from aiotask.wire.serialization import JSON


class Declined(Exception):
    """An exception as programs define them: the constructor has its own idea of arguments."""

    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(f"declined with {code}")
        self.code = code
        self.hint = hint


class Picky(Exception):
    def __init__(self) -> None:
        super().__init__("from nothing")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no str")

    __repr__ = __str__


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Argless(Exception):
    args = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Outer:
    class Inner(Exception):
        pass


def raised(exc: BaseException) -> BaseException:
    """Return `exc` with a traceback."""
    try:
        raise exc
    except BaseException as caught:
        return caught


def across(exc: BaseException) -> Exception:
    """Return what a caller gets of it."""
    return from_record(JSON.decode(JSON.encode(to_record(exc))), format_traceback(raised(exc)))


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x", 1, None),
        KeyError("k"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        FileNotFoundError(2, "No such file"),
        TimeoutError(),
        StopIteration(5),
        NotRegistered("No task."),
        Declined(5),
        Picky(),
        Frozen(5),
        Outer.Inner("nested"),
        ArithmeticError(),
    ],
)
def test_exception_comes_back_as_its_class_with_its_args_when_the_caller_has_it(exc: Exception) -> None:
    back = across(exc)
    assert type(back) is type(exc)
    assert back.args == exc.args
    assert str(back) == str(exc)


@pytest.mark.parametrize("exc", [ValueError("x"), Frozen(5), Declined(5)])
def test_exception_has_the_remote_traceback_as_a_note(exc: Exception) -> None:
    [note] = across(exc).__notes__
    assert note.startswith("\nRemote traceback:\nTraceback (most recent call last):")
    assert "in raised" in note
    assert not hasattr(from_record(to_record(exc), None), "__notes__")


@pytest.mark.parametrize("exc", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError("x")])
def test_exception_that_would_end_the_caller_comes_back_as_a_remote_error_of_its_name(exc: BaseException) -> None:
    back = across(exc)
    assert isinstance(back, RemoteError)
    assert type(back).__name__ == type(exc).__name__
    assert back.args == exc.args


def test_exception_comes_back_as_a_remote_error_of_its_name_when_the_caller_has_not_got_the_class() -> None:
    class Local(Exception):
        pass

    back = across(Local("why", 5))
    assert isinstance(back, RemoteError)
    assert type(back).__name__ == "Local"
    assert type(back).__module__ == __name__
    assert back.args == ("why", 5)
    assert type(across(Local("again"))) is type(back)


@pytest.mark.parametrize(
    "exc", [ValueError(object()), ExceptionGroup("many", [ValueError(1), KeyError(2)]), Argless(5)]
)
def test_exception_becomes_a_remote_error_with_its_repr_when_its_args_are_no_plain_values(exc: Exception) -> None:
    back = across(exc)
    assert type(back) is RemoteError
    assert str(back) == repr(exc)


@pytest.mark.parametrize("kind", [Mute, Deadly])
def test_exception_is_described_when_its_own_str_and_repr_fail(kind: type[Exception]) -> None:
    why = "SystemExit" if kind is Deadly else "ValueError"
    assert describe(kind()) == text_of(kind()) == f"<{kind.__name__} whose repr raised {why}>"
    assert kind.__name__ in format_traceback(raised(kind()))
    assert type(across(kind("x"))) is kind
    assert type(across(kind(object()))) is RemoteError


def test_file_name_with_undecodable_bytes_is_written_with_escapes() -> None:
    exc = OSError("can't open 'caf\udce9'")
    for text in (text_of(exc), format_traceback(raised(exc)), describe(exc)):
        text.encode("utf-8")
        assert "\\udce9" in text
    assert type(across(exc)) is RemoteError


def test_traceback_has_causes_notes_and_the_parts_of_a_group() -> None:
    exc = ExceptionGroup("many", [ValueError("inner")])
    exc.add_note("a note")
    exc.__cause__ = KeyError("the cause")
    text = format_traceback(exc)
    assert "inner" in text
    assert "a note" in text
    assert "the cause" in text


@pytest.mark.parametrize(
    "record",
    [
        {"exc_type": "system", "exc_message": ["id"], "exc_module": "os"},
        {"exc_type": "SystemExit", "exc_message": [3], "exc_module": "builtins"},
        {"exc_type": "KeyboardInterrupt", "exc_message": [], "exc_module": None},
        {"exc_type": "eval", "exc_message": ["1"], "exc_module": "builtins"},
        {"exc_type": "object", "exc_message": [], "exc_module": "builtins"},
        {"exc_type": "sys.exit", "exc_message": [3], "exc_module": "os"},
        {"exc_type": "Error", "exc_message": [], "exc_module": "this_module_would_be_imported"},
        {"exc_type": "", "exc_message": [], "exc_module": ""},
        {"exc_type": "__class__", "exc_message": [], "exc_module": "builtins"},
        {"exc_type": "a\nb\x00", "exc_message": "no list", "exc_module": 5},
    ],
)
def test_record_makes_nothing_but_exceptions_and_imports_nothing(record: dict[str, Any]) -> None:
    before = set(sys.modules)
    assert isinstance(from_record(record, None), RemoteError)
    assert set(sys.modules) == before


def test_record_asks_no_module_to_load_the_class_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = types.ModuleType("lazy_module")
    asked: list[str] = []

    def on_demand(name: str) -> type[Exception]:
        asked.append(name)
        return ValueError

    lazy.__getattr__ = on_demand  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy_module", lazy)
    back = from_record({"exc_type": "Error", "exc_message": [], "exc_module": "lazy_module"}, None)
    assert isinstance(back, RemoteError)
    assert asked == []


@pytest.mark.parametrize("value", [None, 5, "reason", [], {}, {"exc_type": 5}])
def test_record_is_shown_as_it_is_when_it_is_none_of_ours(value: Any) -> None:
    back = from_record(value, None)
    assert type(back) is RemoteError
    assert back.args == (value,)


json_values = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(
    st.dictionaries(st.sampled_from(["exc_type", "exc_message", "exc_module"]), json_values)
    | st.fixed_dictionaries(
        {
            "exc_type": st.sampled_from(dir(builtins)),
            "exc_message": st.lists(json_values, max_size=3),
            "exc_module": st.just("builtins"),
        }
    )
)
def test_record_always_makes_an_exception_whatever_it_says(record: dict[str, Any]) -> None:
    assert isinstance(from_record(record, "Traceback"), Exception)
