"""Gathers settings from the command line, the app, the environment and pyproject.toml. Called where an app is made."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from aiotask.exceptions import ImproperlyConfigured
from aiotask.project import find_pyproject
from aiotask.settings.catalogue import Settings
from aiotask.settings.checked import ARGUMENT, COMMAND_LINE

PREFIX: Final = "AIOTASK_"
"""What a setting's upper-case name follows in the environment."""

_TOOL_TABLE: Final = rb"""tool["']?\s*(?:\.\s*["']?aiotask|\]|=)"""
"""What a file with a [tool.aiotask] holds in any spelling: `[tool.aiotask]`, `[tool]`, `tool = {...}`."""

_KUBERNETES: Final = r"\w+_SERVICE_(?:HOST|PORT)(?:_\w+)?|\w+_PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?"


def load_settings(
    overrides: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    start: Path | None = None,
) -> Settings:
    """Return the settings, each from the first source that has it, in the order of the arguments; then the default.

    Args:
        overrides: What the command line says; only what was given there.
        arguments: What the app was made with; only what was given, since None is a value, too.
        environ: The environment; None is this process's. An empty variable is no value.
        start: The folder from which pyproject.toml is looked for, upwards; None is the current one.

    Raises:
        ImproperlyConfigured: A source has an unknown setting, or a value that counts does not fit; or pyproject.toml
            can't be read.

    Cost: looks for pyproject.toml in each folder up to the root, reads the first; parses it only when it has a
    [tool.aiotask].
    """
    found: dict[str, tuple[Any, str]] = {}
    path = find_pyproject(start)
    if path:
        origin = f"[tool.aiotask] in {path}"
        found.update(_known(_read_table(path), origin))
    found.update(_from_environment(os.environ if environ is None else environ))
    found.update(_known(arguments or {}, ARGUMENT))
    found.update(_known(overrides or {}, COMMAND_LINE))
    settings = Settings()
    settings.apply(found)
    return settings


def _known(values: Mapping[str, Any], origin: str) -> dict[str, tuple[Any, str]]:
    for name, value in values.items():
        Settings.declaration(name, value, origin)
    return {name: (value, origin) for name, value in values.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    found: dict[str, tuple[Any, str]] = {}
    for variable, raw in environ.items():
        text = raw.strip()
        if not variable.startswith(PREFIX) or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if _is_kubernetes(variable, text):
            continue
        origin = f"environment {variable}"
        found[name] = (Settings.declaration(name, text, origin).kind.parse(text), origin)
    return found


def _is_kubernetes(variable: str, text: str) -> bool:
    """Tell whether Kubernetes set the variable, as it does in every container beside a service named aiotask*.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    address = variable.endswith("_PORT") and re.match("(tcp|udp|sctp)://", text)
    return bool(address or re.fullmatch(_KUBERNETES, variable))


def _read_table(path: Path) -> Mapping[str, Any]:
    try:
        raw = path.read_bytes()
        if not re.search(_TOOL_TABLE, raw):
            return {}
        import tomllib  # noqa: PLC0415 - 2 ms that a program without such a table does not pay

        tool = tomllib.loads(raw.decode()).get("tool", {})
    except (OSError, ValueError) as error:  # a TOMLDecodeError or UnicodeDecodeError is a ValueError
        raise ImproperlyConfigured(f"can't read settings from {path}: {error}") from error
    table = tool.get("aiotask", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ImproperlyConfigured(
            f"'tool.aiotask' in {path} must be a table of settings: [tool.aiotask] and below it lines such as "
            f"task_acks_late = true"
        )
    return table
