"""The default app: configured from the environment and pyproject alone. Made when this module is first imported."""

from typing import Any, Final

from aiotask.app import AioTask
from aiotask.request import current_request

default_app: Final = AioTask()
task: Final = default_app.task


def current_app() -> Any:
    """Return the app whose task is executing, else the default app."""
    task_object = current_request().task_object
    return default_app if task_object is None else task_object.app
