"""Celery's protocol 2: what its clients were seen to send is read, and what is written says the same."""

import json
import zlib
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    NotRegistered,
    Reject,
    TaskRevokedError,
    WorkerLost,
)
from aiotask.message import Delivery, Foreign, TaskMessage
from aiotask.settings import Settings
from aiotask.wire.celery import celery_error, read_message, write_message
from aiotask.wire.errors import from_record, to_record
from aiotask.wire.payload import put_call, put_other_call, read_call

LIMIT = 1 << 20
NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

# Captured from a client of Celery 5.7 with RabbitMQ; ids shortened.
PLAIN: dict[str, Any] = {
    "lang": "py",
    "task": "t.integration.tasks.add",
    "id": "15afd69e",
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "root_id": "15afd69e",
    "parent_id": None,
    "argsrepr": "(1, 2)",
    "kwargsrepr": "{}",
    "origin": "gen24910@vm",
    "ignore_result": None,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
PROPERTIES: dict[str, Any] = {
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 0,
    "correlation_id": "15afd69e",
    "reply_to": "3ca7c462",
}
OPTIONS = PLAIN | {
    "shadow": "other",
    "eta": "2026-11-20T17:22:00.524917+00:00",
    "expires": "2026-11-20T17:23:30.524917+00:00",
    "timelimit": [60, 45],
    "ignore_result": True,
    "x-test-header": "v",
}
OPTIONS_PROPERTIES = PROPERTIES | {"priority": 7, "expiration": "120000", "app_id": "1234"}
GROUPED = PLAIN | {"group": "ac31", "group_index": 1, "parent_id": "p", "root_id": "r"}
STAMPED = PLAIN | {"stamped_headers": ["monitoring_id"], "stamps": {"monitoring_id": "m-1"}}


def delivery(
    headers: dict[str, Any] | None = PLAIN,
    properties: dict[str, Any] | None = PROPERTIES,
    body: Any = ([1, 2], {}, NOTHING),
    content_type: str = "application/json",
) -> Delivery:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivery("15afd69e", "celery", raw, content_type, 5, 1, headers=headers, properties=properties)


def read(*args: Any, **kwargs: Any) -> tuple[TaskMessage, list[Any], dict[str, Any]]:
    message = read_message(delivery(*args, **kwargs))
    return message, *read_call(message, ["json"], LIMIT)


# ---- reading ----


def test_plain_message_is_read() -> None:
    message, args, kwargs = read()
    assert (message.task, message.id, args, kwargs) == ("t.integration.tasks.add", "15afd69e", [1, 2], {})
    assert (message.root_id, message.parent_id, message.retries, message.origin) == ("15afd69e", None, 0, "gen24910@vm")
    assert (message.eta, message.expires, message.ignore_result, message.headers) == (None, None, None, None)
    assert (message.argsrepr, message.kwargsrepr, message.shadow) == ("(1, 2)", "{}", None)


def test_options_are_read() -> None:
    message, _, _ = read(OPTIONS, OPTIONS_PROPERTIES)
    assert message.foreign is not None
    assert message.eta == datetime(2026, 11, 20, 17, 22, 0, 524917, UTC).timestamp()
    assert message.expires == datetime(2026, 11, 20, 17, 23, 30, 524917, UTC).timestamp()
    assert (message.shadow, message.ignore_result, message.headers) == ("other", True, {"x-test-header": "v"})
    assert message.foreign.facts["timelimit"] == (60, 45)
    assert message.reply_to == "3ca7c462"
    assert message.foreign.properties["app_id"] == "1234"


@pytest.mark.parametrize(
    ("headers", "facts"),
    [
        (GROUPED, {"group": "ac31", "group_index": 1}),
        (STAMPED, {"stamped_headers": ["monitoring_id"], "stamps": {"monitoring_id": "m-1"}}),
    ],
    ids=["group", "stamps"],
)
def test_facts_for_the_request_are_read(headers: dict[str, Any], facts: dict[str, Any]) -> None:
    message, _, _ = read(headers)
    assert message.foreign is not None
    assert {name: message.foreign.facts[name] for name in facts} == facts


@pytest.mark.parametrize("eta", ["2026-11-20T17:22:00Z", "2026-11-20T17:22:00", "2026-11-20T18:22:00+01:00"])
def test_times_of_any_offset_are_read(eta: str) -> None:
    message, _, _ = read(PLAIN | {"eta": eta})
    assert message.eta == datetime(2026, 11, 20, 17, 22, tzinfo=UTC).timestamp()


def test_compressed_body_is_read_by_its_header() -> None:
    body = zlib.compress(json.dumps([[1, 2], {"k": "v"}, NOTHING]).encode())
    assert body[:1] == b"\x78", "as captured: a zlib stream under the name gzip"
    _, args, kwargs = read(PLAIN | {"compression": "application/x-gzip"}, body=body)
    assert (args, kwargs) == ([1, 2], {"k": "v"})


def test_body_is_not_compressed_when_its_header_is_empty() -> None:
    message, args, _ = read(PLAIN | {"compression": ""})
    assert (args, message.compression) == ([1, 2], None)
    assert "compression" not in write_message(message).headers


def test_tagged_values_are_read() -> None:
    when = {"__type__": "datetime", "__value__": "2026-11-20T17:22:00+00:00"}
    _, args, _ = read(body=[[when], {}, NOTHING])
    assert args == [datetime(2026, 11, 20, 17, 22, tzinfo=UTC)]


def test_nothing_embedded_may_also_be_said_by_null() -> None:
    _, args, _ = read(body=[[1], {}, None])
    assert args == [1]


# ---- refusing ----


def test_message_without_headers_is_refused_by_its_content_type() -> None:
    with pytest.raises(ContentDisallowed, match="'application/json' are refused by this worker"):
        read_message(delivery(headers=None))


@pytest.mark.parametrize("missing", ["task", "id"])
def test_message_that_lacks_its_headers_is_refused(missing: str) -> None:
    headers = {name: value for name, value in PLAIN.items() if name != missing}
    with pytest.raises(DecodeError, match="'task' and 'id' is neither"):
        read_message(delivery(headers))


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": 3},
        {"id": None},
        {"retries": "many"},
        {"retries": True},
        {"eta": "tomorrow"},
        {"expires": 12},
        {"eta": "9999-99-99T00:00:00"},
        {"timelimit": ["x", None]},
        {"ignore_result": "yes"},
        {"compression": 1},
        {"stamps": []},
    ],
    ids=str,
)
def test_headers_of_other_types_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(DecodeError, match="not those of Celery's protocol 2"):
        read_message(delivery(PLAIN | wrong))


