"""Finds a worker's app and its tasks in another process, by importing what the worker has imported.

Called by `worker.child`. Functions don't travel; what they need to be found is made by `worker.preparation`.
"""

import importlib
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from aiotask.exceptions import EncodeError
from aiotask.tasks import Task
from aiotask.worker import inside
from aiotask.worker.pipe import Call, Place, Setup, unpack_value

_MAIN: Final = "__main__"


class UnreadyError(Exception):
    """This process can't run the task that it is asked to."""


class Finder:
    """Imports at the first use, and remembers."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._app: Any = None
        self._main: ModuleType | None = None

    def find(self, call: Call) -> Task:
        """Return the task that is called, imported as the worker has imported it.

        Raises:
            UnreadyError: It is not there.
        """
        if self._app is None:
            self._app = self._import_app()
        name, module = call.message.task, call.module
        task = self._app.tasks.get(name)
        if task is None:
            self._import(module)
            task = self._app.tasks.get(name)
        if task is None:
            raise UnreadyError(
                f"The process has imported {module.module!r}, and there is no task {name!r} there: it has to be "
                'defined when that module is imported, not later by a function, nor under if __name__ == "__main__".'
            )
        return task  # type: ignore[no-any-return]

    def _import_app(self) -> Any:
        failure: UnreadyError | None = None
        for place in self._setup.apps:
            try:
                app = vars(self._import(place)).get(place.attribute)
            except UnreadyError as error:
                failure = failure or error
                continue
            if app is not None:
                self._make_ready(app)
                return app
        if failure is not None:
            raise failure
        places = ", ".join(f"{place.module}.{place.attribute}" for place in self._setup.apps)
        raise UnreadyError(
            f"The process finds no app: importing its module does not make one ({places}). Make it where the module is "
            'imported, not later by a function, nor under if __name__ == "__main__".'
        )

    def _make_ready(self, app: Any) -> None:
        try:
            app.conf.apply(_set_later(app, self._setup))
            app.import_tasks()
        except BaseException as error:
            raise UnreadyError(f"The process can't get its app ready: {type(error).__name__}: {error}") from error
        for name, level in self._setup.levels.items():
            logging.getLogger(name).setLevel(level)

    def _import(self, place: Place) -> ModuleType:
        try:
            if place.module == _MAIN:
                return self._import_main()
            return _imported(place)
        except BaseException as error:  # SystemExit, too: a script without a guard may end itself
            raise UnreadyError(
                f"The process can't import {place.module!r}, as the worker has: {type(error).__name__}: {error}"
            ) from error

    def _import_main(self) -> ModuleType:
        """Import the worker's script under another name than `__main__`, so that what it guards does not run."""
        if self._main is None:
            if self._setup.main is None:
                raise ImportError("it is no file, but typed in; define the task in a module")
            from multiprocessing import spawn  # noqa: PLC0415 - few need it

            how, where = self._setup.main
            inside.importing_main(True)
            try:
                spawn.prepare({f"init_main_from_{how}": where})
            finally:
                inside.importing_main(False)
            self._main = sys.modules[_MAIN]
        return self._main


def _set_later(app: Any, setup: Setup) -> dict[str, tuple[Any, str]]:
    """Return the settings that were set after the app was made.

    Raises:
        EncodeError: One can't be read here, or could not be sent, and was not set here either.
    """
    settings = {}
    for name, (value, origin) in setup.settings.items():
        if value is not None:
            settings[name] = unpack_value(value, "A setting"), origin
        elif app.conf.origin(name) != origin:
            raise EncodeError(
                f"the setting {name!r} was {origin} after the import, and its value can't be pickled; "
                "set it in the module that makes the app"
            )
    return settings


def _imported(place: Place) -> ModuleType:
    try:
        return importlib.import_module(place.module)
    except ModuleNotFoundError as error:
        root = _root_of(place)
        if root is None or error.name is None or not f"{place.module}.".startswith(f"{error.name}."):
            raise
        # The worker has it under a name to which no path leads, as pytest does it.
        sys.path.append(root)
        return importlib.import_module(place.module)


def _root_of(place: Place) -> str | None:
    """Return the folder in which the module's name leads to its file, None when there can't be one."""
    if place.file is None:
        return None
    file = Path(place.file)
    named = file.parent if file.stem == "__init__" else file.with_suffix("")
    parts = place.module.split(".")
    return str(named.parents[len(parts) - 1]) if list(named.parts[-len(parts) :]) == parts else None
