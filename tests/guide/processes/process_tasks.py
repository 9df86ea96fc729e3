"""Two apps and their tasks, which the worker's processes find by importing this module."""

import asyncio
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiotask import AioTask, Ignore, Reject, Task, current_app, current_task, get_task_logger

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
