"""Values to bytes and back; what can't be carried is named by its path, what can't be read is a DecodeError."""

import contextlib
import dataclasses
import enum
import json
import math
from ast import literal_eval
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from unittest.mock import Mock

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from aiotask.wire import serialization
from aiotask.wire.serialization import JSON, find_serializer, for_celery, register_serializer, serializer_for


@dataclasses.dataclass
class Point:
    x: int


class Model(pydantic.BaseModel):
    day: date


class Opaque:
    pass


class Unreadable(pydantic.BaseModel):
    """Raises when it is looked at."""

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def loaded(self) -> str:
        raise RuntimeError("lazily loaded, and gone")


class Hostile:
    """Raises whatever it is asked for, as an unbound context-local proxy does."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of any context")


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**63), 2**64, 2**70, 1.5, "größe", "", [], {}, [[1], {"a": None}], Decimal("0.1"), b"\xff"],
)
def test_value_comes_back(value: Any) -> None:
    assert JSON.decode(JSON.encode(value)) == value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Point(1), {"x": 1}),
        (Model(day=date(2026, 3, 1)), {"day": "2026-03-01"}),
        ((1, (2, 3)), [1, [2, 3]]),
        ({1}, [1]),
        (enum.Enum("Colour", {"RED": "red"}).RED, "red"),
        ({1: "a"}, {"1": "a"}),
        ([Point(1), {"m": Model(day=date(2026, 3, 1))}], [{"x": 1}, {"m": {"day": "2026-03-01"}}]),
    ],
)
def test_value_arrives_plain_when_only_annotations_could_tell_its_type(value: Any, plain: Any) -> None:
    assert JSON.decode(JSON.encode(value)) == plain


@pytest.mark.parametrize(
    ("value", "path", "why"),
    [
        (Opaque(), "$", "Opaque is not serialisable as JSON"),
        ({"a": [1, Opaque()]}, "$.a[1]", "Opaque is not serialisable as JSON"),
        (([Point(1)], {"k": Opaque()}), "$[1].k", "Opaque is not serialisable as JSON"),
        ([lambda: None], "$[0]", "function is not serialisable as JSON"),
        ([1, 1j], "$[1]", "complex is not serialisable as JSON"),
        ({"a": "\ud800"}, "$.a", "surrogates not allowed"),
        ([(n for n in range(3))], "$[0]", "generator is not serialisable as JSON"),
        ([ValueError("x")], "$[0]", "ValueError is not serialisable as JSON"),
        ({"a": Hostile()}, "$.a", "Hostile is not serialisable as JSON"),
        ([Mock()], "$[0]", "Mock is not serialisable as JSON"),
        ([Unreadable()], "$[0]", "lazily loaded, and gone"),
        ([MappingProxyType({})], "$[0]", "mappingproxy is not serialisable as JSON"),
        ({(1, 2): 3}, "$", "tuple is not serialisable as JSON"),
    ],
)
def test_value_is_named_by_its_path_when_it_can_not_be_carried(value: Any, path: str, why: str) -> None:
    with pytest.raises(EncodeError) as raised:
        JSON.encode(value)
    assert str(raised.value).startswith(f"Can't serialise {path} as JSON: ")
    assert why in str(raised.value)


def test_value_is_refused_when_it_holds_itself_or_is_nested_without_end() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises(EncodeError):
            JSON.encode(value)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, "a", None, True), {}), ((1.5, float("inf")), {}), ((Decimal(1),), {"d": date(2026, 3, 1)})],
)
def test_call_is_a_pair_of_arguments_whichever_way_it_is_encoded(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert JSON.decode(JSON.encode_call(args, kwargs)) == [list(args), kwargs]


def test_call_names_the_argument_s_path_when_a_plain_text_is_no_text() -> None:
    with pytest.raises(EncodeError, match=r"\$\[0\]\[1\].*surrogates"):
        JSON.encode_call(("a", "\ud800"), {})


def test_float_that_json_lacks_is_written_as_python_does_for_celery() -> None:
    value = {"a": [math.nan, (math.inf, -math.inf)], "b": msgspec.Raw(JSON.encode(math.nan)), "c": Decimal("NaN")}
    assert for_celery(JSON.encode(value)) == (
        b'{"a":[NaN,[Infinity,-Infinity]],"b":NaN,"c":{"__type__":"decimal","__value__":"NaN"}}'
    )


@pytest.mark.parametrize("text", ['{"__type__":"float","__value__":"nan"}', '{"', '{"__type__":"float",', "NaN"])
def test_text_that_looks_like_a_float_s_tag_stays_a_text_for_celery(text: str) -> None:
    value = [text, {text: [text]}, math.inf, text]
    encoded = for_celery(JSON.encode(value))
    assert json.loads(encoded) == JSON.decode(encoded) == value


@pytest.mark.parametrize("value", [math.inf, [-math.inf, {"a": [math.inf]}], "caf\udce9", {"\ud800": "\udfff x"}])
def test_json_that_only_python_writes_is_read(value: Any) -> None:
    assert JSON.decode(json.dumps(value).encode()) == value


def test_tags_beside_what_only_python_writes_are_read() -> None:
    number, day, infinity = JSON.decode(
        b'[NaN,{"__type__":"date","__value__":"2026-03-01"},{"__type__":"float","__value__":"inf"}]'
    )
    assert math.isnan(number)
    assert (day, infinity) == (date(2026, 3, 1), math.inf)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[NaN",
        b"[nan]",
        b"[Infinity] 2",
        b"[NaN," + b"[" * 100_000,
        b"[NaN," + b"[" * 100_000 + b"]" * 100_000 + b"]",
        '["caf\\udce9"]'.encode("utf-16"),
        b"[1] 2",
        b"\xff\xfe",
        b'"\\ud800',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'[{"__type__":"datetime","__value__":"noon"}]',
        b'{"__type__":"uuid","__value__":{"hex":5}}',
        b'{"__type__":"uuid","__value__":null}',
        b'{"__type__":"bytes","__value__":5}',
        b'{"__type__":"base64","__value__":"\xc3\xa9"}',
        b'{"__type__":"decimal","__value__":"one"}',
        b'{"__type__":"float","__value__":[]}',
    ],
)
def test_bytes_are_refused_when_they_are_not_readable(data: bytes) -> None:
    with pytest.raises(DecodeError):
        JSON.decode(data)


@given(st.binary())
def test_bytes_raise_nothing_but_decode_error_whatever_they_are(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        JSON.decode(data)


def test_serializer_is_found_by_content_type_when_it_is_accepted() -> None:
    assert serializer_for("application/json", ("json",)) is JSON


def test_serializer_is_accepted_by_its_content_type_too() -> None:
    assert serializer_for("application/json", ("application/json",)) is JSON


@pytest.mark.parametrize(
    ("content_type", "accept", "said"),
    [
        (
            "application/x-python-serialize",
            ("json", "msgpack"),
            (
                "Content of type 'application/x-python-serialize' (pickle) is refused: accept_content allows "
                "json, msgpack. Name 'pickle' there if you trust all who can write to where it came from."
            ),
        ),
        (
            "application/json",
            (),
            (
                "Content of type 'application/json' (json) is refused: accept_content allows nothing. "
                "Name 'json' there if you trust all who can write to where it came from."
            ),
        ),
        (
            "",
            ("json",),
            "Content of type '' is refused: accept_content allows json, and no serializer of that type is registered.",
        ),
        (
            "application/x-yaml",
            ("json", "yaml", "application/x-yaml"),
            (
                "Content of type 'application/x-yaml' is refused: accept_content allows json, yaml, "
                "application/x-yaml, and no serializer of that type is registered."
            ),
        ),
    ],
)
def test_serializer_is_refused_when_the_content_is_not_accepted(
    content_type: str, accept: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ContentDisallowed) as raised:
        serializer_for(content_type, accept)
    assert str(raised.value) == said


def test_name_in_a_message_is_no_content_type() -> None:
    with pytest.raises(ContentDisallowed):
        serializer_for("json", ("json",))


def test_refusal_names_the_setting_that_allows() -> None:
    with pytest.raises(ContentDisallowed, match="result_accept_content allows msgpack"):
        serializer_for("application/json", ("msgpack",), "result_accept_content")


@pytest.mark.parametrize("name", ["json", "msgpack", "pickle"])
def test_built_in_serializer_is_found_by_name_and_by_content_type(name: str) -> None:
    found = find_serializer(name)
    assert found.name == name
    assert find_serializer(found.content_type) is found


def test_unknown_serializer_is_refused_with_those_that_there_are_and_the_way_to_add_one() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        find_serializer("jsno")
    said = str(raised.value)
    assert said.startswith("There is no serializer 'jsno'; there are ")
    assert "json, msgpack, pickle" in said
    assert "aiotask.register_serializer(name, encode, decode, content_type=...)" in said
    assert said.endswith("Did you mean 'json'?")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers end with it."""
    monkeypatch.setattr(serialization, "_BY_NAME", dict(serialization._BY_NAME))
    monkeypatch.setattr(serialization, "_BY_CONTENT_TYPE", dict(serialization._BY_CONTENT_TYPE))


