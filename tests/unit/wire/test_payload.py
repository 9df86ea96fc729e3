"""What messages and rows carry: packed as the sender says, read as far as the reader accepts."""

import math
from typing import Any

import pytest

from aiotask.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from aiotask.message import Foreign, TaskMessage
from aiotask.outcome import Packed
from aiotask.settings import Settings
from aiotask.wire.payload import (
    pack_result,
    packs_results,
    plain_call,
    put_call,
    put_other_call,
    read_call,
    read_result,
)

ALL = ("json", "msgpack", "pickle")
PICKLE = "application/x-python-serialize"
LIMIT = 1 << 20


def message_of(*args: Any, serializer: str = "json", compression: str | None = None, **kwargs: Any) -> TaskMessage:
    message = TaskMessage("proj.t", "id-1", b"")
    put_call(message, args, kwargs, serializer, compression, LIMIT)
    return message


def conf(**settings: Any) -> Settings:
    return Settings(**settings)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("serializer", ALL)
def test_call_comes_back_fresh(serializer: str, compression: str | None) -> None:
    message = message_of(1, "a", serializer=serializer, compression=compression, k=None)
    args, kwargs = read_call(message, ALL, LIMIT)
    assert (args, kwargs) == ([1, "a"], {"k": None})
    args.clear()
    assert read_call(message, ALL, LIMIT)[0] == [1, "a"]


def test_call_is_put_again_in_its_own_format_when_only_its_content_types_are_known() -> None:
    message = message_of((1,), serializer="pickle", compression="bz2")
    put_call(message, ((2,),), {}, message.content_type, message.compression, LIMIT)
    assert (message.content_type, message.compression) == (PICKLE, "application/x-bz2")
    assert read_call(message, ("pickle",), LIMIT) == ([(2,)], {})


def test_other_call_of_our_own_keeps_what_the_caller_wants_to_be_shown() -> None:
    message = message_of(1, serializer="msgpack")
    message.argsrepr = "(...)"
    put_other_call(message, (2,), {}, conf())
    assert read_call(message, ALL, LIMIT) == ([2], {})
    assert message.argsrepr == "(...)"


def test_plain_json_call_says_nothing_but_its_payload() -> None:
    assert message_of(1) == TaskMessage("proj.t", "id-1", b"[[1],{}]")


def test_float_that_json_lacks_is_tagged_unless_celery_may_read_it() -> None:
    assert message_of(math.nan).payload == b'[[{"__type__":"float","__value__":"nan"}],{}]'
    message = TaskMessage("proj.t", "id-1", b"", foreign=Foreign())
    put_call(message, [math.nan], {"a": -math.inf}, "json", None, LIMIT)
    assert message.payload.startswith(b'[[NaN],{"a":-Infinity},{')
    [number], kwargs = read_call(message, ("json",), LIMIT)
    assert math.isnan(number)
    assert kwargs == {"a": -math.inf}


@pytest.mark.parametrize(("serializer", "compression"), [("yaml", None), ("json", "rar")])
def test_unknown_names_are_refused(serializer: str, compression: str | None) -> None:
    with pytest.raises(ImproperlyConfigured, match="There is no "):
        message_of(1, serializer=serializer, compression=compression)


def test_call_is_refused_when_it_is_too_large_before_it_is_compressed() -> None:
    message = TaskMessage("proj.t", "id-1", b"")
    put_call(message, ("x" * 91,), {}, "json", "gzip", 100)
    with pytest.raises(EncodeError, match="have 101 bytes before they are compressed"):
        put_call(message, ("x" * 92,), {}, "json", "gzip", 100)
    assert read_call(message, ALL, 100) == (["x" * 91], {})
    with pytest.raises(DecodeError, match="there is more in it than the 99 bytes"):
        read_call(message, ALL, 99)


def test_content_type_is_looked_at_first() -> None:
    message = message_of(1, serializer="pickle", compression="gzip")
    message.payload = b"neither compressed nor pickled"
    with pytest.raises(ContentDisallowed):
        read_call(message, ("json",), LIMIT)
    with pytest.raises(DecodeError, match="Content compressed as"):
        read_call(message, ALL, LIMIT)


@pytest.mark.parametrize("payload", [b"5", b"[]", b"[[],{},{}]", b"[{},[]]", b"[[],[]]", b'{"args":[],"kwargs":{}}'])
def test_payload_is_refused_when_it_is_no_call(payload: bytes) -> None:
    with pytest.raises(DecodeError, match="no pair of a list of arguments and a mapping"):
        read_call(TaskMessage("proj.t", "id-1", payload), ("json",), LIMIT)


def test_plain_call_has_the_repr_of_json_that_we_would_not_write() -> None:
    message = TaskMessage("proj.t", "id-1", b'[["caf\\udce9", 1], {"\\ud800": "a"}]')
    assert plain_call(message, conf()) == ([repr("caf\udce9"), 1], {repr("\ud800"): "a"})


def test_plain_call_has_the_repr_of_what_json_lacks() -> None:
    message = message_of(1j, (1, 2), serializer="pickle", k={1j}, n=5)
    assert plain_call(message, conf(accept_content=["pickle"])) == (["1j", (1, 2)], {"k": "{1j}", "n": 5})


def test_results_are_packed_when_the_settings_say_so() -> None:
    assert not packs_results(conf())
    assert packs_results(conf(result_serializer="msgpack"))
    assert packs_results(conf(result_compression="gzip"))


@pytest.mark.parametrize("settings", [{"result_serializer": "yaml"}, {"result_compression": "rar"}])
def test_settings_of_results_are_refused_when_they_name_what_there_is_not(settings: dict[str, str]) -> None:
    with pytest.raises(ImproperlyConfigured, match="There is no "):
        packs_results(conf(**settings))


@pytest.mark.parametrize("settings", [{"result_serializer": name} for name in ALL] + [{"result_compression": "lzma"}])
def test_result_comes_back(settings: dict[str, str]) -> None:
    settled = conf(**settings, result_accept_content=list(ALL))
    packed = pack_result([1, {"a": None}], settled)
    assert type(packed) is Packed
    assert read_result(packed, settled) == [1, {"a": None}]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "accept_content allows json"),
        ({"result_accept_content": ["msgpack"], "accept_content": ["pickle"]}, "result_accept_content allows msgpack"),
        ({"result_accept_content": []}, "result_accept_content allows nothing"),
    ],
)
def test_result_is_refused_when_its_format_is_not_accepted(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ContentDisallowed, match=rf"\(pickle\) is refused: {said}"):
        read_result(Packed(PICKLE, None, b"garbage"), conf(**settings))


def test_plain_result_is_json_and_refused_when_that_is_not_accepted() -> None:
    assert read_result([1], conf()) == [1]
    with pytest.raises(ContentDisallowed, match="result_accept_content allows pickle"):
        read_result([1], conf(result_accept_content=["pickle"]))


def test_result_that_compresses_beyond_what_a_reader_takes_is_stored_as_it_is() -> None:
    small = conf(result_compression="gzip", message_max_bytes=1000)
    for text, how in (
        ("x" * 900, "application/x-gzip"),
        ("x" * 100_000, None),
        ("abcdefghij" * 150, "application/x-gzip"),
    ):
        packed = pack_result(text, small)
        assert packed.compression == how
        assert read_result(packed, small) == text


def test_value_of_a_result_is_refused_when_it_can_not_be_serialised() -> None:
    with pytest.raises(EncodeError, match=r"\$\[0\]"):
        pack_result([object()], conf(result_compression="gzip"))
