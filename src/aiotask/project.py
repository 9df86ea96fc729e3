"""Finds the project that a folder belongs to. Settings are read there, and relative SQLite paths begin there."""

import os
from pathlib import Path


def find_pyproject(start: Path | None = None) -> Path | None:
    """Return the path of the first pyproject.toml from `start` (None: the current folder) upwards, or None.

    Cost: looks once into each folder up to the root.
    """
    folder = (start or Path()).absolute()
    for candidate in (folder, *folder.parents):
        path = candidate / "pyproject.toml"
        # Not Path.is_file: it raises where a folder above may not be entered.
        if os.path.isfile(path):
            return path
    return None


def project_folder(start: Path | None = None) -> Path:
    """Return the folder of the pyproject.toml that `find_pyproject` finds; where there is none, `start` itself."""
    path = find_pyproject(start)
    return path.parent if path else (start or Path()).absolute()
