"""Keeps N worker processes: starts them, replaces those that end, and stops them when it is told to stop itself.

Each is this command again with a pipe whose other end is here. A byte in it means stop, a second one stop at once; its
end, which comes with ours however we end, means stop. So no child outlives a supervisor that was killed.
"""

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Final

from aiotask.cli.errors import CONFIGURATION, DONE, INTERNAL, INTERRUPTED, TARGET, USAGE

logger = logging.getLogger("aiotask.supervisor")

_HOPELESS: Final = frozenset({USAGE, TARGET, CONFIGURATION})
"""Exit codes with which a first child ends as every later one would."""
_ENDED_BY_US: Final = frozenset({-signal.SIGTERM, -signal.SIGINT, INTERRUPTED})
"""Of a child that was told to stop before it had begun."""
_KILL: Final = 3
"""The level at which children that hang are killed: by a signal that comes some time after the second."""
_KILL_AFTER_S: Final = 2.0
_HEALTHY_S: Final = 10.0
"""A child that has lived so long has not failed at its start."""
_FIRST_BACKOFF_S: Final = 0.5
_LAST_BACKOFF_S: Final = 30.0


class Supervisor:
    """Runs until it is told to stop, or every child has done its work (`burst`)."""

    def __init__(self, arguments: Callable[[int, int], Sequence[str]], count: int, *, burst: bool) -> None:
        """Take what is to be run; nothing is started.

        Args:
            arguments: Returns the command's arguments for a child by its number (from 1) and its end of the pipe.
            count: How many children.
            burst: True lets a child that ends with 0 be; else it is replaced.
        """
        self._arguments = arguments
        self._count = count
        self._burst = burst
        self._children: dict[int, tuple[Process, int]] = {}
        self._level = 0
        self._level_mono = 0.0
        self._stopping = asyncio.Event()

    async def run(self) -> int:
        """Keep the children; return the worst of their last exit codes."""
        loop = asyncio.get_running_loop()

        def hand_over(_number: int, _frame: FrameType | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: there is nothing left to stop
                loop.call_soon_threadsafe(self._on_signal)

        # Python's handlers, not the loop's: those end with it, and a signal after that would replace the exit code.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, hand_over)
        return max(await asyncio.gather(*(self._keep(number) for number in range(1, self._count + 1))))

    def _on_signal(self) -> None:
        if self._level + 1 == _KILL and time.monotonic() - self._level_mono < _KILL_AFTER_S:
            return
        self._stop(self._level + 1)

    def _stop(self, level: int) -> None:
        logger.info("Stopping %d worker processes%s", len(self._children), " at once" if level > 1 else "")
        self._level = level
        self._level_mono = time.monotonic()
        self._stopping.set()
        for process, pipe in self._children.values():
            if level >= _KILL:
                process.kill()
            else:
                _tell(pipe)

    async def _keep(self, number: int) -> int:
        failures, was_healthy = 0, False
        while True:
            started_mono = time.monotonic()
            pid, code = await self._run_child(number)
            if self._stopping.is_set():
                return DONE if code in _ENDED_BY_US else _shown(code)
            if code == DONE and self._burst:
                return DONE
            if code == DONE or time.monotonic() - started_mono > _HEALTHY_S:
                failures, was_healthy = 0, True
            elif code in _HOPELESS and not was_healthy:
                self._stop(1)
                return code
            delay = min(_LAST_BACKOFF_S, _FIRST_BACKOFF_S * 2**failures) if code != DONE else 0.0
            failures += code != DONE
            logger.log(
                logging.INFO if code == DONE else logging.ERROR,
                "Worker process %d (pid %d) ended with %s; another is started%s",
                number,
                pid,
                f"signal {-code}" if code < 0 else f"exit code {code}",
                f" in {delay:g} s" if delay else "",
            )
            if await self._stopped_within(delay):
                return DONE

    async def _run_child(self, number: int) -> tuple[int, int]:
        """Run a child to its end; return its process id and exit code, which is negative for a signal."""
        theirs, ours = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "aiotask",
                *self._arguments(number, theirs),
                stdin=DEVNULL,
                pass_fds=(theirs,),
                # A Ctrl-C of the terminal reaches every process of a group: ours tells them, and once is enough.
                start_new_session=True,
            )
        except OSError as error:
            # No memory, or too many processes: the others go on, and it is tried again.
            logger.error("Can't start worker process %d: %s", number, error)
            os.close(ours)
            return 0, INTERNAL
        finally:
            os.close(theirs)
        self._children[number] = process, ours
        try:
            if self._stopping.is_set():
                _tell(ours)
            return process.pid, await process.wait()
        finally:
            del self._children[number]
            os.close(ours)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        return self._stopping.is_set()


def _tell(pipe: int) -> None:
    with suppress(BrokenPipeError):
        os.write(pipe, b"s")


def _shown(code: int) -> int:
    """Return what stands for the exit code of a child that a signal has ended."""
    return code if code >= 0 else INTERNAL
