"""Processes by what Linux tells of them in /proc: which belong to a session or a group, and what they use."""

import contextlib
import os
import signal
from pathlib import Path

GROUP, SESSION = 2, 3
"""Positions in a stat file behind the program's name."""


def belonging(position: int, number: int) -> list[int]:
    """Return the pids of the processes of a group or a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            if int(_fields(path)[position]) == number:
                found.append(int(path.parent.name))
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the processor seconds that their threads have used; the scheduler counts in nanoseconds."""
    used = 0
    for pid in pids:
        for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                used += int(path.read_text().split()[0])
    return used / 1e9


def resident_bytes(pids: list[int]) -> int:
    """Return their resident memory; what they share is counted for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


def kill(pids: list[int]) -> None:
    """Kill them, each by its pid."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _fields(path: Path) -> list[str]:
    return path.read_text().rpartition(")")[2].split()  # the program's name may hold blanks
