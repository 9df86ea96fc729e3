"""Judges an app's tasks and settings before a worker runs them. Pure; called by `aiotask check`."""

import inspect
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal

import msgspec

from aiotask.annotations import unused
from aiotask.app import AioTask
from aiotask.exceptions import Unroutable
from aiotask.protocols import HeaderCarrier
from aiotask.routing import Router, Rules, address
from aiotask.settings import Settings
from aiotask.suggestions import did_you_mean
from aiotask.tasks import Task

_SHOWN_NAMES: Final = 20
_BODIES: Final = {
    "thread": "in threads",
    "process": "in other processes",
    "loop": "on the event loop, which stands still meanwhile",
}
"""Where plain functions run, by `TaskFacts.body`."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at: `ok`, a `warning` about what is rarely meant, or an `error`: it can't work."""

    level: Literal["ok", "warning", "error"]
    what: str


class TaskFacts(msgspec.Struct, frozen=True):
    """What a check tells of one task."""

    name: str
    body: Literal["async", "thread", "process", "loop"]
    """An `async def`; or a plain function, which runs in a thread, in another process, or on the event loop itself."""
    queues: tuple[str, ...]
    """Where a call goes that says nothing else; none when a function in `task_routes` decides, or nothing is sent."""
    unroutable: str | None
    """Why it does not go where it is told to."""
    unchecked: dict[str, str]
    """Why annotated parameters are not checked, by their names."""
    unreadable: str | None
    """Why its signature can't be read, so that every call of it fails."""


def facts(task: Task) -> TaskFacts:
    """Look at a task; its annotations are evaluated."""
    unchecked: dict[str, str] = {}
    unreadable = None
    try:
        unchecked = task.arguments.unchecked()
    except Exception as error:  # noqa: BLE001 - an annotation is the user's code, and may raise anything
        unreadable = f"{type(error).__name__}: {error}"
    body: Any = "async" if task.is_async else task.offload
    return TaskFacts(task.name, body, *_where(task), unchecked, unreadable)


def _where(task: Task) -> tuple[tuple[str, ...], str | None]:
    """Return the queues of a task whose call says nothing, and why they are not those that it is told to go to."""
    router, own = task.app.conf.router, vars(task)
    route = router.known_route(task.name)
    if route is None and address(own)[:2] == (None, None):
        return (), None
    to = address(own, route or {})
    try:
        found = router.resolve(to)
        if found.queues:
            return found.queues, None
        instead = () if {**(route or {}), **own}.get("mandatory") else router.fallback(to).queues
    except Unroutable as error:
        return (), str(error)
    return instead, router.why_unbound(found)


def of_settings(app: AioTask) -> Iterator[Finding]:
    """Say which settings don't go together, and with which a worker of its own is of no use."""
    conf = app.conf
    if app.broker_url.startswith("memory:"):
        yield Finding(
            "warning",
            f"the broker {app.broker_url} (origin: {conf.origin('broker_url')}) lives in one process alone: "
            "`aiotask run` refuses it, and an embedded worker sees only what its own process sends",
        )
    elif app.backend_url.startswith("memory:"):
        yield Finding(
            "warning",
            f"the result backend {app.backend_url} (origin: {conf.origin('result_backend')}) lives in one process "
            "alone: no caller sees a worker's results",
        )
    if conf.task_always_eager:
        yield Finding(
            "warning",
            f"task_always_eager is on (origin: {conf.origin('task_always_eager')}): tasks run where they are called, "
            "and nothing is sent",
        )
    if conf.task_protocol == 2 and not isinstance(app.broker, HeaderCarrier):
        yield Finding(
            "error",
            f"task_protocol is 2 (origin: {conf.origin('task_protocol')}): Celery's messages have headers, which this "
            "broker does not carry, so every call fails; use amqp://, or task_protocol 'aiotask'",
        )


def of_tasks(app: AioTask, found: Sequence[TaskFacts]) -> Iterator[Finding]:
    """Say which tasks there are, and what about them won't work or is rarely meant; `found` are the facts of each."""
    if not found:
        yield Finding(
            "warning",
            "there are no tasks: every message would become a dead letter; name the modules that define some in the "
            "setting 'imports', or import them in TARGET",
        )
        return
    yield Finding("ok", f"{_counted('task', found)}: {_listed(task.name for task in found)}")
    for body, where in _BODIES.items():
        plain = [task for task in found if task.body == body]
        if plain:
            names = _listed(task.name for task in plain)
            yield Finding("ok", f"{_counted('plain function', plain)}, run {where}: {names}")
    yield from _of_routes(app.conf, found)
    for name in unused(app.conf.task_annotations, app.tasks):
        hint = did_you_mean(name, app.tasks)
        yield Finding("warning", f"task_annotations lays options over {name!r}, and no task here is called so.{hint}")
    for task in found:
        yield from _of_signature(task)
    yield from _of_functions(app.tasks.values())


