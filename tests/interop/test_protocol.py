"""Messages of protocol 2, against Celery's own: what its client makes is read, and what is written is what it makes."""

import base64
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu.compression import decompress as celerys_decompress
from kombu.serialization import loads as celerys_loads

from aiotask import AioTask
from aiotask.message import Delivery
from aiotask.options import AT_ONCE
from aiotask.sending import NamedTask, message_envelope, outgoing_call
from aiotask.wire.celery import read_message
from aiotask.wire.payload import read_call

LATER = datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)
ACCEPTED = ["json", "msgpack", "pickle"]
LIMIT = 1 << 20

ARGUMENTS: list[tuple[list[Any], dict[str, Any]]] = [
    ([], {}),
    ([1, "a", None, True, 2.5], {"k": [1, {"deep": []}]}),
    ([datetime(2026, 11, 21, 1, 2, 3, 4, UTC)], {"day": date(2026, 11, 21)}),
    ([UUID("7d5d2f7a-60d1-4c4b-8f5e-4d2c3b0a9a11"), Decimal("1.50")], {"raw": b"\x00\xff"}),
    (["Ελληνικά \U0001f980"], {}),
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"eta": LATER},
    {"expires": LATER},
    {"shadow": "other", "argsrepr": "(...)", "kwargsrepr": "{...}"},
    {"ignore_result": True},
    {"ignore_result": False},
    {"headers": {"x-trace": "00-ab", "x-depth": 3}},
    {"priority": 7},
    {"compression": "gzip"},
    {"compression": "bzip2"},
    {"serializer": "pickle"},
]


@pytest.fixture(scope="module")
def celery() -> Celery:
    return Celery("theirs", broker="memory://", backend="rpc://", set_as_current=False)


@pytest.fixture(scope="module")
def app() -> AioTask:
    return AioTask("ours", broker="memory://", task_protocol=2)


def sent_by_celery(celery: Celery, name: str, args: Any, kwargs: Any, **options: Any) -> Delivery:
    """Send by Celery's client to its memory transport, and take the raw message out of that."""
    with celery.connection() as connection:
        channel: Any = connection.default_channel
        celery.send_task(name, args, kwargs, connection=connection, **options)
        raw = channel._get("celery")
    properties = raw["properties"]
    assert properties.pop("body_encoding") == "base64"
    return Delivery(
        properties["correlation_id"],
        "celery",
        base64.b64decode(raw["body"]),
        raw["content-type"],
        5,
        1,
        headers=raw["headers"],
        properties={"content_encoding": raw["content-encoding"], **properties},
    )


def made_by_us(app: AioTask, name: str, args: Any, kwargs: Any, **options: Any) -> Delivery:
    call = outgoing_call(NamedTask(app, name), args, kwargs, options)
    envelope = message_envelope(app, call.message, "celery", AT_ONCE)
    found = Delivery(envelope.id, "celery", envelope.body, envelope.content_type, envelope.priority, 1)
    found.headers, found.properties = envelope.headers, envelope.properties
    return found


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.items())))
def test_message_of_celery_s_client_is_read(
    celery: Celery, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    message = read_message(sent_by_celery(celery, "proj.add", args, kwargs, **options))
    assert read_call(message, ACCEPTED, LIMIT) == (args, kwargs)
    assert message.task == "proj.add"
    assert (message.eta, message.expires) == tuple(
        options[name].timestamp() if name in options else None for name in ("eta", "expires")
    )
    assert message.headers == options.get("headers")
    for name in ("shadow", "ignore_result", "argsrepr", "kwargsrepr"):
        if name in options:
            assert getattr(message, name) == options[name]


@pytest.mark.parametrize(("args", "kwargs"), ARGUMENTS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.items())))
def test_message_of_ours_is_what_celery_s_client_makes(
    celery: Celery, app: AioTask, args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
) -> None:
    ours = made_by_us(app, "proj.add", args, kwargs, task_id="an-id", **options)
    theirs = sent_by_celery(celery, "proj.add", args, kwargs, task_id="an-id", **options)
    assert ours.headers is not None
    assert theirs.headers is not None
    differ = {"origin", "argsrepr", "kwargsrepr"}  # texts for people
    if "ignore_result" not in options:
        differ.add("ignore_result")  # a client that knows no task says null, or what its settings say
    assert set(ours.headers) == set(theirs.headers)
    assert {name: value for name, value in ours.headers.items() if name not in differ} == {
        name: value for name, value in theirs.headers.items() if name not in differ
    }
    assert ours.content_type == theirs.content_type
    assert ours.properties is not None
    assert theirs.properties is not None
    assert ours.properties["content_encoding"] == theirs.properties["content_encoding"]
    assert ours.properties["correlation_id"] == theirs.properties["correlation_id"] == "an-id"
    assert read_by_celery(ours) == read_by_celery(theirs)


