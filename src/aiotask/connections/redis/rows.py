"""Result rows in Redis, which a backend stores and a broker stores with its settlements: Celery's keys and channels.

The keys have no prefix of ours: a Celery client is to find them, and they may lie outside the queues' hash tags.
"""

import re
from importlib.resources import files
from typing import Final, NamedTuple

from aiotask.connections.redis.commands import Script
from aiotask.states import READY_STATES

KEY_PREFIX: Final = "celery-task-meta-"

_LUA: Final = files("aiotask.connections.redis").joinpath("lua")

STORE_ROW: Final = _LUA.joinpath("store_row.lua").read_text(encoding="utf-8")
"""Lua: defines `store_row(key, data, expires_ms)`, for the head of a script that stores rows among other things."""

STORE_ROWS: Final = Script(STORE_ROW + _LUA.joinpath("store_rows.lua").read_text(encoding="utf-8"), "store_rows.lua")
"""Stores a batch; see its header."""


class RedisRow(NamedTuple):
    """A result row on its way to the server."""

    key: str
    """Where it lies, and the channel that tells of it."""
    data: bytes
    final: bool
    expires_ms: int | None
    """How long it is kept; None for ever."""


def row_key(task_id: str) -> str:
    """Return the key, and channel, of a task's result."""
    return KEY_PREFIX + task_id


is_final: Final = re.compile(rb'\s*\{\s*"status"\s*:\s*"(?:%s)"' % "|".join(sorted(READY_STATES)).encode()).match
"""Tell by the first bytes of a row, ours or Celery's, whether its state is final: the rule of `store_row.lua`."""