def _of_routes(conf: Settings, found: Sequence[TaskFacts]) -> Iterator[Finding]:
    """Say which queues tasks go to, and what about their routes won't work or is rarely meant."""
    router = conf.router
    gets: dict[str, list[str]] = {queue: [] for queue in router.consumed}
    for task in found:
        for queue in task.queues:
            gets.setdefault(queue, []).append(task.name)
    if len(gets) > 1:
        taken = ", ".join(router.consumed)
        only = "" if len(gets) == len(router.consumed) else " only"
        yield Finding("ok", f"tasks go to the queues {', '.join(gets)}; a worker without -Q takes from {taken}{only}")
        for queue, names in gets.items():
            yield Finding("ok", f"the queue {queue} gets {_listed(names) or 'no task of this app'}")
    decided = [task for task in found if not task.queues and task.unroutable is None]
    if decided:
        yield Finding("ok", f"a function in task_routes decides at each call: {_listed(task.name for task in decided)}")
    for task in found:
        if task.unroutable is not None and task.queues:
            instead = ", ".join(task.queues)
            yield Finding("warning", f"{task.name} goes to {instead}, since it would reach no queue: {task.unroutable}")
        elif task.unroutable is not None:
            yield Finding("error", f"{task.name} can't be sent: {task.unroutable}")
    for queue in gets if conf.task_queues else ():
        if queue not in router.declared:
            yield Finding(
                "warning", f"the queue {queue} is not in task_queues: no worker takes from it but with -Q {queue}"
            )
    yield from _of_rules(router, [task.name for task in found])


def _of_rules(router: Router, tasks: Sequence[str]) -> Iterator[Finding]:
    for rules in router.routers:
        if isinstance(rules, Rules):
            for text in rules.unused(tasks):
                yield Finding(
                    "warning",
                    f"task_routes routes {text!r}, and no task here is called so: right only for tasks of other "
                    f"programs that this one sends by name.{did_you_mean(text, tasks)}",
                )


def astray(names: Iterable[str]) -> Iterator[Finding]:
    """Warn about tasks of the default app, when it is not the one that is checked."""
    listed = _listed(sorted(names))
    if listed:
        yield Finding(
            "warning",
            f"defined with `from aiotask import task`, and so not tasks of this app but of the default one: {listed}",
        )


def _of_signature(task: TaskFacts) -> Iterator[Finding]:
    if task.unreadable is not None:
        yield Finding("error", f"{task.name}: its signature can't be read, so every call fails ({task.unreadable})")
    for parameter, why in task.unchecked.items():
        yield Finding("warning", f"{task.name}: argument `{parameter}` is neither checked nor converted: {why}")


def _of_functions(tasks: Iterable[Task]) -> Iterator[Finding]:
    """Warn about functions that are several tasks, and about modules that were imported under two names."""
    functions: dict[int, list[Task]] = {}
    places: dict[tuple[str, int], list[Task]] = {}
    for task in tasks:
        function: Any = vars(task).get("__wrapped__")  # classes may share an inherited body, and mean to
        if function is None:
            continue
        functions.setdefault(id(function), []).append(task)
        code = getattr(inspect.unwrap(function), "__code__", None)
        if code is not None:
            places.setdefault((os.path.realpath(code.co_filename), code.co_firstlineno), []).append(task)
    for same in functions.values():
        if len(same) > 1:
            yield Finding("warning", f"the same function is several tasks: {_listed(task.name for task in same)}")
    twice: dict[tuple[str, ...], list[str]] = {}
    for (file, _), same in places.items():
        modules = sorted({task.__module__ for task in same})
        if len(modules) > 1:
            twice.setdefault((file, *modules), []).extend(task.name for task in same)
    for (file, *modules), names in twice.items():
        yield Finding(
            "warning", f"{file} is imported under several names, {', '.join(modules)}; so there are {_listed(names)}"
        )


def _counted(noun: str, found: Sequence[TaskFacts]) -> str:
    return f"{len(found)} {noun}{'s' * (len(found) > 1)}"


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    more = len(every) - _SHOWN_NAMES
    return ", ".join(every[:_SHOWN_NAMES]) + f" and {more} more" * (more > 0)
