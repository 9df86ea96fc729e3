"""Limited tasks get their places, and what is parked comes out of its line as fast as places become free."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.worker import lines as module
from aiotask.worker.execution import Execution
from aiotask.worker.lines import Lines


class Line:
    """A subscription's lines: what is parked in them, and what was asked for."""

    def __init__(self) -> None:
        self.parked: dict[str, list[str]] = {}
        self.asked: list[dict[str, int]] = []
        self.failures = 0
        self.open = asyncio.Event()
        self.open.set()

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        self.asked.append(dict(lines))
        await self.open.wait()
        if self.failures:
            self.failures -= 1
            raise BrokerError("link down")
        taken = []
        for line, count in lines.items():
            parked = self.parked.get(line, [])
            taken += [delivery(id_, line) for id_ in parked[:count]]
            self.parked[line] = parked[count:]
        return taken


def delivery(id_: str, line: str | None = None) -> Delivery:
    return Delivery(id_, "mail", b"", "application/x", 5, receipt=id_, line=line)


class Stage:
    def __init__(self, **limits: int | None) -> None:
        self.tasks = {name: SimpleNamespace(name=name, concurrency=limit) for name, limit in limits.items()}
        self.line = Line()
        self.connected = True
        self.taken: list[Delivery] = []
        subscription: Any = self.line
        self.lines = Lines(self.tasks, subscription, self.taken.extend, lambda: self.connected)
        self.running = asyncio.create_task(self.lines.run())

    def execution(self, id_: str, task: str = "pair", line: str | None = None) -> Execution:
        known: Any = self.tasks[task]
        known.acks_late = False
        return Execution(delivery(id_, line), None, known)

    def enter(self, id_: str, task: str = "pair") -> Execution | None:
        execution = self.execution(id_, task)
        return execution if self.lines.enter(execution) else None

    def park(self, id_: str, task: str = "pair") -> None:
        """Let a message come for which there is no place, up to the moment at which it is in its line."""
        execution = self.execution(id_, task)
        assert not self.lines.enter(execution)
        self.line.parked.setdefault(task, []).append(id_)
        self.lines.settled([execution.delivery])

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def taken_ids(self) -> list[str]:
        return [taken.id for taken in self.taken]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage(pair=2, free=None)
    await stage.settle()
    yield stage
    stage.running.cancel()
    await asyncio.gather(stage.running, return_exceptions=True)


async def test_places_are_as_many_as_the_task_says(stage: Stage) -> None:
    first = stage.enter("a")
    assert first is not None
    assert stage.enter("b") is not None
    stage.lines.leave(first)
    stage.lines.leave(first)  # a second time changes nothing
    assert stage.enter("c") is not None
    assert stage.enter("d") is None


async def test_lines_are_looked_at_once_at_the_start_and_not_those_of_unlimited_tasks(stage: Stage) -> None:
    assert stage.line.asked == [{"pair": 2}]
    assert stage.lines.are_empty()


async def test_parked_message_is_taken_when_a_place_becomes_free(stage: Stage) -> None:
    executions = [stage.enter("a"), stage.enter("b")]
    stage.park("c")
    stage.park("d")
    await stage.settle()
    assert stage.taken_ids == []
    assert not stage.lines.are_empty()
    assert executions[0] is not None
    stage.lines.leave(executions[0])
    await stage.settle()
    assert stage.line.asked[-1] == {"pair": 1}
    assert stage.taken_ids == ["c"]
    stage.lines.leave(stage.execution("c", line="pair"))
    await stage.settle()
    assert stage.taken_ids == ["c", "d"]


async def test_newcomer_goes_to_the_end_of_the_line(stage: Stage) -> None:
    executions = [stage.enter("a"), stage.enter("b")]
    stage.park("c")
    assert executions[0] is not None
    stage.lines.leave(executions[0])
    assert stage.enter("d") is None, "c has come first"


