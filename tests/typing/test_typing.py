"""Type checkers see what a task takes and gives: each accepts the right calls and rejects every wrong one."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent
FILES = ("right.py", "wrong.py")

Complaints = dict[str, dict[int, str]]
"""File -> line -> what is said of it."""


def mypy(cache: Path) -> Complaints:
    options = [
        "--strict",
        "--python-version=3.11",
        f"--cache-dir={cache}",
        "--hide-error-context",
        "--no-error-summary",
    ]
    said, trouble, _ = api.run([*options, "--config-file=", *(str(HERE / file) for file in FILES)])
    assert trouble == ""
    found: Complaints = {file: {} for file in FILES}
    for line in said.splitlines():
        parts = re.fullmatch(r"(.+?):(\d+): (error|note): (.*)", line)
        assert parts is not None, line
        if parts[3] == "error":
            found[Path(parts[1]).name][int(parts[2])] = parts[4]
    return found


def pyright(_cache: Path) -> Complaints:
    """By basedpyright, which is pyright with its own Node.js; the mode in pyrightconfig.json is pyright's `strict`."""
    command = [sys.executable, "-m", "basedpyright", "--project", HERE, "--pythonpath", sys.executable, "--outputjson"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stderr == "", ran.stderr
    said = json.loads(ran.stdout)
    assert said["summary"]["filesAnalyzed"] == len(FILES)
    found: Complaints = {file: {} for file in FILES}
    for complaint in said["generalDiagnostics"]:
        found[Path(complaint["file"]).name][complaint["range"]["start"]["line"] + 1] = complaint["message"]
    return found


@pytest.fixture(scope="module", params=[mypy, pyright])
def complaints(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Complaints:
    check: Callable[[Path], Complaints] = request.param
    return check(tmp_path_factory.mktemp("types"))


def test_right_calls_are_accepted_with_the_types_they_assert(complaints: Complaints) -> None:
    assert complaints["right.py"] == {}


def wrong_lines() -> list[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]


@pytest.mark.parametrize("line", wrong_lines())
def test_wrong_call_is_rejected(complaints: Complaints, line: int) -> None:
    assert line in complaints["wrong.py"], (HERE / "wrong.py").read_text().splitlines()[line - 1]


def test_nothing_else_is_rejected(complaints: Complaints) -> None:
    assert set(complaints["wrong.py"]) <= set(wrong_lines())
