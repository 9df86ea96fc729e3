"""MessagePack, pickle and registered serializers: what comes back, what is refused, and what each refusal says."""

import contextlib
import dataclasses
import enum
import json
import math
import pickle
from ast import literal_eval
from collections import defaultdict, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import DecodeError, EncodeError
from aiotask.wire.formats import MsgpackSerializer, PickleSerializer, RegisteredSerializer

MSGPACK = MsgpackSerializer()
PICKLE = PickleSerializer()

Pair = namedtuple("Pair", "a b")  # noqa: PYI024 - the untyped kind


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    raw: bytes = b""


class Opaque:
    pass


class Hostile:
    def __reduce__(self) -> Any:
        raise RuntimeError("not now")


def registered(encode: Callable[[Any], Any], decode: Callable[[Any], Any], encoding: str = "utf-8") -> Any:
    return RegisteredSerializer("mine", encode, decode, "application/x-mine", encoding)


PLAIN = [
    *(None, True, 0, -(2**63), 2**64 - 1, 1.5, math.inf, "größe", b"", b"\xff\x00", [], {}, [[1], {"a": [None]}]),
    *(datetime(2026, 3, 1, 12, tzinfo=UTC), datetime(2026, 3, 1, 12), date(2026, 3, 1), time(12, 30), Decimal("0.10")),  # noqa: DTZ001
    *(UUID(int=5), {"deep": [{"at": date(2026, 3, 1), "raw": b"\xff"}]}, {1: "a"}),
]


@pytest.mark.parametrize("value", PLAIN)
@pytest.mark.parametrize("serializer", [MSGPACK, PICKLE], ids=["msgpack", "pickle"])
def test_value_comes_back_as_its_type(serializer: Any, value: Any) -> None:
    back = serializer.decode(serializer.encode(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value", [(1, (2, 3)), {1, 2}, frozenset({1}), 1 + 2j, Point(1), Colour.RED, Pair(1, 2), range(3), 2**70]
)
def test_pickle_brings_any_python_value(value: Any) -> None:
    assert PICKLE.decode(PICKLE.encode(value)) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({1}, [1]),
        (Point(1), {"x": 1, "raw": b""}),
        ([Point(1, b"\xff")], [{"x": 1, "raw": b"\xff"}]),
        (Colour.RED, "red"),
        (Pair(1, b"x"), [1, b"x"]),
        (defaultdict(list, a=[date(2026, 3, 1)]), {"a": [date(2026, 3, 1)]}),
        (bytearray(b"x"), b"x"),
        ({"__type__": "x", "__value__": 1}, {"__type__": "x", "__value__": 1}),
    ],
)
def test_msgpack_brings_as_plain_values_what_only_annotations_could_tell(value: Any, plain: Any) -> None:
    assert MSGPACK.decode(MSGPACK.encode(value)) == plain


def test_msgpack_carries_bytes_as_they_are() -> None:
    assert len(MSGPACK.encode({"raw": bytes(10_000)})) < 10_020


def test_not_a_number_comes_back() -> None:
    assert math.isnan(MSGPACK.decode(MSGPACK.encode(math.nan)))


@pytest.mark.parametrize(
    ("serializer", "value", "said"),
    [
        (MSGPACK, Opaque(), "Can't serialise $ as MessagePack: "),
        (MSGPACK, [[1, {"a": Opaque()}], {}], "Can't serialise $[0][1].a as MessagePack: "),
        (MSGPACK, [2**70], "Can't serialise $[0] as MessagePack: "),
        (MSGPACK, {"a": "\ud800"}, "Can't serialise $.a as MessagePack: "),
        (PICKLE, [[1, lambda: None], {}], "Can't pickle $[0][1]: "),
        (PICKLE, {"a": (n for n in ())}, "Can't pickle $.a: "),
        (PICKLE, {"a": [Hostile()]}, "Can't pickle $.a[0]: not now"),
    ],
)
def test_value_is_named_by_its_path_when_it_can_not_be_carried(serializer: Any, value: Any, said: str) -> None:
    with pytest.raises(EncodeError) as raised:
        serializer.encode(value)
    assert str(raised.value).startswith(said)


