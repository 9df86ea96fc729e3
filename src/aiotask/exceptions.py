"""Every error that aiotask raises on purpose, and the semipredicates that a task raises.

Exception
├── AioTaskError
│   ├── ImproperlyConfigured
│   ├── NotRegistered (also KeyError)
│   ├── AlreadyRegistered
│   ├── ArgumentError (also TypeError)
│   ├── SerializationError
│   │   ├── EncodeError
│   │   ├── DecodeError
│   │   └── ContentDisallowed
│   ├── BrokerError
│   │   ├── BrokerConnectionError
│   │   ├── PublishError
│   │   ├── Unroutable
│   │   └── BrokerFull
│   ├── BackendError
│   │   └── BackendConnectionError
│   └── TaskError
│       ├── RemoteError
│       ├── TaskRevokedError
│       ├── MaxRetriesExceeded
│       ├── TimeLimitExceeded
│       ├── SoftTimeLimitExceeded
│       ├── WorkerLost
│       └── ChordError
├── Retry
├── Ignore
└── Reject
"""

from collections.abc import Sequence
from typing import Any


class AioTaskError(Exception):
    """Base of every error that is ours."""


class ImproperlyConfigured(AioTaskError):  # noqa: N818 - the field's name
    """A setting, option or URL is unknown, of the wrong type, or not available."""


class NotRegistered(AioTaskError, KeyError):  # noqa: N818 - the field's name
    """No task of that name is in the registry."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, quotes and all.
        return Exception.__str__(self)


class AlreadyRegistered(AioTaskError):  # noqa: N818 - the field's name
    """A second, different task asks for a name that is taken."""


class ArgumentError(AioTaskError, TypeError):
    """Arguments don't fit the task's signature; raised at the caller before anything is sent."""


class SerializationError(AioTaskError):
    """A value can't become bytes, or bytes can't become a value."""


class EncodeError(SerializationError):
    """A value can't be serialised."""


class DecodeError(SerializationError):
    """Bytes are not what their content type says."""


class ContentDisallowed(SerializationError):  # noqa: N818 - the field's name
    """The content type is not in `accept_content`."""


class BrokerError(AioTaskError):
    """The broker failed."""


class BrokerConnectionError(BrokerError):
    """The broker can't be reached, or refused us."""


class PublishError(BrokerError):
    """Some messages of a batch were not confirmed.

    Attributes:
        unsent: The task ids whose messages were not confirmed, in the order of the batch.
    """

    def __init__(self, message: str, unsent: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.unsent = tuple(unsent)


class Unroutable(BrokerError):  # noqa: N818 - says what the message is
    """A message that had to reach a queue, or a consumer, reached none."""


class BrokerFull(BrokerError):  # noqa: N818 - says what the broker is
    """The broker has no room: disk full, memory limit or alarm."""


class BackendError(AioTaskError):
    """The result backend failed."""


class BackendConnectionError(BackendError):
    """The result backend can't be reached, or refused us."""


class TaskError(AioTaskError):
    """A task's execution failed for a reason that is not the body's own exception."""


class RemoteError(TaskError):
    """A task's exception whose class the caller does not have; subclasses carry the remote's name."""


class TaskRevokedError(TaskError):
    """The task was revoked, or expired before it started."""


class MaxRetriesExceeded(TaskError):  # noqa: N818 - the field's name
    """`retry` was called once more than `max_retries` allows, without an exception of its own."""


class TimeLimitExceeded(TaskError):  # noqa: N818 - the field's name
    """The hard time limit ended the execution."""


class SoftTimeLimitExceeded(TaskError):  # noqa: N818 - the field's name
    """The soft time limit was reached; raised inside the body, which may catch it."""


class WorkerLost(TaskError):  # noqa: N818 - the field's name
    """The worker that had started the task ended, or lost its lease, before there was an outcome."""


class ChordError(TaskError):
    """A part of a chord's header failed, so its body can't run."""


class Retry(Exception):  # noqa: N818 - a semipredicate, not an error
    """Raised by `Task.retry`: the task is to run again.

    Attributes:
        exc: The exception that is the reason, or None.
        delay: Seconds from now until it runs again, or None when `eta_at` is given.
        eta_at: Epoch seconds at which it runs again, or None.
    """

    def __init__(
        self,
        message: str = "",
        exc: BaseException | None = None,
        delay: float | None = None,
        eta_at: float | None = None,
        arguments: tuple[Sequence[Any], dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.exc = exc
        self.delay = delay
        self.eta_at = eta_at
        self.arguments = arguments


class Ignore(Exception):  # noqa: N818 - a semipredicate, not an error
    """Raised by a task: acknowledge the message and record no state."""


class Reject(Exception):  # noqa: N818 - a semipredicate, not an error
    """Raised by a task: dead-letter the message, or give it back with `requeue=True`.

    Attributes:
        reason: What the dead letter and the stored FAILURE say.
        requeue: True gives the message back to its queue, to be delivered again.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(reason, requeue)
        self.reason = reason
        self.requeue = requeue

    def __str__(self) -> str:
        return "" if self.reason is None else str(self.reason)
