"""`--processes 2`: a child is killed, the supervisor is told to stop, the supervisor is killed. And ends of its own."""

import os
import signal

import pytest

from aiotask.states import SUCCESS

from .harness import LEASE_S, SCAN_S, SLACK_S, Scene, Worker, is_alive, until

RESTART_S = 0.5 + 4.0
"""The supervisor's first pause, and what a process takes to start on a machine that has much else to do."""


async def supervisor(scene: Scene, *options: str, acks_late: bool = True) -> tuple[Worker, list[int]]:
    worker = scene.launch("--processes", "2", "-c", "5", *options, task_acks_late=acks_late)
    await worker.ready(2)
    children = worker.children()
    assert len(children) == 2
    return worker, children


async def test_child_is_replaced_and_nothing_is_lost_when_it_is_killed(scene: Scene) -> None:
    worker, children = await supervisor(scene)
    await scene.send("nap", 0.1, times=150)
    await until(lambda: scene.done_count() >= 30, "30 are done")
    await until(lambda: scene.begun(children[0]), "the child has begun something")
    at = scene.now()
    os.kill(children[0], signal.SIGKILL)
    await until(lambda: not is_alive(children[0]), "it is gone")
    begun = scene.begun(children[0])
    await worker.ready(3)
    replaced = scene.now() - at
    outcomes = await scene.all_done()
    waited = [event.at_mono - at for id_ in begun for event in scene.record.starts(id_)[1:]]
    await scene.tell(
        "child killed, acks late", begun=len(begun), recovery=max(waited, default=0.0), replaced=f"{replaced:.2f} s"
    )
    now = worker.children()
    assert len(now) == 2
    assert children[1] in now
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == 150
    assert scene.record.started_twice() <= len(begun)
    assert await scene.dead() == {}
    assert replaced < RESTART_S
    assert max(waited, default=0.0) < LEASE_S + SCAN_S + SLACK_S


async def test_all_end_with_0_when_the_supervisor_is_told_to_stop(scene: Scene) -> None:
    worker, children = await supervisor(scene)
    await scene.send("nap", 1.0, times=30)
    await until(lambda: len(scene.record.starts()) == 10, "ten have started")
    at = worker.send(signal.SIGTERM)
    code = await worker.ended()
    await scene.tell("SIGTERM to the supervisor", ended=f"in {scene.now() - at:.2f} s with {code}")
    assert code == 0
    assert not any(map(is_alive, children))
    assert len(scene.record.starts()) == len(scene.record.ends()) == 10
    assert scene.done_count() == 10
    depth = await scene.depth()
    assert (depth.ready, depth.reserved) == (20, 0)


@pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])
async def test_children_end_by_themselves_when_the_supervisor_is_killed(scene: Scene, acks_late: bool) -> None:
    worker, children = await supervisor(scene, acks_late=acks_late)
    await scene.send("nap", 1.0, times=30)
    await until(lambda: len(scene.record.starts()) == 10, "ten have started")
    at = worker.send(signal.SIGKILL)
    await until(lambda: not any(map(is_alive, children)), "the children have ended")
    await scene.tell("SIGKILL of the supervisor", ended=f"in {scene.now() - at:.2f} s")
    assert len(scene.record.starts()) == len(scene.record.ends()) == 10
    assert scene.done_count() == 10
    depth = await scene.depth()
    assert (depth.ready, depth.reserved) == (20, 0)
    assert await scene.dead() == {}


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_nothing_stays_reserved_when_a_burst_ends(scene: Scene, processes: str) -> None:
    await scene.send("nap", 0.05, times=50)
    await scene.send("retry_once", 0.1)
    worker = scene.launch("--burst", "-c", "5", "--processes", processes)
    code = await worker.ended()
    outcomes = await scene.outcomes()
    await scene.tell(f"--burst, {processes} processes", code=code)
    assert code == 0
    assert len(outcomes) == 51
    assert scene.stored_outcomes() == 52  # one state is RETRY
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    depth = await scene.depth()
    assert (depth.ready, depth.reserved) == (0, 0)


@pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])
async def test_nothing_stays_reserved_when_the_limit_of_tasks_is_reached(scene: Scene, acks_late: bool) -> None:
    await scene.send("nap", 0.05, times=30)
    worker = scene.launch("--max-tasks", "7", "-c", "4", task_acks_late=acks_late, worker_prefetch_multiplier=5)
    code = await worker.ended()
    done = len(await scene.outcomes())
    given_back = scene.store.given_back()
    depth = await scene.depth()
    await scene.worker("--burst", task_acks_late=acks_late)
    outcomes = await scene.all_done()
    await scene.tell("--max-tasks 7", code=code, done_by_the_first=done)
    assert code == 0
    assert done == 7
    assert (depth.ready, depth.reserved) == (23, 0)
    assert [losses for _, losses in given_back] == [0] * 23
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.record.started_twice() == 0
    assert scene.stored_outcomes() == 30
