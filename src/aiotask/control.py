"""What a program asks of the workers: `app.control`."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from aiotask.exceptions import BrokerError
from aiotask.options import checked_text
from aiotask.protocols import Application, RemoteControlled, Revoking

_NOT_YET = frozenset(
    {
        "ping",
        "inspect",
        "rate_limit",
        "time_limit",
        "pool_grow",
        "pool_shrink",
        "add_consumer",
        "cancel_consumer",
        "enable_events",
        "disable_events",
        "shutdown",
        "broadcast",
    }
)


class Control:
    """What can be asked of an app's workers. They are named as their logs name them: `aiotask@host`."""

    def __init__(self, app: Application) -> None:
        """Speak over the broker of `app`; nothing is asked yet."""
        self._app = app

    if not TYPE_CHECKING:  # a visible __getattr__ would allow every name in the eyes of a type checker

        def __getattr__(self, name: str) -> Any:
            if name in _NOT_YET:
                raise AttributeError(f"app.control.{name} is not available in this version of aiotask yet.")
            raise AttributeError(f"app.control has no attribute {name!r}.")

    async def revoke(
        self,
        task_id: str | Iterable[str],
        terminate: bool = False,
        *,
        destination: Sequence[str] | None = None,
        timeout: float = 1.0,
    ) -> dict[str, Any]:
        """Let tasks not start any more, on any worker, also on one that is started later.

        The broker keeps it. Who meets a message of such a task acknowledges it, and its state is REVOKED: `get()`
        raises `TaskRevokedError`. That holds for its retries, too, and for what is sent under the id later. What runs
        goes on, unless `terminate` says otherwise.

        Args:
            task_id: Of the task, or the ids of several.
            terminate: True ends those that run, whose state is REVOKED then: a coroutine is cancelled, a process
                killed, and a thread, which can't be ended, is left to itself.
            destination: Names of the nodes to tell at once, and to wait for; None for all, an empty list for none. The
                others know it as well when they meet a message, and terminate nothing.
            timeout: Most seconds to wait for the answers of the workers.

        Returns:
            What the workers have answered, by node name.

        Raises:
            BrokerError: It may not be kept; call again.

        Cost: two round trips, and waiting for the workers; at most `timeout` where a broker can't know who listens.
        """
        ids = [checked_text("task_id", id_) for id_ in ([task_id] if isinstance(task_id, str) else task_id)]
        if isinstance(destination, str):
            raise TypeError(f"destination is {destination!r:.80}; it takes a list of node names.")
        if not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout is {timeout!r:.80}; it takes seconds as a number.")
        if not ids:
            return {}
        await self._app.connect()
        broker = self._app.broker
        if not isinstance(broker, Revoking) or not isinstance(broker, RemoteControlled):
            raise BrokerError(f"{type(broker).__name__} can't revoke: it keeps no revokes, or reaches no workers.")
        await broker.revoke(ids)
        if destination is not None and not destination:
            return {}
        # As Celery's workers understand it, which may be among them.
        arguments = {"task_id": ids, "terminate": terminate, "signal": "SIGTERM"}
        return await broker.ask("revoke", arguments, destination=destination, timeout=timeout)
