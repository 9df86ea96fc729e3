"""The tasks that the workers of the fault tests import: `aiotask run bodies --app-dir tests/faults`.

All settings come from the environment. Each body records its starts and its end with one `write` to one file, so that
what was recorded survives a SIGKILL: kind, task id, which handing-out it is, process id, monotonic seconds.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from full_disk import lift_limit, set_limit

from aiotask import AioTask, current_request, get_task_logger

app = AioTask("bodies")

_RECORD = os.open(os.environ["FAULTS_RECORD"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def record(kind: str) -> int:
    """Write a line; return which handing-out of its message this execution belongs to."""
    request = current_request()
    count: int = request.delivery_info["delivery_count"]
    os.write(_RECORD, f"{kind} {request.id} {count} {os.getpid()} {time.monotonic():.6f}\n".encode())
    return count


@app.task(name="nap")
async def nap(seconds: float) -> int:
    record("start")
    await asyncio.sleep(seconds)
    record("end")
    return os.getpid()


@app.task(name="nap_once")
async def nap_once(seconds: float) -> int:
    """Sleeps at its first handing-out only, so that whoever gets it next is done at once."""
    if record("start") == 1:
        await asyncio.sleep(seconds)
    record("end")
    return os.getpid()


@app.task(name="nap_in_thread")
def nap_in_thread(seconds: float) -> int:
    if record("start") == 1:
        time.sleep(seconds)
    record("end")
    return os.getpid()


@app.task(name="nap_in_process", offload="process")
def nap_in_process(seconds: float) -> int:
    """Sleeps at its first handing-out only, in a program of its own."""
    if record("start") == 1:
        subprocess.run(["sleep", str(seconds)], check=False)
    record("end")
    return os.getpid()


@app.task(name="fork_in_thread")
def fork_in_thread(seconds: float) -> int:
    """Leaves a copy of the worker behind, with all that it has open, as a library may that forks; returns its pid."""
    record("start")
    pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)  # but for its output, which the test reads to its end
        time.sleep(seconds)
        os._exit(0)
    record("end")
    return pid


@app.task(name="poison_in_process", offload="process")
def poison_in_process() -> None:
    record("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="print_in_process", offload="process")
def print_in_process(text: str) -> None:
    print(f"{text} [from print]")
    get_task_logger("bodies").warning("%s [from a logger]", text)


@app.task(name="retry_once", bind=True)
async def retry_once(self: Any, seconds: float) -> int:
    """Asks for a retry at its very first start."""
    if record("start") == 1 and self.request.retries == 0:
        await asyncio.sleep(seconds)
        raise self.retry(countdown=0)
    record("end")
    return os.getpid()


@app.task(name="stubborn")
async def stubborn() -> int:
    """Swallows every cancellation at its first handing-out."""
    if record("start") == 1:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                record("swallowed")
    record("end")
    return os.getpid()


@app.task(name="restless")
async def restless() -> int:
    """As `stubborn`, but never quiet: it takes every turn of the loop."""
    if record("start") == 1:
        while True:
            try:
                await asyncio.sleep(0)
            except asyncio.CancelledError:
                record("swallowed")
    record("end")
    return os.getpid()


@app.task(name="block")
async def block(seconds: float) -> int:
    """Blocks the event loop by a call that gives up the interpreter lock."""
    if record("start") == 1:
        time.sleep(seconds)
    record("end")
    return os.getpid()


@app.task(name="spin")
async def spin(seconds: float) -> int:
    """Blocks the event loop by pure Python, which gives up the interpreter lock only when it is asked to."""
    if record("start") == 1:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass
    record("end")
    return os.getpid()


@app.task(name="echo")
async def echo(seconds: float, text: str, times: int) -> str:
    record("start")
    await asyncio.sleep(seconds)
    record("end")
    return text * times


@app.task(name="poison")
async def poison() -> None:
    record("start")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="raise_exit")
async def raise_exit(kind: str) -> None:
    record("start")
    raise SystemExit(3) if kind == "SystemExit" else KeyboardInterrupt


@app.task(name="exit_in_thread")
def exit_in_thread(kind: str) -> None:
    record("start")
    if kind == "SystemExit":
        sys.exit(3)
    raise KeyboardInterrupt


@app.task(name="exit_in_child")
async def exit_in_child(kind: str) -> None:
    """Awaits an asyncio task that ends so."""
    record("start")
    await asyncio.create_task(_exit(kind))


@app.task(name="exit_in_left_child")
async def exit_in_left_child(kind: str) -> int:
    """Starts an asyncio task that ends so, and does not wait for it."""
    record("start")
    _left.append(asyncio.create_task(_exit(kind)))
    record("end")
    return os.getpid()


_left: list[asyncio.Task[None]] = []


async def _exit(kind: str) -> None:
    raise SystemExit(3) if kind == "SystemExit" else KeyboardInterrupt


@app.task(name="exit_in_own_thread")
async def exit_in_own_thread() -> int:
    """Starts a thread of its own that calls sys.exit()."""
    record("start")
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    await asyncio.to_thread(thread.join)
    record("end")
    return os.getpid()


@app.task(name="fill_the_disk")
async def fill_the_disk(seconds: float | None) -> None:
    """For so long, or for ever, this worker finds no room in the file; at its first handing-out."""
    if record("full") == 1:
        broker: Any = app.broker
        await set_limit(broker.link, 0)
        if seconds is not None:
            await asyncio.sleep(seconds)
            await lift_limit(broker.link)
