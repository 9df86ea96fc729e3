"""What the keys of a queue are called, and what is in them.

All keys of a queue share one hash tag. Behind `<key_prefix>:{<queue>}:` come

| key | type | what |
| --- | --- | --- |
| `s:<line>` | stream | the messages of one line; with its group `w` the only record of what is handed out to whom |
| `lines` | sorted set | the lines in use, in the order in which they are read |
| `delayed` | sorted set | messages by when they are due, in ms |
| `p:<name>` | sorted set | a waiting line of parked messages, by priority |
| `parked` | set | the waiting lines in use |
| `dead` | stream | dead letters |
| `wake` | list | at most one token, which an idle consumer waits for |
| `consumers` | sorted set | who takes from the queue, by until when it counts as present, in ms |
| `look` | hash | when lapsed leases were looked for, when they will be, and which were found |
| `pub:<lane>`, `fin:<lane>` | string | the number of a sender's last batch, for a minute: a repeat does nothing |

The lines are, in the order in which they are read: `r`, reclaimed messages; for each priority `<p>r`, those that were
given back, and `<p>`. `u` holds what was unparked.

`<key_prefix>:queues` is the set of the queues' names, `<key_prefix>:revoked` the sorted set of revoked task ids, in the
order in which they came.
"""

from collections.abc import Sequence
from typing import Final

RECLAIMED: Final = "r"
UNPARKED: Final = "u"
STARTED: Final = "!"
"""What a consumer's name ends with in the stream's records once a message is started."""


class Line:
    """One line of one queue. There is one object of it in a `Keys`, so that it can be compared by identity."""

    __slots__ = ("key", "name", "prefix", "queue")

    def __init__(self, queue: str, prefix: str, name: str) -> None:
        self.queue = queue
        self.prefix = prefix
        self.name = name
        self.key = f"{prefix}s:{name}"
        """Where its stream lies."""

    def __repr__(self) -> str:
        return f"Line({self.key!r})"

    @property
    def ahead(self) -> str:
        """The line that what is given back goes to."""
        return f"{self.name[0]}r" if self.name[0].isdigit() else RECLAIMED


Receipt = tuple[Line, bytes]
"""What a delivery is called: its line, and the id of its entry there."""


class Keys:
    """The names of all keys under one prefix."""

    def __init__(self, key_prefix: str) -> None:
        self._key_prefix = key_prefix
        self._prefixes: dict[str, str] = {}
        self._lines: dict[tuple[str, str], Line] = {}
        self.queues = f"{key_prefix}:queues"
        self.revoked = f"{key_prefix}:revoked"

    def prefix(self, queue: str) -> str:
        """Return what the names of a queue's keys begin with."""
        prefix = self._prefixes.get(queue)
        if prefix is None:
            prefix = self._prefixes[queue] = f"{self._key_prefix}:{{{queue}}}:"
        return prefix

    def prefixes(self, queues: Sequence[str]) -> list[str]:
        """Return the prefixes of several queues, in their order."""
        return [self.prefix(queue) for queue in queues]

    def line(self, queue: str, name: str) -> Line:
        """Return a line of a queue."""
        line = self._lines.get((queue, name))
        if line is None:
            line = self._lines[queue, name] = Line(queue, self.prefix(queue), name)
        return line
