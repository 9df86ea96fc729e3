"""The log of a worker process: text for people, or JSON for machines. Set up by `run` alone."""

import logging
import sys
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Any, Final

import msgspec

from aiotask.cli.errors import CONFIGURATION, CommandError
from aiotask.cli.output import printable
from aiotask.request import find_current

LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "task", "task_id", "taskName"}
"""What every record has; all else was given with it as `extra`."""

_OUTCOMES: Final = "aiotask.worker.tasks"
"""The logger whose messages name their task themselves."""

_RESERVED: Final = frozenset({"ts", "level", "logger", "exception", "stack"})


def set_up_logging(level: str, *, as_json: bool, logfile: str | None) -> None:
    """Let this process's log records go to `logfile`, else to stderr. What was set up before is replaced.

    Args:
        level: One of `LEVELS`; lesser records are dropped.
        as_json: One JSON document per line instead of text.
        logfile: Appended to; opened anew when something has moved it away. None is stderr.

    Raises:
        CommandError: The file can't be written.
    """
    handler: logging.Handler
    if logfile is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        try:
            handler = WatchedFileHandler(logfile, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise CommandError(
                f"can't write the log file: {error}. Name a file in a folder that exists and is yours to write "
                "(--logfile).",
                CONFIGURATION,
            ) from error
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(name_the_task)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Python's own warnings as well: in a JSON log a line of another kind is a line that nobody can read.
    logging.captureWarnings(True)


def name_the_task(record: logging.LogRecord) -> bool:
    """Put the name and id of the task that the logging code runs in on its record, whatever logger it used."""
    # What asyncio says of a forgotten task it says when that is collected, in whatever task runs at the moment.
    request = None if hasattr(record, "task_id") or record.name == "asyncio" else find_current()
    if request is not None:
        record.task, record.task_id = request.task, request.id
    task_id = getattr(record, "task_id", None)
    if task_id is not None and record.name != _OUTCOMES:
        record.running = printable(f" {getattr(record, 'task', None)}[{task_id}]")
    return True


class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER TASK[ID]: MESSAGE`, the task only where the message does not name it; tracebacks follow."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-8s %(name)s%(running)s: %(message)s", defaults={"running": ""})

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - inherited
        """Return local time with its distance from UTC, to the millisecond."""
        return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(" ", "milliseconds")


class JsonFormatter(logging.Formatter):
    """One document per record and line: `ts, level, logger, message, task, task_id`, then what came as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the document; what has no JSON form in it is its repr."""
        document: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "task": getattr(record, "task", None),
            "task_id": getattr(record, "task_id", None),
        }
        document.update(
            (f"{name}_" if name in _RESERVED else name, value)
            for name, value in vars(record).items()
            if name not in _STANDARD and name != "running"
        )
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        try:
            return msgspec.json.encode(document, enc_hook=repr).decode()
        except (TypeError, ValueError, RecursionError):  # keys that are no text, half a surrogate pair, a cycle
            return msgspec.json.encode({name: ascii(value) for name, value in document.items()}).decode()
