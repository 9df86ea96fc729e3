"""A plain function with `offload="process"` runs in another process, on another core, and has all that it has here."""

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from tests.guide.letters import read_letters
from tests.guide.processes.conftest import processes
from tests.guide.processes.process_tasks import (
    NoPickle,
    Size,
    TwoWords,
    app,
    count,
    describe,
    die,
    double,
    fail,
    fail_oddly,
    fork,
    give_up,
    handled,
    hooked,
    log_an_error,
    report,
    stubborn,
    talk,
    unlucky,
    unreadable,
    where,
    wrapped,
)

from aiotask import EncodeError, Reject, RemoteError, Worker, WorkerLost, redirect_stdouts

# What a process does is the same on each broker; of two one ends executions in one step, and one in several.
pytestmark = pytest.mark.parametrize("url", ["sqlite", "amqp"], indirect=True)


async def test_body_runs_in_another_process_which_is_used_again(worker: Worker) -> None:
    first = await (await where.delay()).get(timeout=10)
    assert first != os.getpid()
    assert await (await where.delay()).get(timeout=10) == first
    assert processes() == [first]


async def test_arguments_and_values_are_what_they_are_in_a_thread(worker: Worker) -> None:
    result = await double.delay(Size(1, 2), times=3)
    assert await result.get(timeout=10) == Size(3, 6)


@pytest.mark.priorities
async def test_request_is_that_of_the_execution(worker: Worker) -> None:
    result = await describe.apply_async((1,), {"y": 2}, headers={"tenant": "a"}, priority=3)
    assert await result.get(timeout=10) == {
        "id": result.id,
        "task": describe.name,
        "args": [1],
        "kwargs": {"y": 2},
        "retries": 0,
        "hostname": worker.hostname,
        "headers": {"tenant": "a"},
        "priority": 3,
        "queue": "default",
        "delivery_count": 1,
        "called_directly": False,
        "is_eager": False,
        "current_task": describe.name,
        "current_app": "proj",
    }


