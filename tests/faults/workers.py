"""Worker processes of the fault tests, waited for without blocking the event loop, and what the kernel says of them."""

import asyncio
import inspect
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.processes import PATIENCE_S, READY, WorkerProcess

_POLL_S = 0.01


async def until(condition: Callable[[], Any], what: str, within: float = PATIENCE_S) -> Any:
    """Wait until `condition`, plain or async, returns something true, and return that."""
    deadline = time.monotonic() + within
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(_POLL_S)


class Worker:
    """An `aiotask run` process, or a supervisor of several, that is waited for without blocking the event loop."""

    def __init__(self, process: WorkerProcess) -> None:
        self._process = process
        self.pid = process.pid
        self._seen_children: set[int] = set()

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return None if self._process.running else self._process.wait()

    @property
    def said(self) -> str:
        """What it and its children have written so far."""
        return self._process.output

    async def ready(self, count: int = 1) -> None:
        """Wait until so many workers in it have said, in all, that they are ready."""

        def answered() -> bool:
            assert self._process.running, f"the worker ended with {self.code}:\n{self.said}"
            return len(re.findall(READY, self.said)) >= count

        await until(answered, f"{count} workers are ready")
        self.children()

    def children(self) -> list[int]:
        """Return the process ids of a supervisor's children that run now."""
        found = [pid for pid in self._process.children() if is_alive(pid)]
        self._seen_children.update(found)
        return found

    def thaw(self) -> float:
        """Let it go on after a SIGSTOP; return the monotonic time just before."""
        return self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> float:
        """Send a signal; return the monotonic time just before."""
        now = time.monotonic()
        self._process.send(number)
        return now

    async def ended(self, within: float = PATIENCE_S) -> int:
        """Wait for its end; return the exit code."""
        try:
            await until(lambda: not self._process.running, "the worker has ended", within)
        except AssertionError as error:
            error.add_note(self.said)
            raise
        code = self.code
        assert code is not None
        return code

    async def kill(self) -> float:
        """End it by SIGKILL, and wait until it is gone; return the monotonic time of the kill."""
        at = self.send(signal.SIGKILL)
        await self.ended()
        return at

    def clean_up(self) -> None:
        """Make sure that nothing of it is left, children of a supervisor that was killed included."""
        self.children()
        for pid in self._seen_children:
            if is_alive(pid) and b"aiotask" in _command_line(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.__exit__(None, None, None)


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process that has not ended."""
    return state_of(pid) not in {"Z", "X"}


def state_of(pid: int) -> str:
    """Return the state of a process as the kernel calls it: R, S, T for stopped; X when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return "X"
    return stat.rpartition(")")[2].split()[0]


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used so far."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
