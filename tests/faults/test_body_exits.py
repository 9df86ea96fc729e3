"""Bodies that raise what ends a program: only their own message ends, the worker goes on."""

import signal

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import Scene

KINDS = pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt"])


@KINDS
@pytest.mark.parametrize("body", ["raise_exit", "exit_in_thread", "exit_in_child"])
@pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])
async def test_only_its_own_message_ends_when_a_body_raises(
    scene: Scene, body: str, kind: str, acks_late: bool
) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=acks_late)
    beside = await scene.send("nap", 0.3, times=2)
    bad = await scene.send(body, kind, times=3)
    after = await scene.send("nap", 0, times=5)
    outcomes = await scene.all_done()
    again = await scene.send("nap", 0)
    outcomes |= await scene.all_done(again)
    await scene.tell(f"{body}: {kind}, acks {'late' if acks_late else 'early'}")

    assert {outcomes[id_].state for id_ in bad} == {FAILURE}
    assert {outcomes[id_].result["exc_type"] for id_ in bad} == {kind}
    assert {outcomes[id_].state for id_ in (*beside, *after, *again)} == {SUCCESS}
    assert {outcomes[id_].result for id_ in (*beside, *after, *again)} == {worker.pid}
    assert worker.code is None
    assert scene.record.started_twice() == 0
    assert scene.stored_outcomes() == len(scene.sent)
    assert await scene.dead() == {}
    worker.send(signal.SIGTERM)
    assert await worker.ended() == 0


@KINDS
async def test_worker_goes_on_when_what_a_body_has_left_behind_raises(scene: Scene, kind: str) -> None:
    worker = await scene.worker("-c", "4")
    await scene.send("exit_in_left_child", kind, times=3)
    await scene.send("exit_in_own_thread", times=2)
    await scene.all_done()
    await scene.send("nap", 0.05, times=20)
    outcomes = await scene.all_done()
    await scene.tell(f"left behind: {kind}")
    assert {(meta.state, meta.result) for meta in outcomes.values()} == {(SUCCESS, worker.pid)}
    assert worker.code is None
    assert scene.stored_outcomes() == len(scene.sent)
    worker.send(signal.SIGTERM)
    assert await worker.ended() == 0