def read_by_celery(found: Delivery) -> list[Any]:
    """Return the body as Celery's worker reads it."""
    assert found.headers is not None
    assert found.properties is not None
    body = found.body
    if "compression" in found.headers:
        body = celerys_decompress(body, found.headers["compression"])
    args, kwargs, embed = celerys_loads(
        body, found.content_type, found.properties["content_encoding"], accept={found.content_type}
    )
    return [list(args), kwargs, embed]


texts = st.text(max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | texts
    | st.datetimes(timezones=st.just(UTC))
    | st.uuids(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
names = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@settings(deadline=None)
@given(
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(texts, values, max_size=3),
    name=names,
    retries=st.integers(0, 100),
    group=st.none() | names,
    index=st.none() | st.integers(0, 1000),
    limits=st.tuples(st.none() | st.integers(1, 9999), st.none() | st.integers(1, 9999)),
    shadow=st.none() | texts,
    ids=st.tuples(names, st.none() | names, st.none() | names),
    countdown=st.none() | st.integers(1, 10**6),
    ignore=st.booleans(),
    stamps=st.dictionaries(names.map("x-{}".format), texts, max_size=2),
)
def test_what_as_task_v2_makes_is_read_and_written_again(
    celery: Celery,
    app: AioTask,
    args: Any,
    kwargs: Any,
    name: str,
    retries: int,
    group: str | None,
    index: int | None,
    limits: tuple[int | None, int | None],
    shadow: str | None,
    ids: tuple[str, str | None, str | None],
    countdown: int | None,
    ignore: bool,
    stamps: dict[str, str],
) -> None:
    task_id, root_id, parent_id = ids
    theirs: Any = celery.amqp.as_task_v2(
        task_id,
        name,
        args,
        kwargs,
        retries=retries,
        group_id=group,
        group_index=index,
        time_limit=limits[0],
        soft_time_limit=limits[1],
        shadow=shadow,
        root_id=root_id,
        parent_id=parent_id,
        countdown=countdown,
        expires=None if countdown is None else 2 * countdown,
        ignore_result=ignore,
        stamped_headers=list(stamps),
        origin="gen1@there",
        **stamps,
    )
    [content_type, encoding, body] = encoded(theirs.body)
    found = Delivery(
        task_id, "celery", body, content_type, 5, 1, headers=theirs.headers, properties={"content_encoding": encoding}
    )
    message = read_message(found)
    assert read_call(message, ["json"], LIMIT) == (args, kwargs)
    envelope = message_envelope(app, message, "celery", AT_ONCE)
    assert envelope.headers == theirs.headers
    assert envelope.body == body


def encoded(body: Any) -> tuple[str, str, bytes]:
    from kombu.serialization import dumps

    content_type, encoding, text = dumps(body, serializer="json")
    return content_type, encoding, text.encode() if isinstance(text, str) else text


def test_message_is_json_text_for_every_reader(app: AioTask) -> None:
    ours = made_by_us(app, "proj.add", [1], {"y": 2})
    assert json.loads(ours.body) == [
        [1],
        {"y": 2},
        {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
    ]
