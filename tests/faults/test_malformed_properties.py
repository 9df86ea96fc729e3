"""What others put straight into a queue on RabbitMQ: it is dead-lettered, and the worker runs the rest."""

from typing import Any

import aio_pika
from tests.servers.rabbitmq import RabbitServer

from aiotask.message import DEAD_BODY_BYTES, TaskMessage, new_id
from aiotask.states import SUCCESS
from aiotask.wire.native import NativeCodec

from .harness import ACKS, ON_RABBITMQ, Scene, until
from .rabbit_store import RabbitStore
from .stores import QUEUE

pytestmark = ON_RABBITMQ

CONTENT_TYPE = NativeCodec.content_type
JSON = "application/json"
FACTS = "aiotask"
"""Our own header."""


def message(task: str = "nap", id_: str | None = None) -> bytes:
    return NativeCodec().encode(TaskMessage(task=task, id=id_ or new_id(), payload=b"[[0],{}]"))


Properties = dict[str, Any]

# By name: the body, the properties, the reason.
MALFORMED: dict[str, tuple[bytes, Properties, str]] = {
    "no properties at all": (b"\xc1\xff\0garbage", {}, "DecodeError"),
    "empty": (b"", {}, "DecodeError"),
    "Celery's body without its headers": (b"[[1], {}, null]", {"content_type": JSON}, "DecodeError"),
    "a body that ends Celery's worker": (
        b"[[1], {}]",
        {"content_type": JSON, "headers": {"task": "nap", "id": "id-celery", "lang": "py"}},
        "DecodeError",
    ),
    "a number for a body": (
        b"42",
        {"content_type": JSON, "headers": {"task": "nap", "id": "id-number", "lang": "py"}},
        "DecodeError",
    ),
    "pickle": (b"\x80\x04.", {"content_type": "application/x-python-serialize"}, "DecodeError"),
    "garbage of our type": (b"\xc1", {"content_type": CONTENT_TYPE}, "DecodeError"),
    "garbage with our facts": (b"\xc1", {"content_type": CONTENT_TYPE, "headers": {FACTS: "[1,1]"}}, "DecodeError"),
    "an unknown task": (message("nope"), {"content_type": CONTENT_TYPE}, "NotRegistered"),
    "huge": (b"x" * 3_000_000, {"content_type": CONTENT_TYPE}, "DecodeError"),
}

# Good messages with properties beside them that mean nothing here, or can't be read: they are passed over.
ODD: dict[str, Properties] = {
    "facts that are text": {"headers": {FACTS: "many"}},
    "facts that are a number": {"headers": {FACTS: 7}},
    "facts of wrong types": {"headers": {FACTS: '["a","b"]'}},
    "facts without end": {"headers": {FACTS: "[" * 5000}},
    "facts that are a table": {"headers": {FACTS: {"count": 1}}},
    "a delivery count of somebody else's": {"headers": {"x-delivery-count": 5}},
    "headers of all kinds": {"headers": {"a": None, "b": [1, "x"], "c": {"d": True}, "f": 1.5}},
    "a priority": {"priority": 200},
    "a message id that is long": {"message_id": "m" * 255},
    "a type and a user's app": {"type": "x", "app_id": "theirs"},
    "a time long ago": {"timestamp": 1},
}


async def put(server: RabbitServer, vhost: str, messages: list[tuple[bytes, Properties]]) -> None:
    """Publish messages as another program would."""
    async with await aio_pika.connect(server.url(vhost)) as connection:
        channel = await connection.channel()
        for body, properties in messages:
            await channel.default_exchange.publish(aio_pika.Message(body, **properties), QUEUE)


@ACKS
async def test_malformed_messages_of_other_programs_are_dead_lettered(
    scene: Scene, store: RabbitStore, acks_late: bool
) -> None:
    await scene.send("nap", 0.01, times=5)
    odd = {f"odd-{number}": properties for number, properties in enumerate(ODD.values())}
    await put(store.server, store.vhost, [(body, properties) for body, properties, _ in MALFORMED.values()])
    await put(
        store.server,
        store.vhost,
        [(message(id_=id_), {"content_type": CONTENT_TYPE} | properties) for id_, properties in odd.items()],
    )
    scene.sent += odd
    await scene.send("nap", 0.01, times=5)
    worker = await scene.worker("-c", "5", task_acks_late=acks_late)
    outcomes = await scene.all_done()
    await scene.drained()
    admin: Any = scene.app.broker

    async def letters() -> list[Any] | None:
        found = list(await admin.dead_letters(None, 1000))
        return found if len(found) >= len(MALFORMED) else None

    found = await until(letters, "all of it is buried")
    await scene.tell(f"malformed messages, acks {'late' if acks_late else 'early'}", malformed=len(MALFORMED))

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert {meta.result for meta in outcomes.values()} == {worker.pid}
    expected = [(body[:DEAD_BODY_BYTES], len(body), reason) for body, _, reason in MALFORMED.values()]
    assert sorted((each.body, each.body_bytes, each.reason) for each in found) == sorted(expected)
    assert worker.code is None
    assert scene.record.started_twice() == 0
