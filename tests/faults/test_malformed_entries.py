"""What others write straight into the streams of a queue: it is dead-lettered, and the worker runs the rest."""

import os
import re
from typing import Any

import msgspec
import pytest

from aiotask import BrokerError
from aiotask.message import DEAD_BODY_BYTES, TaskMessage, new_id
from aiotask.states import SUCCESS
from aiotask.wire.native import NativeCodec

from .harness import ACKS, ON_REDIS, Scene, until
from .stores import RedisStore

pytestmark = ON_REDIS

CONTENT_TYPE = NativeCodec.content_type
pack = msgspec.msgpack.encode


def message(task: str = "nap", id_: str | None = None) -> bytes:
    return NativeCodec().encode(TaskMessage(task=task, id=id_ or new_id(), payload=b"[[0],{}]"))


Fields = dict[str | bytes, str | bytes]

# By name: the fields of an entry, the raw bytes that are kept of it, the reason.
MALFORMED: dict[str, tuple[Fields, bytes, str]] = {
    "garbage": ({"e": b"\xc1\xff\0garbage"}, b"\xc1\xff\0garbage", "ContentDisallowed"),
    "empty": ({"e": b""}, b"", "ContentDisallowed"),
    "no field of ours": ({"hello": "world"}, b"hello world", "ContentDisallowed"),
    "Celery's words": ({"body": b"[]", "headers": b"{}"}, b"body [] headers {}", "ContentDisallowed"),
    "names that are no text": ({b"\xff\xfe": b"\x80"}, b"\xff\xfe \x80", "ContentDisallowed"),
    "an array that is too short": ({"e": pack(["id-short"])}, pack(["id-short"]), "ContentDisallowed"),
    "a mapping": ({"e": pack({"id": "a"})}, pack({"id": "a"}), "ContentDisallowed"),
    "a number": ({"e": pack(7)}, pack(7), "ContentDisallowed"),
    "nested without end": ({"e": b"\x91" * 100_000}, b"\x91" * 100_000, "ContentDisallowed"),
    "an array said to be huge": ({"e": b"\xdd\xff\xff\xff\xff"}, b"\xdd\xff\xff\xff\xff", "ContentDisallowed"),
    "an id that is no text": (
        {"e": pack([b"\xff", CONTENT_TYPE, 5, b""])},
        pack([b"\xff", CONTENT_TYPE, 5, b""]),
        "ContentDisallowed",
    ),
    "an id that is not UTF-8": (
        {"e": b"\x94\xa2\xff\xfe" + pack(CONTENT_TYPE) + b"\x05\xc4\x00"},
        b"\x94\xa2\xff\xfe" + pack(CONTENT_TYPE) + b"\x05\xc4\x00",
        "ContentDisallowed",
    ),
    "a priority that there is not": (
        {"e": pack(["id-prio", CONTENT_TYPE, 77, message(id_="id-prio")])},
        pack(["id-prio", CONTENT_TYPE, 77, message(id_="id-prio")]),
        "ContentDisallowed",
    ),
    "a wrong content type": ({"e": pack(["id-type", "text/plain", 5, b"hi"])}, b"hi", "ContentDisallowed"),
    "pickle": (
        {"e": pack(["id-pickle", "application/x-python-serialize", 5, b"\x80\x04."])},
        b"\x80\x04.",
        "ContentDisallowed",
    ),
    "a body that is garbage": ({"e": pack(["id-body", CONTENT_TYPE, 5, b"\xc1"])}, b"\xc1", "DecodeError"),
    "a body that is not UTF-8": (
        {"e": pack(["id-text", CONTENT_TYPE, 5, b"\x93\xa2\xff\xfe\xa1a\xc4\x00"])},
        b"\x93\xa2\xff\xfe\xa1a\xc4\x00",
        "DecodeError",
    ),
    "huge": ({"e": pack(["id-huge", CONTENT_TYPE, 5, b"x" * 3_000_000])}, b"x" * 3_000_000, "DecodeError"),
    "huge garbage": ({"e": b"\xc1" * 3_000_000}, b"\xc1" * 3_000_000, "DecodeError"),
    "an unknown task": (
        {"e": pack(["id-task", CONTENT_TYPE, 5, message("nope", "id-task")])},
        message("nope", "id-task"),
        "NotRegistered",
    ),
    "counts beside garbage": ({"e": b"\xc1", "n": "1:2", "x": "99999999999999"}, b"\xc1", "ContentDisallowed"),
}

# Good messages with facts beside them that can't be read: they are passed over.
ODD: dict[str, Fields] = {
    "counts that are text": {"n": "many"},
    "counts without end": {"n": "9" * 5000 + ":" + "9" * 5000},
    "counts that are negative": {"n": "-3:-4"},
    "an expiry that is text": {"x": "soon"},
    "an expiry that is no number": {"x": "--5"},
    "an expiry without end": {"x": "9" * 5000},
    "an expiry beyond all floats": {"x": "9" * 400},
    "an empty expiry": {"x": ""},
    "fields of a later version": {"z": "new", "y": b"\xff"},
}


