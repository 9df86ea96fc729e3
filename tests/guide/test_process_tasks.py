"""A plain function with `offload="process"` runs in another process: on another core, and killable."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.guide.letters import read_letters

from aiotask import (
    AioTask,
    AioTaskError,
    EncodeError,
    Ignore,
    ImproperlyConfigured,
    Reject,
    RemoteError,
    Task,
    WorkerLost,
    current_app,
    current_task,
    get_task_logger,
    redirect_stdouts,
)
from aiotask.message import DeadLetter
from aiotask.worker.worker import Worker

# The process imports this module to find the app and its tasks, so both are defined here, not in a test.

handled: list[tuple[str, object, int]] = []


class ChangesArguments:
    """Middleware that stands around every execution, in the worker's process."""

    async def execute(self, request: Any, call_next: Any) -> Any:
        request.kwargs.update(request.headers.get("more", {}))
        try:
            return await call_next(request)
        except KeyError as error:
            handled.append(("middleware", error.args[0], os.getpid()))
            raise


app = AioTask("proj", broker="memory://")
hooked = AioTask("hooked", broker="memory://", middleware=[ChangesArguments()])
log = get_task_logger("proj.images")


@dataclass
class Size:
    width: int
    height: int


@app.task(offload="process")
def where() -> int:
    return os.getpid()


@app.task(offload="process", max_retries=1)
def double(size: Size, *, times: int = 2) -> Size:
    assert isinstance(size, Size)
    return Size(size.width * times, size.height * times)


@app.task(offload="process", bind=True)
def describe(self: Task, x: int, *, y: int) -> dict[str, Any]:
    request = self.request
    task = current_task()
    return {
        "id": request.id,
        "task": request.task,
        "args": request.args,
        "kwargs": request.kwargs,
        "retries": request.retries,
        "hostname": request.hostname,
        "headers": request.headers,
        "priority": request.priority,
        "queue": request.delivery_info["queue"],
        "delivery_count": request.delivery_info["delivery_count"],
        "called_directly": request.called_directly,
        "is_eager": request.is_eager,
        "current_task": None if task is None else task.name,
        "current_app": current_app().main,
    }


@app.task(offload="process", bind=True)
def count(self: Task, times: int, path: str) -> int:
    """Waits after the last number until the file is gone."""
    Path(path).touch()
    for number in range(1, times + 1):
        self.update_state("PROGRESS", {"current": number})
    while Path(path).exists():
        time.sleep(0.005)
    self.update_state("CLOSING")
    return times


@app.task(offload="process")
def fail(kind: str) -> None:
    raise {"ValueError": ValueError("no good", 3), "SystemExit": SystemExit(3), "StopIteration": StopIteration(5)}[kind]


class NoPickle(Exception):
    """Can be made anew from its args, but not read from a pickle."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.socket = lambda: code


class TwoWords(Exception):
    """A pickle of it can be made, but not be read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@app.task(offload="process")
def fail_oddly(kind: str) -> None:
    class Local(Exception):
        pass

    raise {"NoPickle": NoPickle(7), "TwoWords": TwoWords("a", "b"), "Local": Local(object())}[kind]


@app.task(offload="process", bind=True, max_retries=2)
def stubborn(self: Task, how: str) -> int:
    if self.request.retries == 2:
        return 2
    if how == "returned":
        self.retry(countdown=0, throw=False)
        return -1
    if how == "arguments":
        self.retry(exc=NoPickle(1), countdown=0, args=["other"])
    raise self.retry(exc=ValueError("again"), countdown=0)


@app.task(offload="process", autoretry_for=(OSError,), retry_backoff=0.001, max_retries=2, bind=True)
def unlucky(self: Task) -> int:
    if self.request.retries < 2:
        raise ConnectionResetError("gone")
    return self.request.retries


@app.task(offload="process", acks_late=True)
def give_up(how: str) -> None:
    raise Ignore if how == "ignore" else Reject(NoPickle(3))


@app.task(offload="process", bind=True)
def talk(self: Task) -> None:
    log.info("%s of %d", "one", 2, extra={"shape": lambda: None})
    self.get_logger().warning("from the task's own logger")
    logging.getLogger("proj.library").error("and from a library")
    log.debug("too little to mention")
    print("printed\nin lines", end="")


@app.task(offload="process")
def log_an_error() -> None:
    try:
        raise ValueError("caught")
    except ValueError:
        log.exception("it failed")


@app.task
async def add(x: int, y: int) -> int:
    return x + y


@app.task(offload="process", bind=True)
def sum_up(self: Task) -> list[Any]:
    first = add.sync.delay(1, 2)
    return [first.sync.get(timeout=10), first.id, self.request.id]


@app.task
async def parent_of(task_id: str) -> str | None:
    return (await app.result(task_id).meta()).parent_id


@app.task(offload="process")
def unreadable() -> Any:
    return lambda: None


@app.task(offload="process")
def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(offload="process", acks_late=True, reject_on_worker_lost=True)
def die_until(path: str, times: int) -> int:
    """Kills its process so many times."""
    with open(path, "a+") as file:
        file.write("x")
        started = file.tell()
    if started <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return started


@app.task(offload="process", reject_on_worker_lost=True)
def die_early() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(offload="process")
def wait_for(path: str) -> int:
    """Says that it has started, and waits until the file is gone."""
    Path(path).write_text(str(os.getpid()))
    while Path(path).exists():
        time.sleep(0.005)
    return os.getpid()


@app.task(offload="process")
def fork() -> int:
    """Forks, as libraries do; the other process goes the same way, and is none of the worker's."""
    pid = os.fork()
    if pid == 0:
        log.warning("from nowhere")
        return -1
    assert os.waitpid(pid, 0)[1] == 0
    return os.getpid()


