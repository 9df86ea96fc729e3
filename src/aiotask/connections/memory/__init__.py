"""The store in this process that a memory broker and a memory backend share.

Nothing in it is bound to an event loop: what it holds outlives the adapters and the loop that put it there. Every
method is one step without an `await`, which makes it atomic for all that run on one loop.
"""

from aiotask.connections.memory.link import MemoryLink
from aiotask.connections.memory.messages import Consumer, Holding, MemoryQueue, MessageStore, wake
from aiotask.connections.memory.nodes import Nodes
from aiotask.connections.memory.rows import Row, RowStore

__all__ = ["Consumer", "Holding", "MemoryLink", "MemoryQueue", "MessageStore", "Nodes", "Row", "RowStore", "wake"]
