"""What tasks print becomes log records of `aiotask run`, and of nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TASKS = """
from aiotask import AioTask
app = AioTask("tasks", broker="sqlite:///{folder}/tasks.db", {settings})

@app.task
def shout(text):
    print(text)
"""


def ran(folder: Path, settings: str = "") -> tuple[str, list[dict[str, object]]]:
    """Run one task that prints, and return what came on stdout and the log."""
    (folder / "tasks.py").write_text(TASKS.format(folder=folder, settings=settings), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIOTASK_")}
    aiotask = [sys.executable, "-m", "aiotask"]
    subprocess.run(
        [*aiotask, "call", "tasks.shout", "hello", "-A", "tasks"],
        cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip
    worker = subprocess.run(
        [*aiotask, "run", "tasks", "--burst", "--log-format", "json"],
        cwd=folder, env=environment, check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return worker.stdout, [json.loads(line) for line in worker.stderr.splitlines()]


def test_print_of_a_task_becomes_a_record_with_its_name(tmp_path: Path) -> None:
    stdout, records = ran(tmp_path)
    assert stdout == ""
    [record] = [record for record in records if record["message"] == "hello"]
    assert (record["level"], record["task"]) == ("WARNING", "tasks.shout")


def test_print_of_a_task_has_the_level_that_is_set(tmp_path: Path) -> None:
    _, records = ran(tmp_path, 'worker_redirect_stdouts_level="ERROR"')
    assert [record["level"] for record in records if record["message"] == "hello"] == ["ERROR"]


@pytest.mark.parametrize("settings", ["worker_redirect_stdouts=False"])
def test_print_of_a_task_is_left_alone_when_told_so(tmp_path: Path, settings: str) -> None:
    stdout, records = ran(tmp_path, settings)
    assert stdout == "hello\n"
    assert "hello" not in [record["message"] for record in records]