async def _add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task(offload="process")
def wrapped(x: int, y: int) -> Any:
    return _add(x, y)


class Notes(app.Task):
    """A task as a class: one instance in each process, its handlers in the worker's."""

    name = "proj.notes"
    offload = "process"

    def __init__(self) -> None:
        self.words = {"george": "password"}

    def run(self, user: str) -> str:
        return self.words[user]

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        handled.append(("on_success", retval, os.getpid()))

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        handled.append(("on_failure", exc, os.getpid()))
        handled.append(("einfo", str(einfo), os.getpid()))


@hooked.task(offload="process")
def report(**values: Any) -> dict[str, Any]:
    if "missing" in values:
        raise KeyError(values["missing"])
    return values


@pytest.fixture
async def broker(url: str, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Let the app use an empty broker, as the command line would."""
    for each in (app, hooked):
        each.conf.broker_url = url
        each.conf.task_queue_max_priority = 9 if request.node.get_closest_marker("priorities") else None
    handled.clear()
    yield
    for each in (app, hooked):
        await each.close()


@pytest.fixture
async def worker(broker: None) -> AsyncIterator[Worker]:
    async with app.worker(concurrency=10) as worker:
        yield worker
    assert processes() == []


def processes() -> list[int]:
    """Return the processes that this one has started for tasks, and what it has not waited for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            is_ours = int(parent) == os.getpid()
            if is_ours and (state == "Z" or b"aiotask.worker.child" in (folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def dead_letters() -> list[DeadLetter]:
    return await read_letters(app)


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
    [letter] = [letter for letter in await dead_letters() if letter.id == rejected.id]
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


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_it_can_send_tasks_and_wait_for_them(worker: Worker) -> None:
    result = await sum_up.delay()
    value, child, own_id = await result.get(timeout=10)
    assert (value, own_id) == (3, result.id)
    assert [each.id for each in await result.children()] == [child]
    assert (await app.result(child).meta()).parent_id == result.id


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_it_is_told_that_memory_is_not_shared(worker: Worker) -> None:
    with pytest.raises(
        AioTaskError, match=r"memory:// is in the worker's process alone.*sqlite:///.*offload=\"thread\""
    ):
        await (await sum_up.delay()).get(timeout=10)


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
    return [letter.reason for letter in await dead_letters() if letter.id == task_id]


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


async def test_its_process_is_killed_when_the_worker_stops_at_once(
    broker: None, tmp_path: Path, until: Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
) -> None:
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


def test_eager_processes_end_when_nobody_closes_the_app(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        """
import asyncio, os
from aiotask import AioTask

app = AioTask("script", broker="memory://")

@app.task(offload="process")
def where() -> int:
    return os.getpid()

async def once() -> int:
    return await (await where.apply()).get()

if __name__ == "__main__":
    print(asyncio.run(once()), asyncio.run(once()))
""",
        encoding="utf-8",
    )
    ran = run(tmp_path)
    assert ran.stderr == ""
    assert len({*map(int, ran.stdout.split())}) == 2


async def test_app_has_to_be_where_the_process_can_find_it(url: str) -> None:
    local = AioTask("local", broker=url)

    @local.task(name="local.where", offload="process")
    def where() -> int:
        return os.getpid()

    async with local.worker():
        with pytest.raises(ImproperlyConfigured, match=r"<AioTask: local>.*Assign it in a module"):
            await (await where.delay()).get(timeout=10)
    await local.close()


async def test_task_has_to_be_where_the_process_can_find_it(worker: Worker) -> None:
    @app.task(name="proj.late", offload="process")
    def late() -> int:
        return os.getpid()

    with pytest.raises(ImproperlyConfigured, match=r"no task 'proj.late' there.*not later by a function"):
        await (await late.delay()).get(timeout=10)
    assert await (await where.delay()).get(timeout=10) in processes()


def test_coroutine_function_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'proj\.fetch'.*is for a plain def.*event loop"):

        @app.task(name="proj.fetch", offload="process")
        async def fetch() -> None: ...


def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run script.py there as a program."""
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


SCRIPT = """
import asyncio, os
from dataclasses import dataclass
from aiotask import AioTask

app = AioTask({main}, broker="sqlite:///{folder}/tasks.db")

class Gone(Exception):
    pass

@dataclass
class Place:
    pid: int

@app.task(offload="process")
def where(fails: bool) -> Place:
    if fails:
        raise Gone("away")
    return Place(os.getpid())

async def work() -> None:
    async with app.worker():
        place = await (await where.delay(False)).get(timeout=20)
        print(type(place).__name__, place.pid != os.getpid(), where.name)
        error = await (await where.delay(True)).get(timeout=20, propagate=False)
        print(type(error) is Gone, error)

{guard}asyncio.run(work())
"""


@pytest.mark.parametrize(("main", "name"), [("'script'", "script.where"), ("None", "__main__.where")])
def test_task_of_a_script_is_found_when_the_script_is_guarded(tmp_path: Path, main: str, name: str) -> None:
    source = SCRIPT.format(main=main, folder=tmp_path, guard='if __name__ == "__main__": ')
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    ran = run(tmp_path)
    assert (ran.stdout.splitlines(), ran.returncode) == ([f"Place True {name}", "True away"], 0), ran.stderr
    assert "Warning" not in ran.stderr


def test_script_without_a_guard_is_told_so_and_runs_once(tmp_path: Path) -> None:
    source = SCRIPT.format(main="None", folder=tmp_path, guard="")
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    ran = run(tmp_path)
    assert ran.stdout == ""
    assert 'Put what is to run once under: if __name__ == "__main__":' in ran.stderr.splitlines()[-1]
