"""The tasks of an app by name. A message can ask for these and for nothing else."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from aiotask.annotations import laid_over
from aiotask.exceptions import AlreadyRegistered, ImproperlyConfigured, NotRegistered
from aiotask.protocols import Application
from aiotask.suggestions import did_you_mean
from aiotask.tasks import Task


class Definition(NamedTuple):
    """What a task was made of: the decorator's options, and what its arguments are checked against."""

    task: Task
    options: Mapping[str, Any]
    function: Callable[..., Any]

    def attach(self, app: Application, name: str, annotations: Any, former: Any = None) -> None:
        """Make the task what it says, with the options of `annotations` over its own, instead of those of `former`.

        Raises:
            ImproperlyConfigured: An option is unknown, misspelt, or its value doesn't fit.
        """
        for option in laid_over(former, name).keys() - self.options.keys():
            vars(self.task).pop(option, None)
        self.task.attach(app, name, {**self.options, **laid_over(annotations, name)}, self.function)


class Registry(Mapping[str, Task]):
    """Task name -> task."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._definitions: dict[str, Definition] = {}

    def __repr__(self) -> str:
        return f"<Registry: {', '.join(self._tasks) or 'no tasks'}>"

    def __getitem__(self, name: str) -> Task:
        task = self._tasks.get(name)
        if task is None:
            raise NotRegistered(f"No task {name!r} is registered.{did_you_mean(name, self._tasks)}")
        return task

    def get(self, name: str, default: Task | None = None) -> Task | None:  # type: ignore[override]
        """Return the task or the default; without the search for a near name that a refusal makes."""
        return self._tasks.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, name: object) -> bool:
        return name in self._tasks

    def annotate(self, app: Application, before: Any, after: Any) -> None:
        """Lay other annotations than before over the tasks.

        Raises:
            ImproperlyConfigured: They don't fit a task; all are as they were.
        """
        if before == after:
            return
        try:
            for name, definition in self._definitions.items():
                definition.attach(app, name, after, before)
        except ImproperlyConfigured:
            for name, definition in self._definitions.items():
                definition.attach(app, name, before, after)
            raise

    def add(self, task: Task, definition: Definition | None = None) -> None:
        """Register a task; the same one again (a module imported anew) takes its former place.

        Args:
            task: It knows its name.
            definition: What it was made of; without one `annotate` passes it over.

        Raises:
            AlreadyRegistered: A different task has the name.
        """
        known = self._tasks.get(task.name)
        if known is not None and known is not task and _identity(known) != _identity(task):
            raise AlreadyRegistered(
                f"Two tasks are called {task.name!r}: {_place(known)} and {_place(task)}. Give one another name=."
            )
        self._tasks[task.name] = task
        if definition is not None:
            self._definitions[task.name] = definition


def _identity(task: Task) -> tuple[object, ...]:
    """What stays the same when a module is imported again: where the code stands, not the objects made of it."""
    function = getattr(task, "__wrapped__", None)
    named: object = type(task) if function is None else function  # several classes may share one inherited body
    code = getattr(function or type(task).run, "__code__", None)
    return (
        getattr(named, "__module__", None),
        getattr(named, "__qualname__", None),
        getattr(code, "co_filename", None),
        getattr(code, "co_firstlineno", None),
    )


def _place(task: Task) -> str:
    module, qualname, filename, line = _identity(task)
    return f"{module}.{qualname} ({filename}:{line})"
