"""One log line per finished task: name, id, outcome, seconds.

The level is asked first: a formatted line costs more than a task.
"""

import logging
import time
from typing import Final

from aiotask.outcome import Expired, Failed, HandedBack, Ignored, Outcome, Rejected, Retried, Succeeded
from aiotask.wire.errors import text_of
from aiotask.worker.execution import Execution

logger = logging.getLogger("aiotask.worker.tasks")

_LONGEST: Final = 200
_LONGEST_REASON: Final = 1000


def shown(text: str, longest: int = _LONGEST) -> str:
    """Return what a message says of itself as the log may have it: cut, and no line or escape sequence of its own."""
    if len(text) <= longest and text.isprintable():
        return text
    return ascii(text[:longest])[1:-1] + "..." * (len(text) > longest)


def log_outcome(execution: Execution, outcome: Outcome) -> None:
    """Log how an execution ended."""
    level = _level(execution, outcome)
    if not logger.isEnabledFor(level):
        return
    seconds = time.monotonic() - execution.started_mono if execution.started_mono else 0.0
    name, task_id = shown(execution.name), shown(execution.delivery.id)
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
    return logging.ERROR if isinstance(outcome, Failed) and not _is_expected(execution, outcome) else logging.INFO


def _is_expected(execution: Execution, failed: Failed) -> bool:
    return execution.task is not None and isinstance(failed.exc, execution.task.throws)


def _words(execution: Execution, outcome: Outcome) -> tuple[str, str]:
    """Return the verb, and what follows the seconds."""
    match outcome:
        case Succeeded():
            return "succeeded", ""
        case Failed(exc=exc, traceback=traceback, dead=dead):
            if dead:
                return "was dead-lettered", f": {type(exc).__name__}: {shown(text_of(exc), _LONGEST_REASON)}"
            why = f": {type(exc).__name__}: {text_of(exc)}"
            if traceback is None or _is_expected(execution, outcome):
                return "failed", why
            return "failed", f"{why}\n{traceback.rstrip()}"
        case Retried(retry=retry):
            if retry.exc is None:
                return "is retried", f": {text_of(retry)}"
            return "is retried", f": {type(retry.exc).__name__}: {text_of(retry.exc)}; {text_of(retry)}"
        case Ignored():
            return "was ignored", ""
        case Rejected(reject=reject):
            gave_back = execution.acks_late and reject.requeue
            return "gave its message back" if gave_back else "was rejected", f": {text_of(reject.reason)}"
        case Expired():
            return "had expired", ""
        case HandedBack():
            return "was handed back", ""
