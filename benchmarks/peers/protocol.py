"""What an adapter tells of its task queue: the one seam between the workloads and the queues."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from benchmarks.peers.callers import at_once, settled

NOOP = "noop"
"""Returns 1 at once."""
TAKE = "take"
"""The same, with one string as its argument."""
NAP = "nap"
"""Returns 1 after 50 ms of sleep."""


class Peer(ABC):
    """A task queue that has the tasks `noop`, `take` and `nap`, used as its documentation says."""

    distributions: ClassVar[Sequence[str]]
    """Whose versions are told."""
    changed: ClassVar[Sequence[str]]
    """Every setting of the worker or the client that is not the default one, beside the URL."""
    threads: ClassVar[bool] = False
    """Whether `send` and `result` block, so that a hundred callers are threads; else they are coroutines."""

    async def open(self) -> None:  # noqa: B027 - those with threads connect when they send
        """Connect the client, as an application does when it starts."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect it."""

    @abstractmethod
    def worker(self) -> list[str]:
        """Return the command, in the environment's `bin`, of one worker process that runs 100 tasks at once."""

    @abstractmethod
    def send(self, task: str, *args: str) -> Awaitable[Any] | Any:
        """Send one call; return what `result` takes. It returns when the broker has it."""

    @abstractmethod
    def result(self, handle: Any) -> Awaitable[int] | int:
        """Wait for the result of a call as the documentation says to, and return it."""

    @abstractmethod
    def id_of(self, handle: Any) -> str:
        """Return the task's id."""

    @abstractmethod
    def remaining(self, server: Any, sent: int) -> Awaitable[int] | int:
        """Return how many of `sent` calls have no stored outcome yet; 0 only when none is left. One cheap command.

        Where outcomes are sent to the client instead, those count that it has.
        """

    @abstractmethod
    def waiting(self, server: Any) -> int:
        """Return how many calls lie in the queue, handed out or not, by the server's own count."""

    async def call(self, task: str) -> tuple[Any, int]:
        """Send one call and wait for its result; return what `id_of` takes, and the result."""
        handle = await settled(self.send(task))
        return handle, await settled(self.result(handle))

    async def results(self, handles: Sequence[Any]) -> list[int]:
        """Return the results of calls that are done. Few at once: some open a connection for each."""
        return await at_once(self.result, list(handles), threads=self.threads, callers=8)


class Ceiling(Peer):
    """No task queue: what the driver does with bare messages. It has no results."""

    def result(self, handle: Any) -> int:
        raise NotImplementedError


class Own(Peer):
    """What aiotask alone is asked for."""

    @abstractmethod
    async def bare_send(self) -> Callable[[], Awaitable[object]]:
        """Return what adds a message of the same size to a stream of the server, with nothing but redis-py."""

    @abstractmethod
    async def send_later(self, count: int, delay_s: float) -> None:
        """Send `count` no-ops that are due in `delay_s`."""

    @abstractmethod
    def delayed(self, server: Any) -> int:
        """Return how many calls wait until they are due."""
