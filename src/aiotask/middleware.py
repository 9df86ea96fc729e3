"""What may stand around every send and every execution. Folded once at start-up; with none, nothing is called."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

from aiotask.exceptions import ImproperlyConfigured
from aiotask.message import TaskMessage
from aiotask.request import Request

Subject = TypeVar("Subject")
Next = Callable[[Subject], Awaitable[Any]]
Around = Callable[[Subject, Next[Subject]], Awaitable[Any]]

HOOKS = ("lifespan", "publish", "execute")


class Middleware(Protocol):
    """The three hooks; an object given as `AioTask(middleware=[...])` has any of them."""

    def lifespan(self, app: Any) -> AbstractAsyncContextManager[Any]:
        """Return what is entered when the app opens and left when it closes."""

    async def publish(self, message: TaskMessage, call_next: Next[TaskMessage]) -> None:
        """Stand around the sending of a message, which may be changed before `await call_next(message)`.

        A retry is not a new call and does not pass here.
        """

    async def execute(self, request: Request, call_next: Next[Request]) -> Any:
        """Stand around an execution in the worker; return what `await call_next(request)` returns, or raise."""


def check(middleware: Sequence[Any]) -> tuple[Any, ...]:
    """Return the objects as they are.

    Raises:
        ImproperlyConfigured: One has none of the hooks, so it would do nothing.
    """
    for item in middleware:
        if isinstance(item, type) or not any(callable(getattr(item, hook, None)) for hook in HOOKS):
            raise ImproperlyConfigured(
                f"middleware takes objects with any of {', '.join(HOOKS)}; {item!r} is none. Give an instance of it."
                if isinstance(item, type)
                else f"middleware takes objects with any of {', '.join(HOOKS)}; {item!r} has none of them."
            )
    return tuple(middleware)


def hooks(middleware: Sequence[Any], name: str) -> list[Any]:
    """Return the hooks of that name, the outermost first."""
    return [hook for item in middleware if (hook := getattr(item, name, None)) is not None]


def fold(around: Sequence[Around[Subject]], innermost: Next[Subject]) -> Next[Subject]:
    """Return one callable that goes through `around`, the first outermost, to `innermost`."""
    chain = innermost
    for hook in reversed(around):
        chain = partial(_through, hook, chain)
    return chain


def _through(hook: Around[Subject], call_next: Next[Subject], subject: Subject) -> Awaitable[Any]:
    return hook(subject, call_next)
