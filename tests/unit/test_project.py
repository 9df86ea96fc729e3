"""Where the project is."""

import os
from pathlib import Path

import pytest

from aiotask.project import find_pyproject, project_folder


def test_the_first_pyproject_upwards_is_found(tmp_path: Path) -> None:
    deep = tmp_path / "one" / "two" / "three"
    deep.mkdir(parents=True)
    outer, inner = tmp_path / "pyproject.toml", tmp_path / "one" / "pyproject.toml"
    outer.touch()
    assert find_pyproject(deep) == outer
    assert project_folder(deep) == tmp_path
    inner.touch()
    assert find_pyproject(deep) == inner
    assert project_folder(deep) == tmp_path / "one"


def test_the_current_folder_is_the_start_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert find_pyproject() == tmp_path / "pyproject.toml"
    assert project_folder() == tmp_path


def test_the_start_is_the_project_when_there_is_no_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "isfile", lambda path: False)
    monkeypatch.chdir(tmp_path)
    assert find_pyproject(tmp_path / "sub") is None
    assert project_folder(tmp_path / "sub") == tmp_path / "sub"
    assert project_folder() == tmp_path


def test_a_folder_of_that_name_is_no_pyproject(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "sub" / "pyproject.toml").mkdir(parents=True)
    assert find_pyproject(tmp_path / "sub") == tmp_path / "pyproject.toml"