def test_value_is_refused_when_it_holds_itself() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EncodeError):
        MSGPACK.encode(loop)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x01\x02",
        b"\x91" * 100_000,
        MSGPACK.encode({"__type__": "datetime", "__value__": "noon"}),
        MSGPACK.encode({"__type__": "uuid", "__value__": 5}),
    ],
)
def test_msgpack_is_refused_when_it_is_not_readable(data: bytes) -> None:
    with pytest.raises(DecodeError):
        MSGPACK.decode(data)


@given(st.binary())
def test_msgpack_raises_nothing_but_decode_error_whatever_it_gets(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        MSGPACK.decode(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage",
        b"cno.such.module\nThing\n.",
        pickle.dumps(Point(1))[:-1],
        pickle.dumps({"a": 1})[:-3],
    ],
)
def test_pickle_is_refused_when_it_is_not_readable(data: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^Not readable as a pickle: "):
        PICKLE.decode(data)


@pytest.mark.parametrize(
    ("encode", "decode", "encoding"),
    [
        (json.dumps, json.loads, "utf-8"),
        (repr, literal_eval, "utf-8"),  # which reads text only
        (repr, literal_eval, "latin-1"),
        (repr, literal_eval, "binary"),  # declared as what it is not
        (pickle.dumps, pickle.loads, "binary"),
        (pickle.dumps, pickle.loads, "utf-8"),  # declared as what it is not
        (lambda value: json.dumps(value).encode(), lambda data: json.loads(data.decode()), "utf-8"),
        (lambda value: bytearray(json.dumps(value), "ascii"), json.loads, "utf-8"),
    ],
)
def test_registered_serializer_decodes_what_it_encodes_here_and_in_another_process(
    encode: Callable[[Any], Any], decode: Callable[[Any], Any], encoding: str
) -> None:
    call = [[1, "ä"], {"k": [None]}]
    here, there = registered(encode, decode, encoding), registered(encode, decode, encoding)
    data = here.encode(call)
    assert type(data) is bytes
    assert here.decode(data) == there.decode(data) == call


def test_registered_serializer_gets_what_it_is_declared_for_when_it_can_not_be_tried() -> None:
    def only_numbers(value: int) -> str:
        return str(value + 0)

    assert registered(only_numbers, repr).decode(b"5") == "'5'"
    assert registered(only_numbers, repr, "binary").decode(b"5") == "b'5'"


def test_registered_serializer_is_named_with_the_path_when_its_encode_fails() -> None:
    mine = registered(json.dumps, json.loads)
    with pytest.raises(EncodeError) as raised:
        mine.encode([[1, {"a": Opaque()}], {}])
    assert str(raised.value) == (
        "The serializer 'mine' can't encode $[0][1].a: TypeError: Object of type Opaque is not JSON serializable. "
        "Send a value that it takes, or name another serializer."
    )


def test_registered_serializer_is_named_when_its_encode_returns_something_else() -> None:
    with pytest.raises(EncodeError, match=r"'mine' made dict of a value; its encode has to return text or bytes"):
        registered(lambda value: {"a": value}, repr).encode(1)


def test_registered_serializer_is_named_when_its_text_is_none_in_its_encoding() -> None:
    with pytest.raises(EncodeError, match="the serializer 'mine' made is not ascii"):
        registered(lambda value: "ä", repr, "ascii").encode(1)


@pytest.mark.parametrize("data", [b"{", b"\xff\xfe"])
def test_registered_serializer_is_named_when_its_decode_fails(data: bytes) -> None:
    with pytest.raises(DecodeError) as raised:
        registered(json.dumps, json.loads).decode(data)
    said = str(raised.value)
    assert said.startswith(f"The serializer 'mine' can't decode {len(data)} bytes: ")
    assert said.endswith("Does every program register the same functions under this name?")
