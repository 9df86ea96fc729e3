"""Whatever is in the queue: it is dead-lettered with the reason, and the worker runs the rest."""

import json
import os
from collections import Counter

from aiotask.message import DEAD_BODY_BYTES, Envelope, TaskMessage, new_id
from aiotask.states import FAILURE, SUCCESS
from aiotask.wire.native import NativeCodec

from .harness import ACKS, EACH_BROKER, Scene
from .stores import QUEUE

NATIVE = NativeCodec.content_type
JSON = "application/json"


def body(payload: bytes = b"[[0],{}]", content_type: str = JSON, task: str = "nap") -> bytes:
    return NativeCodec().encode(TaskMessage(task=task, id=new_id(), payload=payload, content_type=content_type))


MIB = 1024 * 1024
MALFORMED: dict[str, tuple[bytes, str, str]] = {
    "garbage": (os.urandom(200), NATIVE, "DecodeError"),
    "empty": (b"", NATIVE, "DecodeError"),
    "cut": (body()[:-3], NATIVE, "DecodeError"),
    "something else in MessagePack": (b"\x2a", NATIVE, "DecodeError"),
    "nested without end": (b"\x91" * 100_000, NATIVE, "DecodeError"),
    "oversized": (body(b"[[" + b"1" * MIB + b"],{}]"), NATIVE, "DecodeError"),
    "oversized garbage": (b"\0" * (3 * MIB), NATIVE, "DecodeError"),
    "pickle": (b"\x80\x04.", "application/x-python-serialize", "ContentDisallowed"),
    "no content type": (body(), "", "ContentDisallowed"),
    "content type of a payload": (b"[[0],{}]", JSON, "ContentDisallowed"),
    "payload is pickle": (body(b"\x80\x04.", "application/x-python-serialize"), NATIVE, "ContentDisallowed"),
    "payload is garbage": (body(os.urandom(50)), NATIVE, "DecodeError"),
    "payload is empty": (body(b""), NATIVE, "DecodeError"),
    "payload is a mapping": (body(b'{"args":[0]}'), NATIVE, "DecodeError"),
    "payload is three parts": (body(b"[[0],{},{}]"), NATIVE, "DecodeError"),
    "payload has its parts the wrong way round": (body(b"[{},[0]]"), NATIVE, "DecodeError"),
    "payload is nested too deeply": (body(b"[" * 10_000 + b"]" * 10_000), NATIVE, "DecodeError"),
    "payload has a tag that is a lie": (
        body(json.dumps([[{"__type__": "datetime", "__value__": "soon"}], {}]).encode()),
        NATIVE,
        "DecodeError",
    ),
    "unknown task": (body(task="nope"), NATIVE, "NotRegistered"),
    "task by its path": (body(task="os.system"), NATIVE, "NotRegistered"),
    "name of many lines": (body(task="no\npe\x1b[31m" + "x" * 10_000), NATIVE, "NotRegistered"),
}


@EACH_BROKER
@ACKS
async def test_malformed_messages_are_dead_lettered_when_they_lie_among_good_ones(
    scene: Scene, acks_late: bool
) -> None:
    good: list[str] = []
    bad: dict[str, str] = {}
    for name, (content, content_type, _) in MALFORMED.items():
        good += await scene.send("nap", 0.01, times=2)
        envelope = Envelope(f"\nid-{new_id()}", QUEUE, content, content_type)
        await scene.app.broker.publish([envelope])
        bad[envelope.id] = name
    unfit = await scene.send("nap", "no number")
    good += await scene.send("nap", 0.01, times=2)
    worker = await scene.worker("-c", "5", task_acks_late=acks_late)
    outcomes = await scene.all_done()
    await scene.drained()
    dead = await scene.dead()
    stored = {id_ for id_ in bad if (await scene.app.backend.fetch([id_]))[0] is not None}
    reasons = Counter(letter.reason for letter in dead.values())
    await scene.tell(
        f"malformed, acks {'late' if acks_late else 'early'}",
        malformed=len(bad),
        reasons="/".join(f"{count} {reason}" for reason, count in sorted(reasons.items())),
    )

    assert {name: dead[id_].reason if id_ in dead else None for id_, name in bad.items()} == {
        name: reason for name, (_, _, reason) in MALFORMED.items()
    }
    depth = await scene.depth()
    done = sum(meta.state == SUCCESS for meta in outcomes.values())
    assert (done, len(dead), depth.ready + depth.reserved) == (len(good), len(bad), 0)
    assert done + len(dead) + len(unfit) == len(scene.sent) + len(bad)
    assert worker.code is None
    assert {outcomes[id_].result for id_ in good} == {worker.pid}
    assert outcomes[unfit[0]].state == FAILURE
    assert outcomes[unfit[0]].result["exc_type"] == "ArgumentError"
    for id_, name in bad.items():
        content = MALFORMED[name][0]
        assert dead[id_].body == content[:DEAD_BODY_BYTES]
        assert dead[id_].body_bytes == len(content)
        assert dead[id_].detail
    assert scene.record.started_twice() == 0
    # One line of the log each: what a message says can't begin a line of its own.
    assert not [line for line in worker.said.splitlines() if line.startswith(("id-", "pe"))]
    assert "\x1b" not in worker.said
    assert max(map(len, worker.said.splitlines())) < 2000
    # Somebody may wait for the id that the envelope has, or for the one that the message has where it can be read.
    readable = {id_ for id_, name in bad.items() if name.startswith(("payload", "unknown", "task", "name"))}
    assert stored == set(bad) - readable
