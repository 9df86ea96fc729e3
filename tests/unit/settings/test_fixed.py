"""Lists and mappings that can't be changed in place."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aiotask.settings.fixed import FixedDict, FixedList


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.append("b"),
        lambda value: value.extend(["b"]),
        lambda value: value.insert(0, "b"),
        lambda value: value.remove("a"),
        lambda value: value.pop(),
        lambda value: value.clear(),
        lambda value: value.sort(),
        lambda value: value.reverse(),
        lambda value: value.__setitem__(0, "b"),
        lambda value: value.__delitem__(0),
        lambda value: value.__imul__(2),
    ],
)
def test_a_list_says_how_to_change_the_setting_when_changed_in_place(change: Callable[[Any], Any]) -> None:
    value = FixedList(["a"])
    with pytest.raises(TypeError) as raised:
        change(value)
    assert str(raised.value) == (
        "the value of a setting can't be changed in place, where nothing would check it; "
        "assign a new one: app.conf.imports = [*app.conf.imports, 'proj.tasks']"
    )
    assert value == ["a"]


@pytest.mark.parametrize(
    "change",
    [
        lambda value: value.update(b=2),
        lambda value: value.setdefault("b", 2),
        lambda value: value.pop("a"),
        lambda value: value.popitem(),
        lambda value: value.clear(),
        lambda value: value.__setitem__("b", 2),
        lambda value: value.__delitem__("a"),
    ],
)
def test_a_mapping_refuses_when_changed_in_place(change: Callable[[Any], Any]) -> None:
    value = FixedDict(a=1)
    with pytest.raises(TypeError, match="assign a new one"):
        change(value)
    assert value == {"a": 1}


@pytest.mark.parametrize("value", [FixedList(["a"]), FixedDict(a=1)])
@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))], ids=["copy", "deep", "pickle"]
)
def test_copies_are_equal_and_fixed(value: Any, again: Callable[[Any], Any]) -> None:
    result = again(value)
    assert result == value
    assert type(result) is type(value)


def test_augmented_assignment_makes_a_plain_value() -> None:
    before = FixedList(["a"])
    names: Any = before
    names += ["b"]
    assert names == ["a", "b"]
    assert type(names) is list
    assert before == ["a"]
    table: Any = FixedDict(a=1)
    table |= {"b": 2}
    assert table == {"a": 1, "b": 2}
    assert type(table) is dict


def test_values_are_written_as_json_like_plain_ones() -> None:
    assert msgspec.json.encode([FixedList(["a"]), FixedDict(a=1)]) == b'[["a"],{"a":1}]'
