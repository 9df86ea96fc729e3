"""The one place where an exception becomes a line for people and an exit code. Called by `main` and `run`."""

import re
from typing import Final

import click

from aiotask.exceptions import (
    AioTaskError,
    ArgumentError,
    BackendError,
    BrokerError,
    EncodeError,
    ImproperlyConfigured,
    NotRegistered,
)

DONE: Final = 0
BAD_ANSWER: Final = 1
"""The command worked, and what it has to tell is not what one hopes for."""
USAGE: Final = 2
TARGET: Final = 3
"""What TARGET names can't be imported."""
UNREACHABLE: Final = 69
INTERNAL: Final = 70
CONFIGURATION: Final = 78
INTERRUPTED: Final = 130
"""Ctrl-C in a command other than `run`; what a shell reports of a program that SIGINT ended."""

_CODES: Final[tuple[tuple[type[AioTaskError], int], ...]] = (
    (ImproperlyConfigured, CONFIGURATION),
    (ArgumentError, USAGE),
    (EncodeError, USAGE),
    (NotRegistered, USAGE),
    (BrokerError, UNREACHABLE),
    (BackendError, UNREACHABLE),
    (AioTaskError, INTERNAL),
)

_PASSWORD: Final = re.compile(r"(://[^\s:/@]*):\S+@")


class CommandError(Exception):
    """A command ends with this message and this exit code.

    Attributes:
        code: One of the codes above.
    """

    def __init__(self, message: str, code: int = BAD_ANSWER) -> None:
        super().__init__(message)
        self.code = code


def report(error: BaseException) -> int:
    """Say on stderr what happened, and return the exit code.

    Only an internal error shows a traceback: it is for us to read, the others are for the user.
    """
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (click.Abort, KeyboardInterrupt)):
        interrupted = isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)
        say("Interrupted." if interrupted else "Aborted.")
        return INTERRUPTED if interrupted else BAD_ANSWER
    if isinstance(error, CommandError):
        say(f"Error: {error}")
        return error.code
    for kind, code in _CODES:
        if isinstance(error, kind):
            say(f"Error: {error}")
            return code
    import traceback  # noqa: PLC0415 - only for what should not happen

    say("".join(traceback.format_exception(error)).rstrip())
    say(f"Internal error: {type(error).__name__}: {error}\nPlease report it with the traceback above.")
    return INTERNAL


def say(line: str) -> None:
    """Write a line for people to stderr, passwords of URLs masked whoever has put them there."""
    click.echo(_PASSWORD.sub(r"\1:***@", line), err=True)
