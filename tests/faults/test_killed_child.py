"""A process that runs a body is killed, or its worker is: one message ends or runs again, and no process is left."""

import os
import signal
from pathlib import Path

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import LEASE_S, SCAN_S, SLACK_S, Event, Scene, Worker, is_alive, until

LONG_S = 3600


async def started(scene: Scene, task_id: str) -> Event:
    """Wait for the first start of a task."""
    await until(lambda: scene.record.starts(task_id), f"{task_id} has started")
    return scene.record.starts(task_id)[0]


async def program(pid: int) -> int:
    """Wait for the program that a body runs; return its process id."""

    def children() -> list[int]:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    found: list[int] = await until(children, "the body has started its program")
    return found[0]


async def gone(*pids: int) -> None:
    await until(lambda: not any(map(is_alive, pids)), f"{pids} have ended", within=10)


async def stop(worker: Worker) -> None:
    worker.send(signal.SIGTERM)
    assert await worker.ended() == 0


@pytest.mark.parametrize("acks_late", [True, False], ids=["late", "early"])
async def test_its_task_fails_and_all_else_goes_on_when_a_process_is_killed(scene: Scene, acks_late: bool) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=acks_late)
    [doomed] = await scene.send("nap_in_process", LONG_S)
    start = await started(scene, doomed)
    asleep = await program(start.pid)
    beside = await scene.send("nap_in_process", 0.3)
    os.kill(start.pid, signal.SIGKILL)
    after = await scene.send("nap_in_process", 0, times=3)
    outcomes = await scene.all_done()
    await gone(start.pid, asleep)
    await scene.tell(f"SIGKILL of a body's process, acks {'late' if acks_late else 'early'}")

    assert outcomes[doomed].state == FAILURE
    assert outcomes[doomed].result["exc_type"] == "WorkerLost"
    assert "SIGKILL" in outcomes[doomed].result["exc_message"][0]
    assert {outcomes[id_].state for id_ in (*beside, *after)} == {SUCCESS}
    assert start.pid not in {outcomes[id_].result for id_ in (*beside, *after)}
    assert scene.record.started_twice() == 0
    assert await scene.dead() == {}
    assert worker.code is None
    await stop(worker)


async def test_its_task_is_run_again_when_a_process_is_killed_and_that_is_wanted(scene: Scene) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=True, task_reject_on_worker_lost=True)
    [task_id] = await scene.send("nap_in_process", LONG_S)
    start = await started(scene, task_id)
    os.kill(start.pid, signal.SIGKILL)
    outcomes = await scene.all_done()
    await scene.tell("SIGKILL of a body's process, to be run again")

    assert outcomes[task_id].state == SUCCESS
    assert [event.delivery_count for event in scene.record.starts(task_id)] == [1, 2]
    assert scene.stored_outcomes() == 1
    assert worker.code is None
    await stop(worker)


async def test_task_that_kills_its_process_each_time_becomes_a_dead_letter(scene: Scene) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=True, task_reject_on_worker_lost=True)
    poison = await scene.send("poison_in_process", times=2)
    beside = await scene.send("nap_in_process", 0.05, times=10)
    outcomes = await scene.all_done()
    await scene.tell("a body that kills its process")

    for task_id in poison:
        assert outcomes[task_id].state == FAILURE
        assert outcomes[task_id].result["exc_type"] == "WorkerLost"
        assert len(scene.record.starts(task_id)) == 4
    assert {letter.reason for letter in (await scene.dead()).values()} == {"WorkerLost"}
    assert set(await scene.dead()) == set(poison)
    assert {outcomes[id_].state for id_ in beside} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)
    assert worker.code is None
    await stop(worker)


async def test_no_process_is_left_when_the_worker_is_killed(scene: Scene) -> None:
    doomed = await scene.worker("-c", "4", task_acks_late=True)
    idle = await scene.send("nap_in_process", 0.01)
    await scene.all_done(idle)
    [task_id] = await scene.send("nap_in_process", LONG_S)
    start = await started(scene, task_id)
    asleep = await program(start.pid)
    left = doomed.children()
    assert start.pid in left
    at = await doomed.kill()
    await gone(*left, asleep)
    heir = await scene.worker("-c", "4", task_acks_late=True)
    outcomes = await scene.all_done()
    again = scene.record.starts(task_id)[-1]
    await scene.tell("SIGKILL of a worker with processes", begun=1, recovery=again.at_mono - at)

    assert outcomes[task_id].state == SUCCESS
    assert [event.delivery_count for event in scene.record.starts(task_id)] == [1, 2]
    assert again.pid in heir.children()
    await stop(heir)


async def test_no_process_is_left_when_a_fork_of_the_killed_worker_holds_its_pipes(scene: Scene) -> None:
    doomed = await scene.worker("-c", "4", task_acks_late=True)
    [busy] = await scene.send("nap_in_process", LONG_S)
    start = await started(scene, busy)
    [forking] = await scene.send("fork_in_thread", 30)
    fork: int = (await scene.all_done([forking]))[forking].result
    try:
        await doomed.kill()
        await gone(start.pid)
        assert is_alive(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_body_ends_by_itself_when_every_process_gets_the_first_signal(
    scene: Scene, number: signal.Signals
) -> None:
    """As from a service manager, which signals all that belongs to the service."""
    worker = await scene.worker("-c", "4")
    [task_id] = await scene.send("nap_in_process", 0.5)
    start = await started(scene, task_id)
    processes = worker.children()
    for pid in processes:
        os.kill(pid, number)
    worker.send(number)
    assert await worker.ended() == 0
    outcomes = await scene.all_done()
    assert outcomes[task_id].state == SUCCESS
    assert outcomes[task_id].result == start.pid
    await gone(*processes)


async def test_body_is_killed_and_handed_back_when_the_second_signal_comes(scene: Scene) -> None:
    worker = await scene.worker("-c", "4", task_acks_late=True)
    [task_id] = await scene.send("nap_in_process", LONG_S)
    start = await started(scene, task_id)
    asleep = await program(start.pid)
    processes = worker.children()
    worker.send(signal.SIGTERM)
    await until(lambda: "Asked to stop" in worker.said, "the first signal is seen")
    worker.send(signal.SIGTERM)
    assert await worker.ended() == 1
    await gone(*processes, asleep)
    heir = await scene.worker("-c", "4", task_acks_late=True)
    outcomes = await scene.all_done(within=LEASE_S + SCAN_S + SLACK_S + 10)
    assert outcomes[task_id].state == SUCCESS
    assert [event.delivery_count for event in scene.record.starts(task_id)] == [1, 2]
    await stop(heir)


async def test_prints_and_records_of_a_process_are_in_the_workers_log(scene: Scene) -> None:
    worker = await scene.worker("-c", "4")
    [task_id] = await scene.send("print_in_process", "hello")
    await scene.all_done()
    await until(lambda: "[from print]" in worker.said, "what was printed is logged")
    lines = [line for line in worker.said.splitlines() if "hello" in line]
    assert [line.partition("aiotask.task.")[2] for line in lines] == [
        f"stdout print_in_process[{task_id}]: hello [from print]",
        f"bodies print_in_process[{task_id}]: hello [from a logger]",
    ]
    await stop(worker)
