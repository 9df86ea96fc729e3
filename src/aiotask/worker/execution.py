"""One execution, from the moment a message is taken until its outcome is handed to the settler."""

from typing import Any

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
        finished: True once it has an outcome; whatever comes later is dropped.
        waits: For how many other tasks it waits just now; its slot is lent while it does.
    """

    __slots__ = (
        "acks_late",
        "args",
        "delivery",
        "finished",
        "handing_back",
        "kwargs",
        "message",
        "request",
        "started_mono",
        "task",
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
        self.waits = 0
        self.args: list[Any] = []
        self.kwargs: dict[str, Any] = {}

    @property
    def name(self) -> str:
        """The task's name as the message gives it."""
        return self.message.task if self.message is not None else "?"

    @property
    def is_suspect(self) -> bool:
        """True when workers were lost twice after starting it, so that it may be what ended them.

        Once is no ground for suspicion: everything that ran beside a culprit was lost with it.
        """
        return self.delivery.losses >= 2

    def __repr__(self) -> str:
        return f"<Execution: {self.name}[{self.delivery.id}]>"
