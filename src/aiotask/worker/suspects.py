"""What may have ended the workers that it was lost with: it starts so that a further crash names its culprit."""

from collections import deque

from aiotask.worker.execution import Execution

SOLITUDE_S = 30.0
"""How long a process holds new starts for the sake of one execution: until all else has ended, and beside it.

A task that kills its process does so early in its run, as a rule. Without an end, one long innocent execution would
stop everything else in its process.
"""


class Suspects:
    """Holds executions that were lost with their workers, and says which of them may start.

    What was lost twice starts one at a time in a process. What would be a dead letter if it were lost once more starts
    alone: nothing else starts beside it, so that nothing innocent can be lost as often as that with one culprit after
    the other.
    """

    def __init__(self, max_losses: int) -> None:
        """Take `task_max_deliveries`: what was lost so often is not started again."""
        self._last_start = max(1, max_losses - 1)
        self._waiting: deque[Execution] = deque()
        self._last_ones: deque[Execution] = deque()
        self._running: Execution | None = None
        self._until: float | None = None
        """While new starts are held: until when at most, in loop time."""
        self.pending = False
        """Whether any waits to start, or others wait because of one."""

    def take(self, execution: Execution) -> bool:
        """Take an execution if it is suspect.

        Once lost is no ground for suspicion: everything that ran beside a culprit was lost with it. What is
        acknowledged early is not started a second time in any case.
        """
        losses = execution.delivery.losses
        if not losses or not execution.acks_late:
            return False
        if losses >= self._last_start:
            self._last_ones.append(execution)
        elif losses >= 2:
            self._waiting.append(execution)
        else:
            return False
        self.pending = True
        return True

    @property
    def hold_others(self) -> bool:
        """True while nothing else may start because of one that runs alone, or is about to."""
        return self._until is not None

    def next(self, now: float, *, others_run: bool) -> tuple[Execution | None, float]:
        """Return the one that starts now, if one may, and for how many seconds at most nothing else may start.

        Args:
            now: Loop time in seconds.
            others_run: Whether anything runs in this process.
        """
        starts: Execution | None = None
        if self._running is None and self._last_ones:
            if self._until is None:
                self._until = now + SOLITUDE_S
            if not others_run or now >= self._until:
                self._until = now + SOLITUDE_S
                starts = self._running = self._last_ones.popleft()
        elif self._running is None and self._waiting:
            starts = self._running = self._waiting.popleft()
        self._note_pending()
        return starts, 0.0 if self._until is None else max(0.0, self._until - now)

    def left(self, execution: Execution) -> None:
        """Note that an execution has ended, or was refused: a suspect makes way for the next."""
        if execution is self._running:
            self._running = self._until = None
            self._note_pending()

    def withdraw(self) -> list[Execution]:
        """Give up all that have not started."""
        waiting = [*self._last_ones, *self._waiting]
        self._last_ones.clear()
        self._waiting.clear()
        self._until = None
        self.pending = False
        return waiting

    def _note_pending(self) -> None:
        self.pending = bool(self._waiting or self._last_ones) or self._until is not None
