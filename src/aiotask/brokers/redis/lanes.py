"""Names for batches that may have to be sent again: the server keeps the last number of each lane, and repeats nothing.

A number for each batch alone would leave a key on the server for each, for a minute. On a lane one batch follows the
other, so that a key for each lane is enough, and there are as many as batches that were ever under way at once.
"""

import itertools
import os


class Lanes:
    """The lanes of one sender."""

    def __init__(self) -> None:
        self._origin = os.urandom(8).hex()
        self._number = itertools.count(1).__next__
        self._idle: list[str] = []
        self._made = 0

    def take(self) -> tuple[str, int]:
        """Return a lane that nobody uses, and the number of the batch."""
        if not self._idle:
            self._made += 1
            self._idle.append(f"{self._origin}-{self._made}")
        return self._idle.pop(), self._number()

    def give(self, lane: str) -> None:
        """Let others use a lane: its batch is answered, or given up."""
        self._idle.append(lane)
