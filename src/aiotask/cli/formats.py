"""Judges in which formats an app's arguments and results are to travel. Pure; called by `aiotask check`."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from aiotask.app import AioTask
from aiotask.cli.findings import Finding
from aiotask.exceptions import ImproperlyConfigured
from aiotask.settings import Settings
from aiotask.tasks import Task
from aiotask.wire.compression import compress
from aiotask.wire.serialization import find_serializer


def of_formats(app: AioTask) -> Iterator[Finding]:
    """Say which serializers and compressions can't be used, and which nobody with these settings would read."""
    conf = app.conf
    accept = conf.accept_content
    results = ("accept_content", accept)
    if conf.result_accept_content is not None:
        results = ("result_accept_content", conf.result_accept_content)
    yield from _of_accepted("accept_content", accept)
    yield from _of_accepted("result_accept_content", conf.result_accept_content or ())
    for setting, (accepting, names) in {
        "task_serializer": ("accept_content", accept),
        "result_serializer": results,
    }.items():
        yield from _of_serializer(f"the setting {setting}", getattr(conf, setting), accepting, names)
    for setting in ("task_compression", "result_compression"):
        yield from _of_compression(f"the setting {setting}", getattr(conf, setting))
    for task in app.tasks.values():
        yield from _of_task(task, conf)


def _of_task(task: Task, conf: Settings) -> Iterator[Finding]:
    # What follows a setting is told of the setting, once.
    if task.serializer != conf.task_serializer:
        yield from _of_serializer(task.name, task.serializer, "accept_content", conf.accept_content)
    if task.compression != conf.task_compression:
        yield from _of_compression(task.name, task.compression)
    own = task.own_backend
    if isinstance(own, str) and own.startswith("memory:"):
        yield Finding(
            "warning",
            f"{task.name}: its result backend {own} lives in one process alone: no caller sees a worker's results",
        )


def _of_accepted(setting: str, names: Iterable[str]) -> Iterator[Finding]:
    for name in names:
        why = _why_not(find_serializer, name)
        if why is not None:
            yield Finding("warning", f"the setting {setting} accepts {name!r}, of which nothing can be read: {why}")


def _of_serializer(what: str, name: str, setting: str, accept: Iterable[str]) -> Iterator[Finding]:
    why = _why_not(find_serializer, name)
    if why is not None:
        yield Finding("error", f"{what}: {why}")
        return
    found = find_serializer(name)
    if not {found.name, found.content_type} & set(accept):
        listed = ", ".join(accept) or "nothing"
        yield Finding(
            "error",
            f"{what}: what is sent as {found.name} is refused where it arrives, as long as {setting} allows {listed} "
            f"there as it does here; add {found.name!r} if all who can write to the server are trusted",
        )


def _of_compression(what: str, name: str | None) -> Iterator[Finding]:
    if name is None:
        return
    why = _why_not(partial(compress, b""), name)
    if why is not None:
        yield Finding("error", f"{what}: {why}")


def _why_not(use: Callable[[str], object], name: str) -> str | None:
    try:
        use(name)
    except ImproperlyConfigured as error:
        return str(error)
    return None
