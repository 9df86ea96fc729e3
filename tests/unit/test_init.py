"""The package's names: the same for type checkers and at run time, and cheap until they are used."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import aiotask


def for_type_checkers() -> set[str]:
    """Return the names that the block under TYPE_CHECKING exports."""
    tree = ast.parse(inspect.getsource(aiotask))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    return {alias.asname or alias.name for node in block.body for alias in node.names}  # type: ignore[attr-defined]


def modules_loaded_by(code: str) -> set[str]:
    """Run `code` in a fresh interpreter and return the modules that it has loaded."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    )


def test_names_are_the_same_for_type_checkers_and_at_run_time() -> None:
    assert for_type_checkers() == set(aiotask.__all__)


@pytest.mark.parametrize("name", aiotask.__all__)
def test_name_is_found_and_is_called_so(name: str) -> None:
    found = getattr(aiotask, name)
    assert name in dir(aiotask)
    if isinstance(found, type):
        assert found.__name__ == name


def test_names_can_be_imported_all_at_once() -> None:
    namespace: dict[str, object] = {}
    exec("from aiotask import *", namespace)
    assert set(aiotask.__all__) <= set(namespace)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'aiotask' has no attribute 'Celery'"):
        aiotask.Celery  # noqa: B018
    assert not hasattr(aiotask, "no_such_name")


def test_import_loads_no_driver_no_command_line_and_no_submodule() -> None:
    loaded = modules_loaded_by("import aiotask")
    assert not {
        name for name in loaded if name.split(".")[0] in {"redis", "aio_pika", "aiormq", "click", "rich", "anyio"}
    }
    assert not {name for name in loaded if name.startswith("aiotask.")}


@pytest.mark.parametrize("url", ["memory://", "sqlite:///never-opened.db"])
def test_app_loads_no_driver_that_its_urls_do_not_name(url: str, tmp_path: Path) -> None:
    loaded = modules_loaded_by(
        f"import os; os.chdir({str(tmp_path)!r})\nimport aiotask\naiotask.AioTask(broker={url!r})"
    )
    assert not {
        name for name in loaded if name.split(".")[0] in {"redis", "aio_pika", "aiormq", "click", "rich", "pydantic"}
    }
    assert "aiotask.default" not in loaded


def test_package_says_that_it_is_typed() -> None:
    assert (Path(aiotask.__file__).parent / "py.typed").exists()
