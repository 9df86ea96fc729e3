"""Processes that end while they run a task, or with their worker; and how many of them there are at most."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.guide.conftest import Until
from tests.guide.letters import read_letters
from tests.guide.processes.conftest import processes
from tests.guide.processes.process_tasks import app, die, die_early, die_until, wait_for, where

from aiotask import Worker, WorkerLost


@pytest.mark.parametrize(
    ("how", "says"), [("exit", "ended with exit code 3"), ("kill", r"ended by signal 9 \(SIGKILL\)")]
)
async def test_task_fails_when_its_process_ends(worker: Worker, how: str, says: str) -> None:
    result = await die.delay(how)
    with pytest.raises(WorkerLost, match=says):
        await result.get(timeout=10)
    assert await dead_letters_of(result.id) == []
    assert await (await where.delay()).get(timeout=10) in processes()


async def dead_letters_of(task_id: str) -> list[str]:
    return [letter.reason for letter in await read_letters(app) if letter.id == task_id]


async def test_task_runs_again_when_its_process_is_lost_and_it_wants_that(worker: Worker, tmp_path: Path) -> None:
    assert await (await die_until.delay(f"{tmp_path}/starts", 2)).get(timeout=10) == 3


async def test_task_becomes_a_dead_letter_when_its_process_is_lost_too_often(worker: Worker, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    result = await die_until.delay(str(starts), 100)
    with pytest.raises(WorkerLost, match="task_max_deliveries"):
        await result.get(timeout=10)
    assert starts.read_text() == "x" * app.conf.task_max_deliveries
    assert await dead_letters_of(result.id) == ["WorkerLost"]


async def test_task_is_started_once_when_it_is_acknowledged_early(worker: Worker) -> None:
    result = await die_early.delay()
    with pytest.raises(WorkerLost, match="SIGKILL"):
        await result.get(timeout=10)
    assert await dead_letters_of(result.id) == []


async def test_there_are_no_more_processes_than_processors_and_the_rest_wait(worker: Worker, tmp_path: Path) -> None:
    processors = len(os.sched_getaffinity(0))
    gates = [tmp_path / str(number) for number in range(processors + 2)]
    results = [await wait_for.delay(str(gate)) for gate in gates]
    async with asyncio.timeout(10):
        while not all(gate.exists() for gate in gates[:processors]):
            await asyncio.sleep(0.005)
    assert not any(gate.exists() for gate in gates[processors:])
    assert len(processes()) == processors
    for gate, result in zip(gates, results, strict=True):
        async with asyncio.timeout(10):
            while not gate.exists():
                await asyncio.sleep(0.005)
        gate.unlink()
        assert await result.get(timeout=10) != os.getpid()


async def test_its_process_is_killed_when_the_worker_stops_at_once(broker: None, tmp_path: Path, until: Until) -> None:
    gate = tmp_path / "gate"

    async def started() -> bool:
        return gate.exists() and gate.read_text() != ""

    async with app.worker() as worker:
        result = await wait_for.delay(str(gate))
        await until(started)
        worker.stop()
        worker.stop()
    assert processes() == []
    await app.connect()
    assert await result.state() == "FAILURE"
