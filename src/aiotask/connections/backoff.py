"""How long to wait before connecting again: doubling, with full jitter, for ever."""

import asyncio
import random
from typing import Final

FIRST_S: Final = 0.1
MOST_S: Final = 1.5
"""A server that answers again is in use within two seconds, however long it was away (docs/guarantees.md)."""


class Backoff:
    """The pauses of one who tries again and again. Full jitter keeps many from coming back at the same moment."""

    def __init__(self) -> None:
        self._most_s = FIRST_S

    def reset(self) -> None:
        """Begin anew: it has worked."""
        self._most_s = FIRST_S

    def next(self) -> float:
        """Return the seconds to wait this time."""
        pause = random.uniform(0, self._most_s)  # noqa: S311 - spreads processes
        self._most_s = min(self._most_s * 2, MOST_S)
        return pause

    async def pause(self) -> None:
        """Wait."""
        await asyncio.sleep(self.next())
