"""What the app hands to a worker: values and abilities, never itself."""

import os
import socket
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from aiotask.message import new_id
from aiotask.protocols import Application, Broker


class WorkerApplication(Application, Protocol):
    """The app, as a worker sees it."""

    @property
    def middleware(self) -> Sequence[Any]:
        """The app's middleware, the outermost first."""

    @property
    def broker(self) -> Broker:
        """The live broker."""

    def import_tasks(self) -> None:
        """Import the modules that define tasks."""


@dataclass(frozen=True)
class Runtime:
    """One worker's settings, as the app or the command line gave them. Durations are seconds."""

    app: WorkerApplication
    lifespan: AbstractAsyncContextManager[Any]
    """Opens the app's connections and closes them."""
    concurrency: int
    queues: tuple[str, ...]
    name: str
    threads: int
    shutdown_timeout: float
    max_tasks: int | None = None
    burst: bool = False

    @property
    def hostname(self) -> str:
        """The node name: `name@host`."""
        return self.name if "@" in self.name else f"{self.name}@{socket.gethostname()}"

    def new_consumer(self) -> str:
        """Return a consumer name that no other start of any worker has."""
        return f"{self.hostname}-{os.getpid()}-{new_id()[:8]}"
