"""What the bodies of the fault tests have recorded: one line for each start and each end."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Event:
    """One line of the record that the bodies keep."""

    kind: str
    task_id: str
    delivery_count: int
    pid: int
    at_mono: float


class Record:
    """What the bodies have recorded so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        """Return every event, in the order of the file."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                lines = file.read().splitlines(keepends=True)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                kind, task_id, count, pid, at = line.decode().split()
                self._events.append(Event(kind, task_id, int(count), int(pid), float(at)))
        return self._events

    def starts(self, task_id: str | None = None) -> list[Event]:
        """Return the starts, of one task or of all."""
        return [e for e in self.events() if e.kind == "start" and (task_id is None or e.task_id == task_id)]

    def ends(self) -> list[Event]:
        """Return the ends of bodies that ran to their last line."""
        return [e for e in self.events() if e.kind == "end"]

    def started_twice(self) -> int:
        """Count the starts beyond the first of each task."""
        starts = self.starts()
        return len(starts) - len({e.task_id for e in starts})
