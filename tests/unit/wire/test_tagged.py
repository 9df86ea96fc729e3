"""Celery's tags: kombu's spelling, both ways, and nothing a message says can break the reader."""

import contextlib
import dataclasses
import enum
import json
from collections import OrderedDict, defaultdict
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.wire.tagged import has_tags, tag, untag

ZONE = timezone(timedelta(hours=-3))

HEX = "b5b0a1c5e2f04f4e8d5b6c6a1f3e2d1c"
OLD_HEX = "12345678123456781234567812345678"

# The value, and what kombu 5 writes for it: the tag's type and its value.
KOMBU = [
    (datetime(2026, 3, 1, 12, 30, 15, 250000, ZONE), "datetime", "2026-03-01T12:30:15.250000-03:00"),
    (datetime(2026, 3, 1, 12), "datetime", "2026-03-01T12:00:00"),  # noqa: DTZ001
    (date(2026, 3, 1), "date", "2026-03-01"),
    (time(12, 30), "time", "12:30:00"),
    (UUID(HEX), "uuid", {"hex": HEX, "version": 4}),
    (UUID(OLD_HEX), "uuid", {"hex": OLD_HEX, "version": None}),
    (Decimal("1.10"), "decimal", "1.10"),
    (b"\x00\xff", "base64", "AP8="),
]


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Holder:
    held: Any


class Crate(msgspec.Struct):
    held: Any


class Labelled(msgspec.Struct, tag="crate", rename="camel", omit_defaults=True):
    what_is_in: Any
    more: int = 3
    absent: int | msgspec.UnsetType = msgspec.UNSET


class Row(msgspec.Struct, array_like=True):
    held: Any


class Model(pydantic.BaseModel):
    held: float


class ByAttrs:
    """What msgspec knows a class of attrs by."""

    __attrs_attrs__ = ()

    def __init__(self, held: Any) -> None:
        self.held = held


@pytest.mark.parametrize(("value", "kind", "written"), KOMBU)
def test_value_is_tagged_as_kombu_does_and_comes_back(value: Any, kind: str, written: Any) -> None:
    tagged = {"__type__": kind, "__value__": written}
    assert tag(value) == tagged
    assert untag(tagged) == value
    assert type(untag(tagged)) is type(value)


def test_kombu_s_text_bytes_are_read() -> None:
    assert untag({"__type__": "bytes", "__value__": "größe"}) == "größe".encode()


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_float_that_json_lacks_comes_back(value: float) -> None:
    assert tag(value)["__type__"] == "float"
    assert untag(tag(value)) == value


def test_not_a_number_comes_back() -> None:
    value = untag(tag(float("nan")))
    assert value != value


@pytest.mark.parametrize("value", ["x", 5, True, None, 2.5, {"a": [1, {"b": "c"}]}])
def test_value_is_left_alone_when_json_has_it(value: Any) -> None:
    assert tag(value) == value


def test_containers_are_entered_whatever_their_class() -> None:
    moment = date(2026, 3, 1)
    tagged = {"__type__": "date", "__value__": "2026-03-01"}
    for container in ([moment], (moment,), {moment}, frozenset([moment])):
        assert tag(container) == [tagged]
    assert tag(Pair(moment, float("inf"))) == [tagged, {"__type__": "float", "__value__": "inf"}]
    assert tag({"a": {"b": [moment]}}) == {"a": {"b": [tagged]}}
    assert tag(OrderedDict(a=moment)) == {"a": tagged}
    assert tag(defaultdict(list, a=float("nan"))) == {"a": {"__type__": "float", "__value__": "nan"}}


