"""The link to one Redis that a broker and a result backend share. Importing it imports the driver."""

from aiotask.connections.redis.blocking import BlockingReader
from aiotask.connections.redis.commands import Script, ScriptCall, Word
from aiotask.connections.redis.errors import LinkClosed, LinkDown, ReplyError, ServerRefused
from aiotask.connections.redis.link import RedisLink
from aiotask.connections.redis.listener import Listener
from aiotask.connections.redis.threads import ThreadConnection
from aiotask.connections.translating import Translation

__all__ = [
    "BlockingReader",
    "LinkClosed",
    "LinkDown",
    "Listener",
    "RedisLink",
    "ReplyError",
    "Script",
    "ScriptCall",
    "ServerRefused",
    "ThreadConnection",
    "Translation",
    "Word",
]
