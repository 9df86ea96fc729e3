"""The Lua scripts of the broker; the header of each file says what it takes and returns."""

from importlib.resources import files
from typing import Final

from aiotask.connections.redis import Script
from aiotask.connections.redis.rows import STORE_ROW

_LUA: Final = files("aiotask.brokers.redis").joinpath("lua")
_QUEUE: Final = _LUA.joinpath("queue.lua").read_text(encoding="utf-8")


def _script(name: str, head: str = "") -> Script:
    return Script(_QUEUE + head + _LUA.joinpath(name).read_text(encoding="utf-8"), name)


ENQUEUE: Final = _script("enqueue.lua")
LOOK: Final = _script("look.lua")
RECEIVE: Final = _script("receive.lua")
UNSTARTED: Final = _script("unstarted.lua")
UNPARK: Final = _script("unpark.lua")
BEGIN: Final = _script("begin.lua")
RENEW: Final = _script("renew.lua")
SETTLE: Final = _script("settle.lua", STORE_ROW)
HAND_BACK: Final = _script("hand_back.lua")
STRANGERS: Final = _script("strangers.lua")
DEPTHS: Final = _script("depths.lua")
PURGE: Final = _script("purge.lua")
FIND_DEAD: Final = _script("find_dead.lua")
REPLAY: Final = _script("replay.lua")