def test_other_encodings_are_refused() -> None:
    with pytest.raises(DecodeError, match="'utf-16'"):
        read_message(delivery(properties=PROPERTIES | {"content_encoding": "utf-16"}))


@pytest.mark.parametrize(
    "body", [[[1], {}], 42, None, "x", {}, [[1], {}, NOTHING, 4], [[1], {}, []], b"", b"\xff", b"["]
)
def test_malformed_body_is_a_decode_error(body: Any) -> None:
    with pytest.raises(DecodeError):
        read(body=body)


@pytest.mark.parametrize("body", [[1, {}, NOTHING], [[1], [], NOTHING], [None, None, NOTHING]])
def test_body_without_arguments_is_a_decode_error(body: Any) -> None:
    with pytest.raises(DecodeError):
        read(body=body)


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/x-yaml", "text/plain"])
def test_body_is_never_decoded_when_its_type_is_not_accepted(content_type: str) -> None:
    message = read_message(delivery(body=b"cos\nsystem\n(S'false'\ntR.", content_type=content_type))
    assert message.id == "15afd69e", "who waits for it can be told"
    with pytest.raises(ContentDisallowed):
        read_call(message, ["json"], LIMIT)


@pytest.mark.parametrize("embedded", ["callbacks", "errbacks", "chain", "chord"])
def test_message_whose_followers_would_be_lost_is_refused(embedded: str) -> None:
    with pytest.raises(DecodeError, match=f"embeds {embedded}"):
        read(body=[[1], {}, NOTHING | {embedded: [{"task": "t.next"}]}])


@given(
    st.dictionaries(
        st.sampled_from([*PLAIN, "compression", "x"]), st.none() | st.text() | st.integers() | st.lists(st.none())
    )
)
def test_any_headers_are_a_message_or_a_decode_error(headers: dict[str, Any]) -> None:
    for given_headers in (headers, PLAIN | headers):
        try:
            message = read_message(delivery(given_headers))
        except DecodeError:
            continue
        assert isinstance(message.task, str)
        assert isinstance(message.id, str)


@given(st.binary())
def test_any_body_is_a_call_or_a_decode_error(body: bytes) -> None:
    message = read_message(delivery(body=body))
    try:
        args, kwargs = read_call(message, ["json"], LIMIT)
    except DecodeError:
        return
    assert isinstance(args, list)
    assert isinstance(kwargs, dict)


# ---- errors ----


@pytest.mark.parametrize("kind", [TaskRevokedError, NotRegistered, Reject, WorkerLost, ContentDisallowed, DecodeError])
def test_error_of_ours_is_celery_s_there_and_ours_again_here(kind: type[Exception]) -> None:
    record = celery_error(to_record(kind("why")))
    assert record["exc_module"].startswith(("celery.", "billiard.", "kombu."))
    found = from_record(record, None)
    assert (type(found), found.args) == (kind, kind("why").args)


def test_error_of_anybody_else_keeps_its_name() -> None:
    record = to_record(LookupError("why"))
    assert celery_error(record) == record
    assert celery_error(None) is None


