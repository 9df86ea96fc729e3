"""Loggers whose records carry the task's name and id, and what is printed turned into such records."""

import io
import logging
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TextIO

from aiotask.exceptions import ImproperlyConfigured
from aiotask.request import find_current
from aiotask.showing import shown

TASK_LOGGER: Final = "aiotask.task"
"""The logger that tasks' loggers inherit their level and handlers from."""


class _TaskContext(logging.Filter):
    """Puts `task`, by the name that logs show, and `task_id` on each record; None outside an execution."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = find_current()
        record.task = None if request is None else shown(request.shadow or request.task or "")
        record.task_id = None if request is None else request.id
        return True


_CONTEXT: Final = _TaskContext()


def get_task_logger(name: str) -> logging.Logger:
    """Return the logger `aiotask.task.<name>`; its records have the attributes `task` and `task_id`.

    They are those of the execution that logs, in coroutines, in threads, and in what they start.
    """
    logger = logging.getLogger(name if name.startswith(f"{TASK_LOGGER}.") else f"{TASK_LOGGER}.{name}")
    if _CONTEXT not in logger.filters:
        logger.addFilter(_CONTEXT)
    return logger


def level_number(level: int | str) -> int:
    """Return a level, given by name or number, as a number.

    Raises:
        ImproperlyConfigured: There is no level of that name.
    """
    if isinstance(level, int):
        return level
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ImproperlyConfigured(f"There is no log level {level!r}; there are DEBUG, INFO, WARNING, ERROR, CRITICAL.")
    return number


@contextmanager
def redirect_stdouts(logger: logging.Logger | None = None, level: int | str = "WARNING") -> Generator[None]:
    """Turn what is written to `sys.stdout` and `sys.stderr` into log records, a record for each line.

    Args:
        logger: Takes the records; by default the one for tasks, which puts the task's name and id on them.
        level: Of the records.
    """
    target = get_task_logger("stdout") if logger is None else logger
    number = level_number(level)
    stdout, stderr = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _LogStream(target, number, stdout), _LogStream(target, number, stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = stdout, stderr


def redirected() -> tuple[str, int] | None:
    """Return the name of the logger and the level that `sys.stdout` is redirected to, None when it is not."""
    stdout = sys.stdout
    return (stdout.logger.name, stdout.level) if isinstance(stdout, _LogStream) else None


class _LogStream(io.TextIOBase):
    """A text stream whose lines become log records."""

    def __init__(self, logger: logging.Logger, level: int, original: TextIO) -> None:
        self.logger = logger
        self.level = level
        self._original = original
        self._in_handler = threading.local()
        self._rests: dict[int, str] = {}
        """What each thread has written of a line that has no end yet."""

    def write(self, text: str) -> int:
        """Log each whole line; what has no end yet waits, for each thread by itself."""
        if getattr(self._in_handler, "now", False):
            # A handler that writes here while it handles our record: it would never end.
            return self._original.write(text)
        thread = threading.get_ident()
        *lines, self._rests[thread] = (self._rests.pop(thread, "") + text).split("\n")
        self._log(lines)
        return len(text)

    def flush(self) -> None:
        """Log what has no end yet, of every thread: the last call may come from another one than wrote it."""
        rests, self._rests = self._rests, {}
        self._log(list(rests.values()))

    def _log(self, lines: list[str]) -> None:
        self._in_handler.now = True
        try:
            for line in lines:
                if line.strip():
                    self.logger.log(self.level, "%s", line.rstrip())
        finally:
            self._in_handler.now = False

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def isatty(self) -> bool:
        """Say that nobody sits in front of it."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream that it stands for, for what writes past Python."""
        return self._original.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the stream that it stands for."""
        return self._original.encoding
