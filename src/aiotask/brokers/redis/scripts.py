"""The Lua scripts of the broker; the header of each file says what it takes and returns."""

from importlib.resources import files
from typing import Final

from aiotask.connections.redis import Script
from aiotask.connections.redis.rows import STORE_ROW

_LUA: Final = files("aiotask.brokers.redis").joinpath("lua")


def _read(name: str) -> str:
    return _LUA.joinpath(name).read_text(encoding="utf-8")


_QUEUE: Final = _read("queue.lua")


def _script(name: str, head: str = "", *, first: str = "") -> Script:
    return Script(first + _QUEUE + head + _read(name), name)


ENQUEUE: Final = _script("enqueue.lua", first=_read("enqueue_first.lua"))
LOOK: Final = _script("look.lua")
RECEIVE: Final = _script("receive.lua")
HANDED: Final = _script("handed.lua")
UNPARK: Final = _script("unpark.lua")
BEGIN: Final = _script("begin.lua")
REVOKE: Final = _script("revoke.lua")
RENEW: Final = _script("renew.lua")
SETTLE: Final = _script("settle.lua", STORE_ROW)
HAND_BACK: Final = _script("hand_back.lua")
STRANGERS: Final = _script("strangers.lua")
RIGHTS: Final = _script("rights.lua")
DEPTHS: Final = _script("depths.lua")
PURGE: Final = _script("purge.lua")
FIND_DEAD: Final = _script("find_dead.lua")
REPLAY: Final = _script("replay.lua")
