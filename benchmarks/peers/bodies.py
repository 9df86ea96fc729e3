"""What every body does beside its task: the first one of a measurement says when it started."""

import os
import time
from pathlib import Path

NAP_S = 0.05
_pending = True


def started() -> None:
    """Leave the time of the first start, over all processes, in the file that the measurement named."""
    global _pending  # noqa: PLW0603 - a flag costs the bodies that follow nothing
    if _pending:
        _pending = False
        try:
            with open(os.environ["PEERS_STARTED"], "x", encoding="ascii") as file:
                file.write(repr(time.monotonic()))
        except FileExistsError:
            pass


def read_start(path: Path) -> float | None:
    """Return the time by the clock that all processes of a machine share (CLOCK_MONOTONIC); None before a start."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):  # not there yet, or made and not yet written
        return None
