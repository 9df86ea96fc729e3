"""What can't start is refused with its reason, and harms nothing else."""

from collections.abc import Callable

import msgspec
import pytest
from tests.unit.worker.admission.stage import Stage

from aiotask import ContentDisallowed, DecodeError, NotRegistered
from aiotask.message import TaskMessage
from aiotask.outcome import Failed


async def test_unknown_task_is_refused_with_the_nearest_name(stage: Stage) -> None:
    stage.offer(stage.delivery("a", "proj.ad"))
    exc = stage.refused().exc
    assert isinstance(exc, NotRegistered)
    assert str(exc) == (
        "No task 'proj.ad' is registered. Did you mean 'proj.add'? Does the worker import the module that defines it?"
    )


@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "application/json", ""])
async def test_content_type_is_refused_before_anything_is_decoded(stage: Stage, content_type: str) -> None:
    stage.offer(stage.delivery("a", content_type=content_type, body=b"\x80\x04cos\nsystem\n."))
    exc = stage.refused().exc
    assert isinstance(exc, ContentDisallowed)
    assert repr(content_type) in str(exc)


async def test_payload_is_refused_when_its_content_type_is_not_accepted(stage: Stage) -> None:
    body = stage.app.codec.encode(TaskMessage("proj.add", "a", b"\x80", content_type="application/x-yaml"))
    stage.offer(stage.delivery("a", body=body))
    assert isinstance(stage.refused().exc, ContentDisallowed)


async def test_message_is_refused_when_it_is_larger_than_allowed(make: Callable[..., Stage]) -> None:
    stage = make(message_max_bytes=100)
    stage.offer(stage.delivery("a", payload=b'[["' + b"x" * 200 + b'"],{}]'))
    exc = stage.refused().exc
    assert isinstance(exc, DecodeError)
    assert "more than message_max_bytes (100)" in str(exc)


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x91" * 10_000, msgspec.msgpack.encode(["t"])])
async def test_body_is_refused_when_it_is_no_message(stage: Stage, body: bytes) -> None:
    stage.offer(stage.delivery("a", body=body))
    assert isinstance(stage.refused().exc, DecodeError)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[1",
        b"5",
        b"[]",
        b"[[],{},3]",
        b'[{"a":1},[]]',
        b"[[],null]",
        b"[" * 10_000,
        b'[[{"__type__":"bytes","__value__":5}],{}]',
        b'[[{"__type__":"uuid","__value__":{"hex":5}}],{}]',
        b'[{"__type__":"datetime","__value__":"2026-03-01"},{}]',
    ],
)
async def test_payload_is_refused_when_it_is_no_pair_of_arguments(stage: Stage, payload: bytes) -> None:
    stage.offer(stage.delivery("a", payload=payload), stage.delivery("b"))
    await stage.settle()
    [(execution, outcome)] = stage.concluded
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.exc, DecodeError)
    assert execution.name == "proj.add"
    assert stage.started_ids == ["b"]