# ---- writing ----


@pytest.mark.parametrize(
    ("headers", "properties"),
    [(PLAIN, PROPERTIES), (OPTIONS, OPTIONS_PROPERTIES), (GROUPED, PROPERTIES), (STAMPED, PROPERTIES)],
    ids=["plain", "options", "group", "stamps"],
)
def test_captured_message_is_written_as_it_came(headers: dict[str, Any], properties: dict[str, Any]) -> None:
    came = delivery(headers, properties)
    parts = write_message(read_message(came))
    assert (parts.body, parts.content_type) == (came.body, came.content_type)
    assert parts.headers == headers
    gone = {"delivery_mode", "expiration"}
    assert parts.properties == {name: value for name, value in properties.items() if name not in gone}


def test_retry_says_what_is_new_and_keeps_the_rest() -> None:
    message = read_message(delivery(OPTIONS, OPTIONS_PROPERTIES))
    again = msgspec.structs.replace(message, retries=1, eta=0.0)
    parts = write_message(again)
    assert json.loads(parts.body) == [[1, 2], {}, NOTHING]
    assert parts.headers == OPTIONS | {"retries": 1, "eta": "1970-01-01T00:00:00+00:00"}


@pytest.mark.parametrize(
    ("args", "kwargs", "argsrepr", "kwargsrepr"),
    [
        ([3], {"k": "v"}, "(3,)", "{'k': 'v'}"),
        ([1, 3], {}, "(1, 3)", "{...}"),
        ((1, 2), {"k": "v"}, "(...)", "{'k': 'v'}"),
        ([1, 2], {}, "(...)", "{...}"),
    ],
)
def test_retry_shows_the_arguments_that_are_others(
    args: Any, kwargs: dict[str, Any], argsrepr: str, kwargsrepr: str
) -> None:
    message = read_message(delivery(PLAIN | {"argsrepr": "(...)", "kwargsrepr": "{...}"}))
    put_other_call(message, args, kwargs, Settings())
    parts = write_message(message)
    assert json.loads(parts.body) == [list(args), kwargs, NOTHING]
    assert parts.headers == PLAIN | {"argsrepr": argsrepr, "kwargsrepr": kwargsrepr}


def test_retry_shows_arguments_of_which_the_message_said_nothing() -> None:
    message = read_message(delivery(PLAIN | {"argsrepr": None, "kwargsrepr": None}))
    put_other_call(message, [1, 2], {"k": 1}, Settings())
    assert (message.argsrepr, message.kwargsrepr) == ("(1, 2)", "{'k': 1}")


def test_header_with_a_name_of_the_protocol_is_refused() -> None:
    message = TaskMessage("proj.t", "i", b"", headers={"group": "mine"}, foreign=Foreign())
    with pytest.raises(EncodeError, match="'group' is one of Celery's protocol"):
        write_message(message)


def test_header_that_can_t_be_one_is_refused() -> None:
    with pytest.raises(TypeError):
        write_message(TaskMessage("proj.t", "i", b"", headers={"x": object()}, foreign=Foreign()))


texts = st.text(max_size=20)
maybe_texts = st.none() | texts
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
moments = st.none() | st.integers(0, 4_000_000_000_000_000).map(lambda us: us / 1_000_000)


@given(
    st.builds(
        TaskMessage,
        task=texts,
        id=texts,
        payload=st.just(b""),
        retries=st.integers(0, 1000),
        root_id=texts.filter(bool),
        parent_id=maybe_texts,
        eta=moments,
        expires=moments,
        ignore_result=st.none() | st.booleans(),
        origin=maybe_texts,
        headers=st.none() | st.dictionaries(texts.map("x-{}".format), plain, min_size=1, max_size=3),
        shadow=maybe_texts,
        foreign=st.builds(Foreign),
    ),
    st.lists(plain, max_size=3),
    st.dictionaries(texts, plain, max_size=3),
    st.sampled_from(["json", "msgpack", "pickle"]),
    st.sampled_from([None, "gzip", "bz2", "lzma"]),
)
def test_message_comes_back_whole(
    message: TaskMessage, args: list[Any], kwargs: dict[str, Any], serializer: str, compression: str | None
) -> None:
    put_call(message, args, kwargs, serializer, compression, LIMIT)
    parts = write_message(message)
    back = read_message(
        Delivery(
            message.id, "q", parts.body, parts.content_type, 5, 1, headers=parts.headers, properties=parts.properties
        )
    )
    assert read_call(back, ["json", "msgpack", "pickle"], LIMIT) == (args, kwargs)
    assert back.foreign is not None
    for field in TaskMessage.__struct_fields__:
        if field in ("eta", "expires") and getattr(message, field) is not None:
            assert getattr(back, field) == pytest.approx(getattr(message, field), abs=1e-6)
        elif field != "foreign":
            assert getattr(back, field) == getattr(message, field), field
