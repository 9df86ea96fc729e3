"""What the guide does not see of the runner: an execution that is ended before it has begun."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotask import AioTask
from aiotask.message import Delivery, TaskMessage
from aiotask.outcome import Outcome, Revoked
from aiotask.worker.execution import Execution
from aiotask.worker.executors import ThreadPool
from aiotask.worker.runner import Runner


class Stage:
    """A runner whose neighbours the test plays."""

    def __init__(self) -> None:
        self.app = AioTask("proj", broker="memory://")
        self.concluded: list[tuple[str, Outcome]] = []
        self.failures: list[BaseException] = []
        self.threads = ThreadPool(1)
        self.runner = Runner("w@h", self.threads, (), self._conclude, lambda *_: None, self.failures.append)

    def _conclude(self, execution: Execution, outcome: Outcome) -> None:
        self.concluded.append((execution.delivery.id, outcome))

    def start(self, task: Any, id_: str) -> None:
        delivery = Delivery(id_, "q", b"", "x", 5, id_)
        self.runner.start(Execution(delivery, TaskMessage(task.name, id_, b"[[],{}]"), task))


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    made.threads.close()
    assert made.failures == []


async def test_execution_is_concluded_when_it_is_terminated_before_its_first_step(stage: Stage) -> None:
    started = []

    @stage.app.task
    async def run() -> None:
        started.append(1)

    stage.start(run, "a")
    stage.start(run, "b")
    assert stage.runner.terminate(["a", "c"]) == ["a"]
    assert stage.concluded == [("a", Revoked("terminated"))]
    await asyncio.wait(stage.runner.running.values())
    assert started == [1]
    assert [id_ for id_, _ in stage.concluded] == ["a", "b"]


async def test_all_executions_of_an_id_end_when_it_is_terminated(stage: Stage) -> None:
    started = []

    @stage.app.task
    async def run() -> None:
        started.append(1)
        await asyncio.sleep(3600)

    stage.start(run, "a")
    stage.start(run, "a")
    while len(started) < 2:
        await asyncio.sleep(0)
    assert stage.runner.terminate(["a"]) == ["a"]
    await asyncio.wait(stage.runner.running.values())
    assert stage.concluded == [("a", Revoked("terminated"))] * 2
