"""How a worker process is told to stop: by signals, and by the supervisor that has started it."""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

logger = logging.getLogger("aiotask.worker")

SUPERVISOR_THREAD: Final = "aiotask-supervisor"
WARM: Final = 1
COLD: Final = 2

_FORCE_AFTER_S: Final = 2.0
"""A signal that comes so long after the second ends the process at once: it hangs."""


class Stopping:
    """Brings the worker to the level that is asked for: 1 lets what runs finish, 2 stops at once.

    Signals and the supervisor's word count apart, and the higher counts: a service manager may signal the supervisor
    and its children alike, and the children must not take that for two.
    """

    def __init__(self) -> None:
        self.level = 0
        self._signals = 0
        self._ordered = 0
        self._cold_mono = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], None] = lambda: None

    def follow(self, pipe: int) -> None:
        """Obey the supervisor at the other end of `pipe`: each byte is one level, its end is the supervisor's end."""
        threading.Thread(target=self._read, args=(pipe,), name=SUPERVISOR_THREAD, daemon=True).start()

    def attach(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
        """Call `stop` on `loop` once for each level from now on; signals are ours until the process ends.

        In the main thread. The handlers are Python's, not the loop's: they run when a body blocks the loop, too.
        """
        self._stop = stop
        self._loop = loop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._call()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._cold_mono and time.monotonic() - self._cold_mono > _FORCE_AFTER_S:
            os._exit(1)
        self._signals += 1
        self._call()

    def _read(self, pipe: int) -> None:
        while os.read(pipe, 1):
            self._order(self._ordered + 1)
        self._order(WARM)

    def _order(self, level: int) -> None:
        self._ordered = max(self._ordered, level)
        if self._loop is None:
            # Nothing has been taken from the broker yet, so there is nothing to hand back.
            os.kill(os.getpid(), signal.SIGTERM)
        self._call()

    def _wanted(self) -> int:
        return min(max(self._signals, self._ordered), COLD)

    def _call(self) -> None:
        """Have the level looked at on the loop; from a signal handler or another thread."""
        if self._wanted() == COLD and not self._cold_mono:
            self._cold_mono = time.monotonic()
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._rise)
            except RuntimeError:
                return  # the loop is closed: it has stopped

    def _rise(self) -> None:
        while self.level < self._wanted():
            self.level += 1
            if self.level == WARM:
                logger.info("Asked to stop: nothing more is started; a second signal ends what runs")
            else:
                logger.warning("Asked to stop at once: what runs is ended")
            self._stop()
