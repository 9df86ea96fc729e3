"""What this worker was told to revoke: kept for what comes, and ended where it runs. Asked by admission."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from aiotask.newest import keep_newest
from aiotask.showing import shown

KEPT: Final = 50_000
"""So many are kept, the newest, as in a Celery worker. The broker's own record is the one that counts."""

logger = logging.getLogger("aiotask.worker")


class RevokedIds:
    """Task ids that must not start here any more, known before the broker has told.

    Attributes:
        known: They, the newest last. The same object throughout: admission looks into it with each start.
    """

    def __init__(self, terminate: Callable[[Collection[str]], Sequence[str]]) -> None:
        """Know none.

        Args:
            terminate: Ends the executions of these ids; returns those that it has found.
        """
        self._terminate = terminate
        self.known: OrderedDict[str, None] = OrderedDict()

    def revoke(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        """Carry out the command `revoke`, with Celery's arguments and answers.

        Args:
            arguments: `task_id`, one or a list; `terminate`, whether to end those that run. The `signal` is for workers
                whose bodies are processes: here a coroutine is cancelled, and a process killed, whatever it says.

        Raises:
            TypeError: There are no ids in it.
        """
        given = arguments["task_id"]
        ids = {given} if isinstance(given, str) else set(given)
        if not all(isinstance(id_, str) for id_ in ids):
            raise TypeError("task_id takes texts.")
        keep_newest(self.known, ids, KEPT)
        if not arguments.get("terminate"):
            logger.info("Tasks flagged as revoked: %s", shown(", ".join(sorted(ids))))
            return {"ok": f"tasks {ids} flagged as revoked"}
        ended = self._terminate(ids)
        return {"ok": f"terminate: {', '.join(ended) or 'tasks unknown'}"}