async def test_newcomer_waits_behind_one_who_is_on_the_way_to_the_line(stage: Stage) -> None:
    executions = [stage.enter("a"), stage.enter("b")]
    parking = stage.execution("c")
    assert not stage.lines.enter(parking)
    assert executions[0] is not None
    stage.lines.leave(executions[0])
    next_one = stage.execution("d")
    assert not stage.lines.enter(next_one), "c has come first"
    for execution in (parking, next_one):
        stage.lines.settled([execution.delivery])  # both are in the line, from which another worker takes them at once
    await stage.settle()
    assert stage.enter("e") is not None


async def test_place_is_kept_while_the_line_is_asked(stage: Stage) -> None:
    executions = [stage.enter("a"), stage.enter("b")]
    stage.park("c")
    stage.line.open.clear()
    assert executions[0] is not None
    stage.lines.leave(executions[0])
    await stage.settle()
    assert not stage.lines.are_empty(), "what is on its way out of the line is still to come"
    assert stage.enter("d") is None
    stage.line.open.set()
    await stage.settle()
    assert stage.taken_ids == ["c"]


async def test_message_parked_while_the_line_is_asked_is_not_forgotten(stage: Stage) -> None:
    execution = stage.enter("a")
    assert execution is not None
    assert stage.enter("b") is not None
    stage.park("c")
    stage.lines.leave(execution)
    await stage.settle()
    assert stage.taken_ids == ["c"]
    stage.park("d")
    stage.line.parked["pair"] = []
    stage.line.open.clear()
    stage.lines.leave(stage.execution("c", line="pair"))
    await stage.settle()
    late = stage.execution("e")
    assert not stage.lines.enter(late)
    stage.line.open.set()
    await stage.settle()
    stage.line.parked["pair"] = ["e"]
    stage.lines.settled([late.delivery])
    await stage.settle()
    assert stage.taken_ids == ["c", "e"]


async def test_place_is_free_again_when_the_line_was_empty(stage: Stage) -> None:
    execution = stage.enter("a")
    assert execution is not None
    assert stage.enter("b") is not None
    stage.park("c")
    stage.line.parked["pair"] = []  # another worker was faster
    stage.lines.leave(execution)
    await stage.settle()
    assert stage.lines.are_empty()
    assert stage.enter("d") is not None


async def test_line_does_not_count_as_empty_when_the_broker_was_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    await stage.settle()
    stage.connected = False
    executions = [stage.enter("a"), stage.enter("b")]
    stage.park("c")
    hidden, stage.line.parked["pair"] = stage.line.parked["pair"], []
    asked = len(stage.line.asked)
    assert executions[0] is not None
    stage.lines.leave(executions[0])
    async with asyncio.timeout(5):
        while len(stage.line.asked) < asked + 2:
            await asyncio.sleep(0.001)
    assert not stage.lines.are_empty()
    stage.line.parked["pair"], stage.connected = hidden, True
    async with asyncio.timeout(5):
        while stage.taken_ids != ["c"]:
            await asyncio.sleep(0.001)


async def test_line_is_asked_again_when_the_broker_could_not_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    stage.line.failures = 1
    stage.line.parked["pair"] = ["x"]
    async with asyncio.timeout(5):
        while not stage.taken:
            await asyncio.sleep(0.01)
    assert stage.taken_ids == ["x"], "another worker has parked it"
    assert "Can't take what is parked, trying again: link down" in caplog.text


async def test_line_keeps_its_order_when_the_broker_could_not_answer(stage: Stage) -> None:
    execution = stage.enter("a")
    assert execution is not None
    assert stage.enter("b") is not None
    stage.park("c")
    stage.line.failures = 1
    stage.lines.leave(execution)
    await stage.settle()
    assert not stage.lines.are_empty()
    assert stage.enter("d") is None, "it would overtake c"


async def test_place_is_free_again_when_the_stage_is_cancelled_while_it_asks(stage: Stage) -> None:
    execution = stage.enter("a")
    assert execution is not None
    assert stage.enter("b") is not None
    stage.park("c")
    stage.line.open.clear()
    stage.lines.leave(execution)
    await stage.settle()
    stage.running.cancel()
    await asyncio.gather(stage.running, return_exceptions=True)
    assert not stage.lines._asking
    assert stage.lines._used["pair"] == 1
