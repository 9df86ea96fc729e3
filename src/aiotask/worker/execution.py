"""One execution, from the moment a message is taken until its outcome is handed to the settler."""

from typing import Any

from aiotask.exceptions import WorkerLost
from aiotask.message import Delivery, TaskMessage
from aiotask.request import Request
from aiotask.tasks import Task


class Execution:
    """A delivery, decoded, with its task. Hashed by identity.

    Attributes:
        message: None when the body can't be read.
        task: None when nothing is registered under its name.
        started_mono: Monotonic seconds at which the body started.
        args: Decoded, not yet converted to the annotated types.
        kwargs: As `args`.
        handing_back: True once the worker wants it ended, to be run by another.
        terminated: True once somebody wants it ended for good.
        place: Under which name it holds one of the places of a limited task, or None.
        finished: True once it has an outcome; whatever comes later is dropped.
        waits: For how many other tasks it waits just now; its slot is lent while it does.
        raised: What its body has raised in another process, and the traceback there as text.
        lost: What it ends with because that process was lost.
    """

    __slots__ = (
        "acks_late",
        "args",
        "delivery",
        "finished",
        "handing_back",
        "kwargs",
        "lost",
        "message",
        "place",
        "raised",
        "request",
        "started_mono",
        "task",
        "terminated",
        "waits",
    )

    def __init__(self, delivery: Delivery, message: TaskMessage | None = None, task: Task | None = None) -> None:
        self.delivery = delivery
        self.message = message
        self.task = task
        self.acks_late: bool = task is not None and task.acks_late
        self.request: Request | None = None
        self.started_mono = 0.0
        self.finished = False
        self.handing_back = False
        self.terminated = False
        self.waits = 0
        self.place = delivery.line  # what comes out of a waiting line was asked for with a place kept for it
        self.raised: tuple[BaseException, str | None] | None = None
        self.lost: WorkerLost | None = None
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The task's name as the message gives it."""
        return self.message.task if self.message is not None else "?"

    @property
    def shadow(self) -> str:
        """What logs call it: what the caller wants, else the task's name."""
        return self.name if self.message is None else self.message.shadow or self.name

    def __repr__(self) -> str:
        return f"<Execution: {self.shadow}[{self.delivery.id}]>"
