"""One log line per finished task: name, id, outcome, seconds.

The level is asked first: a formatted line costs more than a task.
"""

import logging
import time

from aiotask.outcome import Expired, Failed, HandedBack, Ignored, Outcome, Rejected, Retried, Succeeded
from aiotask.worker.execution import Execution

logger = logging.getLogger("aiotask.worker.tasks")


def log_outcome(execution: Execution, outcome: Outcome) -> None:
    """Log how an execution ended."""
    level = _level(execution, outcome)
    if not logger.isEnabledFor(level):
        return
    seconds = time.monotonic() - execution.started_mono if execution.started_mono else 0.0
    verb, why = _words(outcome)
    logger.log(
        level,
        "Task %s[%s] %s in %.3f s%s",
        execution.name,
        execution.delivery.id,
        verb,
        seconds,
        why,
        extra={"task": execution.name, "task_id": execution.delivery.id, "seconds": seconds},
    )


def _level(execution: Execution, outcome: Outcome) -> int:
    if not isinstance(outcome, Failed):
        return logging.INFO
    expected = execution.task is not None and isinstance(outcome.exc, execution.task.throws)
    return logging.INFO if expected else logging.ERROR


def _words(outcome: Outcome) -> tuple[str, str]:
    """Return the verb, and what follows the seconds."""
    match outcome:
        case Succeeded():
            return "succeeded", ""
        case Failed(exc=exc, traceback=traceback, dead=dead):
            why = f": {type(exc).__name__}: {_text(exc)}"
            return "was dead-lettered" if dead else "failed", why if traceback is None else f"{why}\n{traceback}"
        case Retried(retry=retry):
            return "retries", f": {_text(retry)}"
        case Ignored():
            return "was ignored", ""
        case Rejected(reject=reject):
            return "gave its message back" if reject.requeue else "was rejected", f": {_text(reject)}"
        case Expired():
            return "had expired", ""
        case HandedBack():
            return "was handed back", ""


def _text(exc: BaseException) -> str:
    try:
        return str(exc)
    except Exception as error:  # noqa: BLE001 - a user's exception whose str fails
        return f"(its str raised {type(error).__name__})"