def write(store: RedisStore, fields: Fields, line: str = "5") -> None:
    """Add an entry as another program would."""
    key = f"{RedisStore.PREFIX}s:{line}"
    store.client.execute_command("XADD", key, "*", *(word for pair in fields.items() for word in pair))


@ACKS
async def test_malformed_entries_are_dead_lettered_when_they_lie_among_good_ones(
    scene: Scene, store: RedisStore, acks_late: bool
) -> None:
    odd: list[str] = []
    await scene.send("nap", 0.01, times=5)
    for fields, _, _ in MALFORMED.values():
        write(store, fields)
        await scene.send("nap", 0.01)
    for name, extra in ODD.items():
        odd.append(f"odd-{name.replace(' ', '-')}")
        write(store, {"e": pack([odd[-1], CONTENT_TYPE, 5, message(id_=odd[-1])]), **extra})
    scene.sent += odd
    worker = await scene.worker("-c", "5", task_acks_late=acks_late)
    outcomes = await scene.all_done()
    await scene.drained()
    letters = await letters_of(scene)
    await scene.tell(f"malformed entries, acks {'late' if acks_late else 'early'}", malformed=len(MALFORMED))

    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert {meta.result for meta in outcomes.values()} == {worker.pid}
    expected = [(raw[:DEAD_BODY_BYTES], len(raw), reason) for _, raw, reason in MALFORMED.values()]
    assert sorted((each.body, each.body_bytes, each.reason) for each in letters) == sorted(expected)
    readable = {"id-short", "id-prio", "id-type", "id-pickle", "id-body", "id-huge", "id-task", "id-text"}
    assert {each.id for each in letters} == {"", *readable}
    assert {meta.id for meta in await scene.app.backend.fetch(sorted(readable)) if meta is not None} == readable
    assert worker.code is None
    assert scene.record.started_twice() == 0


async def letters_of(scene: Scene) -> list[Any]:
    broker: Any = scene.app.broker
    return list(await broker.dead_letters(None, 1000))


async def test_malformed_entries_are_dead_lettered_when_they_were_delayed_or_given_back(
    scene: Scene, store: RedisStore
) -> None:
    """In every other place where a message may lie."""
    prefix = RedisStore.PREFIX
    await scene.send("nap", 0)
    write(store, {"e": b"\xc1reclaimed"}, "r")
    write(store, {"e": b"\xc1given-back"}, "5r")
    store.client.zadd(f"{prefix}lines", {"r": -1, "5r": 5, b"\xff\xfe": 6, "no line": 7})
    store.client.xadd(f"{prefix}s:no line", {"e": b"\xc1nowhere"})
    store.client.execute_command("XADD", prefix.encode() + b"s:\xff\xfe", "*", "e", b"\xc1nowhere")
    store.client.zadd(f"{prefix}delayed", {os.urandom(30): 1, b"": 2, pack([1, 2, "5"]): 3, pack([1, 2, 5, "e"]): 4})
    worker = await scene.worker("-c", "5")
    await scene.all_done()

    async def buried() -> bool:
        return len(await letters_of(scene)) >= 6

    await until(buried, "all of it is buried")
    await scene.send("nap", 0, times=5)
    outcomes = await scene.all_done()
    await scene.tell("malformed entries in other places")
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert len(await letters_of(scene)) == 6
    assert worker.code is None


@pytest.mark.parametrize("name", ["s:5", "delayed", "wake", "dead"])
async def test_worker_goes_on_when_a_key_was_of_another_type_for_a_while(
    scene: Scene, store: RedisStore, name: str
) -> None:
    worker = await scene.worker("-c", "5", task_acks_late=True)
    await scene.send("nap", 0.01, times=5)
    await scene.all_done()
    await scene.drained()
    key = f"{RedisStore.PREFIX}{name}"
    store.client.delete(key)
    store.client.set(key, "another program's")
    unknown = []
    if name == "dead":  # this one is met by the worker alone
        unknown.append((await scene.app.send_task("nope")).id)
    else:
        with pytest.raises(BrokerError, match=f"The key '{re.escape(key)}' .* belongs to another program"):
            await scene.send("nap", 0)
    store.end_waits()
    await until(lambda: f"The key '{key}' in Redis" in worker.said, "the worker has met the key")
    store.client.delete(key)
    await scene.send("nap", 0.01, times=5)
    outcomes = await scene.all_done()
    if unknown:
        await scene.all_done(unknown)
    await scene.drained()
    await scene.tell(f"{name} of another type for a while")
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert worker.code is None
    assert scene.record.started_twice() == 0
    assert set(await scene.dead()) == set(unknown)
