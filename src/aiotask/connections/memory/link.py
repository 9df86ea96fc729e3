"""One store, to be given to the broker and the backend that belong together."""

import time
from collections.abc import Callable

from aiotask.connections.memory.messages import MessageStore
from aiotask.connections.memory.nodes import Nodes
from aiotask.connections.memory.rows import RowStore


class MemoryLink:
    """One store, to be given to the broker and the backend that belong together."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Make an empty store.

        Args:
            clock: The broker's clock: epoch seconds. Due times, leases and expiries go by it.
        """
        self.clock = clock
        self.messages = MessageStore(clock)
        self.rows = RowStore(clock)
        self.nodes = Nodes()
