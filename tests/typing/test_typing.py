"""Type checkers see what a task takes and gives: right calls pass `mypy --strict`, each wrong one is rejected."""

import re
from pathlib import Path

import pytest
from mypy import api

HERE = Path(__file__).parent

pytestmark = pytest.mark.xdist_group("mypy")  # one run of it is enough


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """Return what mypy says of each file: line -> message."""
    cache = tmp_path_factory.mktemp("mypy")
    files = ["right.py", "wrong.py"]
    options = [
        "--strict",
        "--python-version=3.11",
        f"--cache-dir={cache}",
        "--hide-error-context",
        "--no-error-summary",
    ]
    said, trouble, _ = api.run([*options, "--config-file=", *(str(HERE / file) for file in files)])
    assert trouble == ""
    found: dict[str, dict[int, str]] = {file: {} for file in files}
    for line in said.splitlines():
        parts = re.fullmatch(r"(.+?):(\d+): (error|note): (.*)", line)
        assert parts is not None, line
        if parts[3] == "error":
            found[Path(parts[1]).name][int(parts[2])] = parts[4]
    return found


def test_right_calls_are_accepted_with_the_types_they_assert(complaints: dict[str, dict[int, str]]) -> None:
    assert complaints["right.py"] == {}


def wrong_lines() -> list[int]:
    lines = (HERE / "wrong.py").read_text().splitlines()
    return [number for number, line in enumerate(lines, 1) if line.endswith("# wrong")]


@pytest.mark.parametrize("line", wrong_lines())
def test_wrong_call_is_rejected(complaints: dict[str, dict[int, str]], line: int) -> None:
    assert line in complaints["wrong.py"], (HERE / "wrong.py").read_text().splitlines()[line - 1]


def test_nothing_else_is_rejected(complaints: dict[str, dict[int, str]]) -> None:
    assert set(complaints["wrong.py"]) <= set(wrong_lines())
