"""One worker process: its event loop, from the first connection to the last thread. Called by `run`."""

import asyncio
import atexit
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Coroutine
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any, Final, NoReturn

from aiotask.app import AioTask
from aiotask.cli.errors import BAD_ANSWER, DONE, INTERNAL
from aiotask.cli.session import connect
from aiotask.cli.stopping import COLD, SUPERVISOR_THREAD, Stopping
from aiotask.exceptions import ImproperlyConfigured
from aiotask.task_logging import redirect_stdouts
from aiotask.worker.worker import Worker

logger = logging.getLogger("aiotask.worker")

LOOPS: Final = ("auto", "asyncio", "uvloop")

_LEFT_TASKS_S: Final = 0.5
"""How long what bodies have left on the loop may take to end."""
_LEFT_THREADS_S: Final = 0.2
"""How long threads with nothing to do may take to end."""
_FLUSH_S: Final = 2.0

_LOOP_FILES: Final = (__file__, os.path.dirname(asyncio.__file__))


def run_worker(app: AioTask, worker: Worker, stopping: Stopping, loop_name: str) -> int:
    """Run `worker` until it is told to stop, or has nothing more to do; return the exit code.

    Raises:
        ImproperlyConfigured: The loop is not installed.
        BrokerError, BackendError: A server can't be reached, or has failed in a way that waiting does not mend.
    """
    loop = _new_loop(loop_name)
    worker.on_stall = _end_stalled
    try:
        stopping.attach(loop, worker.stop)
        with _redirected(app):
            _drive(loop, _serve(app, worker))
        return BAD_ANSWER if stopping.level == COLD and worker.left_behind else DONE
    finally:
        _clear(loop)
        loop.close()


def leave(code: int) -> NoReturn:
    """End the process with `code`, whatever still runs in it.

    Not by returning: the interpreter would wait for a thread whose function never does, and a signal that came while it
    takes itself down would replace the code. What was registered with `atexit` runs all the same.
    """
    deadline = time.monotonic() + _LEFT_THREADS_S
    for thread in _others():
        thread.join(max(0.0, deadline - time.monotonic()))
    left = _others()
    if left:
        logger.info("Ending with threads that still run: %s", ", ".join(thread.name for thread in left))
    atexit._run_exitfuncs()
    _flush()
    os._exit(code)


def _redirected(app: AioTask) -> AbstractContextManager[None]:
    """Turn what tasks print into log records, unless the settings say otherwise."""
    if not app.conf.worker_redirect_stdouts:
        return nullcontext()
    return redirect_stdouts(level=app.conf.worker_redirect_stdouts_level)


async def _serve(app: AioTask, worker: Worker) -> None:
    # Before the worker does: it says better what was tried.
    await connect(app)
    async with worker:
        await worker.wait()


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make the loop; `auto` is uvloop where it is installed.

    Raises:
        ImproperlyConfigured: uvloop is wanted, and not installed.
    """
    if name == "asyncio":
        return asyncio.new_event_loop()
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError as error:
        if name == "auto":
            return asyncio.new_event_loop()
        raise ImproperlyConfigured(f"--loop uvloop: {error}. Install it: pip install uvloop") from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def _drive(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run `main` to its end, whatever ends the loop meanwhile.

    asyncio lets SystemExit and KeyboardInterrupt out of `run` from any task: one that a body has started and that calls
    `sys.exit()` would end the worker and everything else that it runs. Ours raise neither.
    """
    task = loop.create_task(main, name="aiotask-worker")
    while True:
        try:
            loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                raise
            logger.error(
                "%s in an asyncio task that a task body has started; the worker goes on",
                type(error).__name__,
                exc_info=error.with_traceback(_beyond_the_loop(error.__traceback__)),
            )
        else:
            return


def _beyond_the_loop(trace: TracebackType | None) -> TracebackType | None:
    """Drop the frames that lead from here through the loop to what it ran: a reader looks for that."""
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(_LOOP_FILES):
        rest = rest.tb_next
    return rest or trace


def _clear(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what is left on the loop, and give it a moment to end."""
    for end in (_end_tasks, _end_generators):
        with suppress(SystemExit, KeyboardInterrupt, TimeoutError):
            loop.run_until_complete(end(loop))


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_LEFT_TASKS_S)


async def _end_generators(loop: asyncio.AbstractEventLoop) -> None:
    async with asyncio.timeout(_LEFT_TASKS_S):
        await loop.shutdown_asyncgens()


def _others() -> list[threading.Thread]:
    """Return the threads that still run something, but for this one and the one that only waits for the supervisor."""
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread() and thread.name != SUPERVISOR_THREAD
    ]


def _end_stalled() -> None:
    """End the process: its leases have lapsed, and its loop does not answer. In the leases' thread."""
    os.write(2, b"Error: the event loop is blocked; this worker process ends (exit code 70).\n")
    # In a thread: the one that blocks the loop may hold the lock of a handler.
    flushing = threading.Thread(target=_flush, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_S)
    os._exit(INTERNAL)


def _flush() -> None:
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
