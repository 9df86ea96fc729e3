"""The task runtime for asyncio services. The public names, and nothing else.

They are loaded when they are first asked for, so that `aiotask --help` and a program that only reads settings don't pay
for a worker.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiotask import exceptions as exceptions
    from aiotask import states as states
    from aiotask.app import AioTask as AioTask
    from aiotask.async_result import AsyncResult as AsyncResult
    from aiotask.async_result import EagerResult as EagerResult
    from aiotask.default import current_app as current_app
    from aiotask.default import default_app as default_app
    from aiotask.default import task as task
    from aiotask.exceptions import AioTaskError as AioTaskError
    from aiotask.exceptions import AlreadyRegistered as AlreadyRegistered
    from aiotask.exceptions import ArgumentError as ArgumentError
    from aiotask.exceptions import BackendConnectionError as BackendConnectionError
    from aiotask.exceptions import BackendError as BackendError
    from aiotask.exceptions import BrokerConnectionError as BrokerConnectionError
    from aiotask.exceptions import BrokerError as BrokerError
    from aiotask.exceptions import BrokerFull as BrokerFull
    from aiotask.exceptions import ChordError as ChordError
    from aiotask.exceptions import ContentDisallowed as ContentDisallowed
    from aiotask.exceptions import DecodeError as DecodeError
    from aiotask.exceptions import EncodeError as EncodeError
    from aiotask.exceptions import Ignore as Ignore
    from aiotask.exceptions import ImproperlyConfigured as ImproperlyConfigured
    from aiotask.exceptions import MaxRetriesExceeded as MaxRetriesExceeded
    from aiotask.exceptions import NotRegistered as NotRegistered
    from aiotask.exceptions import PublishError as PublishError
    from aiotask.exceptions import Reject as Reject
    from aiotask.exceptions import RemoteError as RemoteError
    from aiotask.exceptions import Retry as Retry
    from aiotask.exceptions import SerializationError as SerializationError
    from aiotask.exceptions import SoftTimeLimitExceeded as SoftTimeLimitExceeded
    from aiotask.exceptions import TaskError as TaskError
    from aiotask.exceptions import TaskRevokedError as TaskRevokedError
    from aiotask.exceptions import TimeLimitExceeded as TimeLimitExceeded
    from aiotask.exceptions import Unroutable as Unroutable
    from aiotask.exceptions import WorkerLost as WorkerLost
    from aiotask.outcome import TaskMeta as TaskMeta
    from aiotask.request import Request as Request
    from aiotask.request import current_request as current_request
    from aiotask.routing import Queue as Queue
    from aiotask.task_logging import get_task_logger as get_task_logger
    from aiotask.task_logging import redirect_stdouts as redirect_stdouts
    from aiotask.tasks import Task as Task
    from aiotask.tasks import current_task as current_task
    from aiotask.wire.compression import register_compression as register_compression
    from aiotask.wire.serialization import register_serializer as register_serializer
    from aiotask.worker.worker import Worker as Worker

_ERRORS = (
    "AioTaskError",
    "AlreadyRegistered",
    "ArgumentError",
    "BackendConnectionError",
    "BackendError",
    "BrokerConnectionError",
    "BrokerError",
    "BrokerFull",
    "ChordError",
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "Ignore",
    "ImproperlyConfigured",
    "MaxRetriesExceeded",
    "NotRegistered",
    "PublishError",
    "Reject",
    "RemoteError",
    "Retry",
    "SerializationError",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "Unroutable",
    "WorkerLost",
)

_HOMES = dict.fromkeys(_ERRORS, "aiotask.exceptions") | {
    "AioTask": "aiotask.app",
    "current_app": "aiotask.default",
    "default_app": "aiotask.default",
    "task": "aiotask.default",
    "AsyncResult": "aiotask.async_result",
    "TaskMeta": "aiotask.outcome",
    "Queue": "aiotask.routing",
    "Request": "aiotask.request",
    "current_request": "aiotask.request",
    "Task": "aiotask.tasks",
    "current_task": "aiotask.tasks",
    "Worker": "aiotask.worker.worker",
    "EagerResult": "aiotask.async_result",
    "get_task_logger": "aiotask.task_logging",
    "redirect_stdouts": "aiotask.task_logging",
    "register_compression": "aiotask.wire.compression",
    "register_serializer": "aiotask.wire.serialization",
}

_NOT_YET = (
    *("AbortableTask", "EagerResult", "ErrorMail", "GroupResult", "Signature", "chain", "chord", "chunks", "crontab"),
    *("get_task_logger", "group", "redirect_stdouts", "signature"),
    *("subtask", "xmap", "xstarmap"),
)

__version__ = "0.1.0"
__all__ = ["exceptions", "states", *_HOMES]  # noqa: PLE0604 - the names are texts; the table is the one list of them


def __getattr__(name: str) -> Any:
    import importlib  # noqa: PLC0415 - only for a name that is not loaded yet

    if name in ("exceptions", "states"):
        return importlib.import_module(f"aiotask.{name}")
    home = _HOMES.get(name)
    if home is None and name in _NOT_YET:
        raise AttributeError(f"aiotask.{name} is not available in this version yet.")
    if home is None:
        raise AttributeError(f"module 'aiotask' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