@pytest.mark.usefixtures("registry")
def test_registered_serializer_is_found_by_name_and_by_content_type() -> None:
    register_serializer("py", repr, literal_eval, content_type="text/x-py")
    found = find_serializer("py")
    assert found is find_serializer("text/x-py") is serializer_for("text/x-py", ("py",))
    assert (found.name, found.content_type, found.content_encoding) == ("py", "text/x-py", "utf-8")
    assert found.encode([1, "ä"]) == "[1, 'ä']".encode()


@pytest.mark.usefixtures("registry")
def test_registering_a_name_again_replaces_it_and_its_content_type() -> None:
    register_serializer("py", repr, literal_eval, content_type="text/x-old")
    register_serializer("py", ascii, literal_eval, content_type="text/x-new")
    assert find_serializer("py").encode("ä") == rb"'\xe4'"
    with pytest.raises(ContentDisallowed):
        serializer_for("text/x-old", ("py",))


@pytest.mark.usefixtures("registry")
def test_built_in_serializer_can_be_replaced() -> None:
    register_serializer("json", repr, literal_eval, content_type="application/json")
    assert find_serializer("json").encode((1,)) == b"(1,)"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": ""}, "'' can't be the name of a serializer: it takes a short text without '/', such as 'yaml'."),
        ({"name": 5}, "5 can't be the name of a serializer"),
        ({"name": "a/b"}, "'a/b' can't be the name of a serializer"),
        ({"name": "a\nb"}, "can't be the name of a serializer"),
        ({"encode": None}, "The serializer 'py': None can't be called; encode and decode are functions."),
        ({"decode": "repr"}, "The serializer 'py': 'repr' can't be called; encode and decode are functions."),
        ({"content_type": "yaml"}, "content_type is 'yaml'; it takes a media type such as 'application/x-yaml'."),
        ({"content_type": None}, "content_type is None; it takes a media type"),
        ({"content_type": "a/b c"}, "content_type is 'a/b c'; it takes a media type"),
        (
            {"content_type": "application/json"},
            "The serializer 'py': the content type 'application/json' belongs to 'json' already.",
        ),
        (
            {"content_encoding": "utf8-ish"},
            "content_encoding is 'utf8-ish'; it takes 'binary', or a character encoding",
        ),
        ({"content_encoding": None}, "content_encoding is None; it takes 'binary', or a character encoding"),
    ],
)
@pytest.mark.usefixtures("registry")
def test_registration_is_refused_when_an_argument_does_not_fit(given: dict[str, Any], said: str) -> None:
    fine: dict[str, Any] = {"name": "py", "encode": repr, "decode": literal_eval, "content_type": "text/x-py"}
    with pytest.raises(ImproperlyConfigured) as raised:
        register_serializer(**(fine | given))
    assert said in str(raised.value)
    assert "py" not in serialization._BY_NAME


def test_struct_that_nests_what_json_lacks_is_carried_by_its_annotations() -> None:
    class Reading(msgspec.Struct):
        at: date
        raw: bytes

    sent = Reading(date(2026, 3, 1), b"\xff")
    assert msgspec.convert(JSON.decode(JSON.encode(sent)), Reading) == sent