def test_subclass_is_tagged_as_its_base() -> None:
    class Moment(datetime):
        """As pendulum has one."""

    class Number(float):
        """As numpy has one."""

        def __repr__(self) -> str:
            return "Number"

    class Text(str):
        """As MarkupSafe has one."""

        __slots__ = ()

    class Count(int):
        pass

    assert tag(Moment(2026, 3, 1)) == {"__type__": "datetime", "__value__": "2026-03-01T00:00:00"}
    assert tag(Number("inf")) == {"__type__": "float", "__value__": "inf"}
    for value, plain in ((Text("x"), "x"), (Count(3), 3), (Number(2.5), 2.5)):
        assert tag(value) == plain
        assert type(tag(value)) is type(plain)


@pytest.mark.parametrize("kind", [Holder, Crate, ByAttrs])
@pytest.mark.parametrize("value", [*(case[0] for case in KOMBU), float("inf"), bytearray(b"x"), {"a": [(1, b"x")]}])
def test_value_in_a_field_is_tagged_as_it_is_by_itself(kind: type, value: Any) -> None:
    assert tag(kind(value)) == {"held": tag(value)}
    assert tag([{"a": kind(kind(value))}]) == [{"a": {"held": {"held": tag(value)}}}]


def test_not_a_number_in_a_field_comes_back() -> None:
    for holder in (Holder, Crate, Model):
        value = untag(tag(holder(held=float("nan"))))["held"]
        assert value != value


def test_value_in_a_field_of_a_subclass_or_a_model_is_tagged_as_it_is_by_itself() -> None:
    class Number(float):
        """As numpy has one."""

    class Moment(datetime):
        """As pendulum has one."""

    for value in (Number("inf"), Moment(2026, 3, 1), Model(held=float("inf"))):
        assert tag(Holder([value])) == {"held": [tag(value)]}


def test_fields_are_those_that_msgspec_writes_under_the_names_that_it_writes() -> None:
    moment = date(2026, 3, 1)
    assert tag(Labelled(moment)) == {"type": "crate", "whatIsIn": tag(moment)}
    assert tag(Row(moment)) == [tag(moment)]


def test_field_that_is_encoded_already_is_left_alone() -> None:
    raw = msgspec.Raw(b"[1]")
    assert tag(Crate(raw))["held"] is raw


def test_field_without_a_tag_is_refused_by_its_class() -> None:
    with pytest.raises(TypeError, match=r"builtins\.object is not serialisable as JSON"):
        tag(Holder([object()]))


def test_enum_is_left_to_the_encoder_though_it_is_a_text_too() -> None:
    class Colour(enum.StrEnum):
        RED = "red"

    assert tag([Colour.RED]) == [Colour.RED]
    assert type(tag([Colour.RED])[0]) is Colour


def test_object_without_a_tag_is_left_for_the_encoder_to_judge() -> None:
    nameless = object()
    assert tag([nameless]) == [nameless]


@pytest.mark.parametrize(
    "mapping",
    [
        {"__type__": "no_such_tag", "__value__": "x"},
        {"__type__": ["datetime"], "__value__": "x"},
        {"__type__": "datetime"},
        {"__type__": "datetime", "__value__": "2026-03-01", "more": 1},
    ],
)
def test_mapping_stays_one_when_it_is_no_tag(mapping: dict[str, Any]) -> None:
    assert untag(mapping) == mapping


def test_tags_are_looked_for_in_the_bytes() -> None:
    assert has_tags(b'[{"__type__":"date","__value__":"2026-03-01"}]')
    assert not has_tags(b'["__value__"]')


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["hex", "version", "a"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.sampled_from(["datetime", "date", "time", "uuid", "decimal", "bytes", "base64", "float", "other"]), plain_json
)
def test_tag_raises_only_what_readers_expect_whatever_it_holds(kind: str, value: Any) -> None:
    with contextlib.suppress(ValueError, TypeError, LookupError, ArithmeticError):
        untag({"__type__": kind, "__value__": value})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.datetimes(timezones=st.none() | st.just(ZONE))
    | st.dates()
    | st.times()
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(values)
def test_values_come_back_through_real_json(value: Any) -> None:
    assert untag(json.loads(json.dumps(tag(value), allow_nan=False))) == value
