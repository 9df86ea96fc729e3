"""Tracebacks as their readers want them: without the frames that lead from us to the body."""

import os
from types import TracebackType
from typing import Final

from aiotask.exceptions import Retry
from aiotask.wire.errors import format_traceback

_OWN_FRAMES: Final = os.path.dirname(__file__) + os.sep


def users_traceback(exc: BaseException) -> str:
    """Return the traceback of what a body raised as text, from the body on; the exception keeps those frames alone."""
    # Not by assignment, which a frozen dataclass refuses.
    BaseException.with_traceback(exc, _users_frames(exc.__traceback__))
    return format_traceback(exc)


def retry_traceback(retry: Retry) -> str | None:
    """Return the traceback of a retry's reason, None when it has none."""
    return users_traceback(retry.exc) if isinstance(retry.exc, BaseException) else None


def _users_frames(trace: TracebackType | None) -> TracebackType | None:
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
        rest = rest.tb_next
    return rest or trace