async def test_states_that_it_reports_come_in_order_while_it_runs(worker: Worker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    result = await count.delay(50, str(gate))
    numbers = []
    async for meta in result.updates():
        if meta.state == "PROGRESS":
            numbers.append(meta.result["current"])
        if numbers[-1:] == [50]:
            gate.unlink(missing_ok=True)
    assert numbers == sorted(set(numbers))
    assert (meta.state, meta.result) == ("SUCCESS", 50)


@pytest.mark.parametrize(
    ("kind", "args"), [("ValueError", ("no good", 3)), ("SystemExit", (3,)), ("StopIteration", (5,))]
)
async def test_whatever_it_raises_fails_the_task_with_its_traceback(
    worker: Worker, kind: str, args: tuple[object, ...]
) -> None:
    result = await fail.delay(kind)
    meta = await result.get(timeout=10, propagate=False)
    assert isinstance(meta, Exception)
    assert (type(meta).__name__, meta.args) == (kind, args)
    traceback = await result.traceback() or ""
    assert "process_tasks.py" in traceback.splitlines()[1]
    assert "/worker/" not in traceback
    assert await (await where.delay()).get(timeout=10) in processes()


@pytest.mark.parametrize(
    ("kind", "expected", "args"),
    [("NoPickle", NoPickle, (7,)), ("TwoWords", TwoWords, ("a b",)), ("Local", RemoteError, None)],
)
async def test_exception_that_can_not_travel_becomes_one_that_can(
    worker: Worker, kind: str, expected: type[Exception], args: tuple[object, ...] | None
) -> None:
    with pytest.raises(expected) as raised:
        await (await fail_oddly.delay(kind)).get(timeout=10)
    assert args is None or raised.value.args == args
    assert kind in str(raised.value.__notes__)


async def test_value_that_can_not_travel_fails_the_task_and_says_so(worker: Worker) -> None:
    with pytest.raises(EncodeError, match=r"unreadable returns can't be handed from one process to another.*lambda"):
        await (await unreadable.delay()).get(timeout=10)


@pytest.mark.parametrize("how", ["raised", "returned", "arguments"])
async def test_it_can_ask_for_a_retry(worker: Worker, how: str) -> None:
    result = await stubborn.delay(how)
    seen = [meta async for meta in result.updates()]
    assert (seen[-1].state, seen[-1].result, seen[-1].retries) == ("SUCCESS", 2, 2)
    reasons = [meta for meta in seen if meta.state == "RETRY" and meta.result is not None]
    if reasons:
        assert isinstance(reasons[0].result, NoPickle if how == "arguments" else ValueError)


async def test_retry_policy_is_that_of_the_worker(worker: Worker) -> None:
    assert await (await unlucky.delay()).get(timeout=10) == 2


async def test_ignore_and_reject_mean_what_they_mean_elsewhere(worker: Worker) -> None:
    rejected = await give_up.delay("reject")
    with pytest.raises(Reject):
        await rejected.get(timeout=10)
    [letter] = [letter for letter in await read_letters(app) if letter.id == rejected.id]
    assert letter.reason == "Reject"
    ignored = await give_up.delay("ignore")
    await (await where.delay()).get(timeout=10)
    await worker_is_idle()
    assert await ignored.state() == "PENDING"


async def worker_is_idle() -> None:
    admin: Any = app.broker
    async with asyncio.timeout(10):
        while (await admin.depths(["default"]))[0].reserved:
            await asyncio.sleep(0.005)


async def test_log_records_are_handled_by_the_worker_with_the_tasks_name_and_id(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with redirect_stdouts(level="ERROR"):
        result = await talk.delay()
        await result.get(timeout=10)
    named = {"task": talk.name, "task_id": result.id}
    seen = {
        (record.name, record.levelname, record.getMessage()): {name: vars(record).get(name) for name in named}
        for record in caplog.records
        if record.process != os.getpid()
    }
    assert seen == {
        ("aiotask.task.proj.images", "INFO", "one of 2"): named,
        (f"aiotask.task.{talk.name}", "WARNING", "from the task's own logger"): named,
        ("proj.library", "ERROR", "and from a library"): dict.fromkeys(named),
        ("aiotask.task.stdout", "ERROR", "printed"): named,
        ("aiotask.task.stdout", "ERROR", "in lines"): named,
    }


async def test_traceback_of_a_log_record_comes_along(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    await (await log_an_error.delay()).get(timeout=10)
    [record] = [record for record in caplog.records if record.getMessage() == "it failed"]
    assert 'raise ValueError("caught")' in (record.exc_text or "")
    assert 'raise ValueError("caught")' in logging.Formatter().format(record)


async def test_handlers_run_in_the_worker(worker: Worker) -> None:
    task = app.tasks["proj.notes"]
    assert await (await task.delay("george")).get(timeout=10) == "password"
    assert handled == [("on_success", "password", os.getpid())]
    handled.clear()
    with pytest.raises(KeyError):
        await (await task.delay("fred")).get(timeout=10)
    [failure, einfo] = handled
    assert failure[0] == "on_failure"
    assert isinstance(failure[1], KeyError)
    assert failure[2] == os.getpid()
    assert "self.words[user]" in str(einfo[1])


async def test_middleware_sees_what_is_raised_and_what_it_changes_arrives(broker: None) -> None:
    async with hooked.worker():
        result = await report.apply_async((), {"a": 1}, headers={"more": {"b": 2}})
        assert await result.get(timeout=10) == {"a": 1, "b": 2}
        with pytest.raises(KeyError):
            await (await report.delay(missing="c")).get(timeout=10)
    assert handled == [("middleware", "c", os.getpid())]


async def test_body_may_fork(worker: Worker) -> None:
    assert await (await fork.delay()).get(timeout=10) in processes()


async def test_body_may_be_a_wrapper_around_a_coroutine(worker: Worker) -> None:
    assert await (await wrapped.delay(2, 3)).get(timeout=10) == 5


async def test_apply_runs_it_in_a_process_as_well(broker: None) -> None:
    result = await where.apply()
    assert await result.get() in processes()
    described = await describe.apply((1,), {"y": 2})
    assert (await described.get())["is_eager"] is True
    retried = await stubborn.apply(("raised",))
    assert await retried.get() == 2
    failed = await die.apply(("exit",))
    with pytest.raises(WorkerLost):
        await failed.get()
    await app.close()
    assert processes() == []
