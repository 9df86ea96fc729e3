"""What a process has to know before it can run a task of this one: where the app is, what was set, how the log stands.

Functions don't travel: the process imports what this one has imported, and finds the task by its name.
"""

import logging
import os
import sys
from types import ModuleType
from typing import Any, Final

from aiotask.exceptions import EncodeError, ImproperlyConfigured
from aiotask.protocols import Application
from aiotask.settings.checked import ASSIGNED, COMMAND_LINE
from aiotask.task_logging import redirected
from aiotask.tasks import Task
from aiotask.worker.pipe import Place, Setup, pack_value

_MAIN: Final = "__main__"
_MAIN_AGAIN: Final = "__mp_main__"
"""What the script is called where it is imported a second time; multiprocessing's name, which others know, too."""
_TRIED: Final = 3
"""In how many modules an app is looked for; each costs an import."""


def place_of(task: Task) -> Place:
    """Return the module that defines a task."""
    return Place(task.__module__, _file(sys.modules.get(task.__module__)))


def places_of(app: Application, first: str) -> list[Place]:
    """Return where the app is a global: in the module `first`, else in the order in which modules were imported.

    The order matters where modules import each other. The script comes last, since it is expensive to import.

    Raises:
        ImproperlyConfigured: Nowhere, so that no other process can find it.

    Cost: a look at every module.
    """
    found = []
    for name, module in list(sys.modules.items()):
        fields = getattr(module, "__dict__", None)
        if name == _MAIN_AGAIN or not isinstance(fields, dict):
            continue
        attribute = next((key for key, value in list(fields.items()) if value is app), None)
        if attribute is not None:
            found.append(Place(name, _file(module), attribute))
    if not found:
        raise ImproperlyConfigured(
            f'offload="process": the process finds {app!r} by importing the module that it is a global of, and it is '
            'one of no module. Assign it in a module (app = AioTask(...)), or use offload="thread".'
        )
    found.sort(key=lambda place: (place.module == _MAIN, place.module != first))
    return found[:_TRIED]


def setup(app: Application, places: list[Place]) -> Setup:
    """Return what a process of `app` is told first, as things stand now."""
    return Setup(
        argv=list(sys.argv), main=_main(), apps=places, settings=_settings(app), levels=_levels(), redirect=redirected()
    )


def _settings(app: Application) -> dict[str, tuple[bytes | None, str]]:
    """Return what importing the app's module may not set there: what the command line says, and later assignments."""
    conf: Any = app.conf
    settings: dict[str, tuple[bytes | None, str]] = {}
    for name in conf.catalogue():
        origin = conf.origin(name)
        if origin in (ASSIGNED, COMMAND_LINE):
            try:
                settings[name] = pack_value(getattr(conf, name), "A setting"), origin
            except EncodeError:
                settings[name] = None, origin
    return settings


def _main() -> tuple[str, str] | None:
    """Return how the script is imported: as multiprocessing does it."""
    main = sys.modules[_MAIN]
    # What its process sends of it is found here under this name.
    sys.modules.setdefault(_MAIN_AGAIN, main)
    name = getattr(main.__spec__, "name", None)
    if name is not None:
        return "name", name
    path = _file(main)
    return None if path is None else ("path", path)


def _levels() -> dict[str, int]:
    named = {
        name: logger.level
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }
    return {"": logging.root.level, **named}


def _file(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    return os.path.abspath(file) if isinstance(file, str) else None
