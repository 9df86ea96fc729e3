"""The programs in the pages of `docs/` are run as they stand there, and their settings are read."""

import ast
import inspect
import json
import logging
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import aiotask
from aiotask import AioTask
from aiotask.wire import compression, serialization

DOCS = Path(__file__).parents[2] / "docs"


def blocks(language: str) -> list[Any]:
    """Return every block of a language, with the page and the line that it begins at."""
    found = []
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 2
            found.append(pytest.param(page, line, block[1], id=f"{page.stem}-{line}"))
    return found


@pytest.fixture
def names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the pages take for granted: an app, a task, and the values that they are given."""
    monkeypatch.chdir(tmp_path)
    yaml = ModuleType("yaml")  # any pair of functions does
    yaml.safe_dump, yaml.safe_load = json.dumps, json.loads  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "yaml", yaml)
    for tables in (serialization, compression):  # what a page registers is no other test's
        for table in ("_BY_NAME", "_BY_CONTENT_TYPE"):
            monkeypatch.setattr(tables, table, dict(getattr(tables, table)))
    app = AioTask("proj", broker="memory://")

    @app.task(name="proj.fetch")
    async def fetch(url: str) -> None: ...

    return {
        "__name__": "proj",
        "aiotask": aiotask,
        "AioTask": AioTask,
        "app": app,
        "fetch": fetch,
        "url": "http://example.org",
        "picture": b"\x89PNG",
        "re": re,
        "yaml": yaml,
        "logging": logging,
    }


@pytest.mark.parametrize(("page", "line", "program"), blocks("python"))
async def test_program_of_a_page_runs(names: dict[str, Any], page: Path, line: int, program: str) -> None:
    # The code objects keep the page's lines, so that a failure points there.
    code = compile("\n" * (line - 1) + program, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    given = names["app"]
    running = eval(code, names)
    if inspect.iscoroutine(running):
        await running
    for app in {given, names["app"]}:
        await app.close()


@pytest.mark.parametrize(("page", "line", "text"), blocks("toml"))
def test_settings_of_a_page_are_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path, line: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    app = AioTask("proj")
    for name in tomllib.loads(text)["tool"]["aiotask"]:
        assert app.conf.origin(name).startswith("[tool.aiotask]"), f"{page}:{line}"


@pytest.mark.parametrize(("page", "line", "text"), blocks("sh"))
def test_environment_of_a_page_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path, line: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
    assert exported, f"{page}:{line} exports nothing"
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    app = AioTask("proj")
    for name in exported:
        assert app.conf.origin(name.removeprefix("AIOTASK_").lower()) == f"environment {name}"


PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_readme_links_every_page() -> None:
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme] == []
