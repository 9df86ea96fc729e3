"""One log line per finished task: name, id, outcome, seconds; and, at DEBUG, one when its message is received.

The level is asked first: a formatted line costs more than a task.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Final

from aiotask.outcome import (
    Expired,
    Failed,
    HandedBack,
    Ignored,
    Lost,
    Outcome,
    Parked,
    Postponed,
    Rejected,
    Retried,
    Revoked,
    Succeeded,
)
from aiotask.showing import shown
from aiotask.wire.errors import text_of
from aiotask.worker.execution import Execution

logger = logging.getLogger("aiotask.worker.tasks")

_LONGEST_REASON: Final = 1000
_BARE: Final[Mapping[type, str]] = {
    Succeeded: "succeeded",
    Ignored: "was ignored",
    Expired: "had expired",
    HandedBack: "was handed back",
}
"""Outcomes of which there is no more to say."""


def log_receptions(executions: Iterable[Execution]) -> None:
    """Log that messages were received, each with its task."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    for execution in executions:
        name, task_id = shown(execution.shadow), shown(execution.delivery.id)
        logger.debug("Task %s[%s] was received", name, task_id, extra={"task": name, "task_id": task_id})


def log_outcome(execution: Execution, outcome: Outcome) -> None:
    """Log how an execution ended."""
    level = _level(execution, outcome)
    if not logger.isEnabledFor(level):
        return
    seconds = time.monotonic() - execution.started_mono if execution.started_mono else 0.0
    name, task_id = shown(execution.shadow), shown(execution.delivery.id)
    verb, why = _words(execution, outcome)
    logger.log(
        level,
        "Task %s[%s] %s after %.3f s%s",
        name,
        task_id,
        verb,
        seconds,
        why,
        extra={"task": name, "task_id": task_id, "seconds": seconds},
    )


def _level(execution: Execution, outcome: Outcome) -> int:
    if isinstance(outcome, (Parked, Postponed)):
        return logging.DEBUG
    if isinstance(outcome, Lost):
        return logging.ERROR
    return logging.ERROR if isinstance(outcome, Failed) and not _is_expected(execution, outcome) else logging.INFO


def _line(reason: object) -> str:
    """Return the text of an exception, or of what it holds, on one line of the log: it may quote what a user wrote."""
    return shown(text_of(reason), _LONGEST_REASON)


def _is_expected(execution: Execution, failed: Failed) -> bool:
    return execution.task is not None and isinstance(failed.exc, execution.task.throws)


def _words(execution: Execution, outcome: Outcome) -> tuple[str, str]:
    """Return the verb, and what follows the seconds."""
    if type(outcome) in _BARE:
        return _BARE[type(outcome)], ""
    match outcome:
        case Failed(exc=exc, traceback=traceback, dead=dead):
            why = f": {type(exc).__name__}: {_line(exc)}"
            if dead:
                return "was dead-lettered", why
            if traceback is None or _is_expected(execution, outcome):
                return "failed", why
            return "failed", f"{why}\n{traceback.rstrip()}"
        case Retried(retry=retry):
            if retry.exc is None:
                return "is retried", f": {text_of(retry)}"
            return "is retried", f": {type(retry.exc).__name__}: {_line(retry.exc)}; {text_of(retry)}"
        case Rejected(reject=reject):
            gave_back = execution.acks_late and reject.requeue
            return "gave its message back" if gave_back else "was rejected", f": {_line(reject.reason)}"
        case Revoked(reason=reason):
            return f"was {reason}", ""
        case Parked(line=line):
            return "waits for a place", f" in the line {shown(line)}"
        case Postponed(delay_s=delay_s):
            return "waits for its time", f", {delay_s:.3f} s"
    assert isinstance(outcome, Lost)  # noqa: S101 - the last of the union
    return "has lost its process", f", and is handed back: {text_of(outcome.exc)}"
