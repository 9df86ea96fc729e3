"""Finds the app that TARGET names: `module`, or `module:attribute`. Called by every command that takes one."""

import functools
import importlib
import os
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import click

from aiotask.app import AioTask
from aiotask.cli.errors import TARGET, CommandError
from aiotask.exceptions import ImproperlyConfigured
from aiotask.suggestions import did_you_mean

_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep


def load_target(target: str, app_dir: str) -> AioTask:
    """Import the module that `target` names, and return its app.

    Args:
        target: `module:attribute`; or `module` alone, which means its `app`, else its only `AioTask`, else the default
            app, with which the module has to define a task.
        app_dir: The folder that is put in front of `sys.path`.

    Raises:
        CommandError: It can't be imported, or holds no app. One line says why.
        ImproperlyConfigured: The module makes an app with settings that don't fit.
        click.UsageError: `target` is no such name.
    """
    name, colon, attribute = target.partition(":")
    if not name or name.startswith(".") or (colon and not attribute):
        raise click.UsageError(f"{target!r} is no TARGET: write MODULE or MODULE:ATTRIBUTE, as in proj.tasks:app.")
    folder = _put_in_front(app_dir)
    module = _import(name, f"can't import {name!r}", folder)
    return _attribute(module, attribute) if attribute else _only_app(module)


def import_tasks(app: AioTask) -> None:
    """Import the modules in the setting `imports`, as the worker will, to say better what goes wrong.

    Raises:
        CommandError: One can't be imported.
        ImproperlyConfigured: One makes an app, or a task, with settings that don't fit.
    """
    for name in app.conf.imports:
        what = f"can't import {name!r}, which the setting 'imports' names (origin: {app.conf.origin('imports')})"
        _import(name, what, sys.path[0])


def default_app(app_dir: str | None = None) -> AioTask:
    """Return the app that is configured from the environment and pyproject.toml alone.

    Args:
        app_dir: The folder that is put in front of `sys.path`, for the modules in the setting `imports`.

    Raises:
        ImproperlyConfigured: They don't fit.
    """
    from aiotask.default import default_app as app  # noqa: PLC0415 - made by its import, which may raise

    if app_dir is not None:
        _put_in_front(app_dir)
    return app


# The module


def _put_in_front(app_dir: str) -> str:
    folder = os.path.abspath(app_dir)
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    return folder


def _import(name: str, what: str, folder: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            raise CommandError(f"{what}: {_missing(name, error.name, folder)}", TARGET) from error
        raise CommandError(f"{what}: {_raised(error)}", TARGET) from error
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{error}{_place(error)}") from error
    except BaseException as error:  # SystemExit, too: a module that exits can't be imported
        raise CommandError(f"{what}: {_raised(error)}", TARGET) from error


def _missing(name: str, missing: str, folder: str) -> str:
    """Say that there is no module `missing`, which is `name` or a package above it, and what was likely meant."""
    if "/" in name or name.endswith(".py"):
        likely = os.path.relpath(name).removesuffix(".py").replace("/", ".").strip(".")
        return f"it names a file, not a module. Did you mean {likely!r}?"
    parent, _, wanted = missing.rpartition(".")
    rest = name.removeprefix(missing)
    siblings = _modules(parent, folder)
    hint = did_you_mean(f"{missing}{rest}", [f"{parent}.{name}{rest}".lstrip(".") for name in siblings])
    where = f"package {parent!r}" if parent in sys.modules else f"{folder} (--app-dir names another folder)"
    return f"there is no module {wanted!r} in {where}.{hint}"


def _modules(package: str, folder: str) -> Iterable[str]:
    path = getattr(sys.modules.get(package), "__path__", ()) if package else [folder]
    return sorted({module.name for module in pkgutil.iter_modules(path)})


def _raised(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"it raised {type(error).__name__}{f': {text}' if text else ''}{_place(error)}"


def _place(error: BaseException) -> str:
    """Return ` (FILE, line N: SOURCE)` of what the user has to look at, or nothing."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno}: {(error.text or '').strip()})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen importlib"))
    ]
    frames = [frame for frame in frames if not frame.filename.startswith(_libraries())] or frames
    if not frames or frames[-1].filename == importlib.__file__:
        return ""
    return f" ({frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line})"


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Return the folders of the standard library and of what is installed: an error that comes up in there."""
    paths = sysconfig.get_paths()
    return tuple(paths[name] + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


# The app in it


def _only_app(module: ModuleType) -> AioTask:
    conventional = getattr(module, "app", None)
    if isinstance(conventional, AioTask):
        return conventional
    apps = _apps(module)
    if len({id(app) for app in apps.values()}) > 1:
        raise CommandError(
            f"{module.__name__!r} has several apps: {', '.join(apps)}. Say which: {module.__name__}:{next(iter(apps))}",
            TARGET,
        )
    if apps:
        return next(iter(apps.values()))
    app = default_app()
    if not app.tasks and not app.conf.imports:
        raise CommandError(
            f"{module.__name__!r} has no AioTask and defines no task with `from aiotask import task`.{_inside(module)}",
            TARGET,
        )
    return app


def _attribute(module: ModuleType, attribute: str) -> AioTask:
    found: Any = module
    apps = _apps(module)
    listed = f" Its apps are: {', '.join(apps)}." if apps else ""
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            hint = did_you_mean(attribute, apps) or listed
            raise CommandError(f"{module.__name__!r} has no attribute {attribute!r}.{hint}", TARGET) from None
    if isinstance(found, AioTask):
        return found
    kind = type(found).__name__
    raise CommandError(f"{module.__name__}:{attribute} has to be an AioTask, and is of type {kind}.{listed}", TARGET)


def _apps(module: ModuleType) -> dict[str, AioTask]:
    return {name: value for name, value in vars(module).items() if isinstance(value, AioTask)}


def _inside(module: ModuleType) -> str:
    names = ", ".join(
        f"{module.__name__}.{found.name}" for found in pkgutil.iter_modules(getattr(module, "__path__", ()))
    )
    return f" The package holds {names}: name the one with the tasks." if names else ""
