"""`task_annotations`: options that whoever deploys a program lays over those of its tasks."""

from pathlib import Path
from typing import Any

import pytest

from aiotask import AioTask, ImproperlyConfigured, Task


@pytest.mark.priorities
async def test_annotations_win_over_what_a_task_says(url: str) -> None:
    app = AioTask("proj", broker=url, task_annotations={"*": {"priority": 1}, "proj.add": {"max_retries": 0}})

    @app.task(name="proj.add", bind=True, priority=7, max_retries=5, default_retry_delay=0)
    async def add(self: Task) -> int:
        return self.request.priority

    class Mul(app.Task):  # type: ignore[name-defined,misc]
        name = "proj.mul"
        priority = 8
        max_retries = 4

        async def run(self) -> None: ...

    assert (add.priority, add.max_retries) == (1, 0)
    assert (app.tasks["proj.mul"].priority, app.tasks["proj.mul"].max_retries) == (1, 4)
    async with app.worker():
        assert await (await add.delay()).get(timeout=10) == 1
        assert await (await add.apply_async(priority=3)).get(timeout=10) == 3


def test_annotations_hold_for_tasks_that_there_are_when_they_are_set(app: AioTask) -> None:
    @app.task(name="proj.add", priority=7)
    async def add() -> None: ...

    app.conf.task_annotations = {"proj.add": {"priority": 1, "queue": "mail", "colour": "red"}}
    assert (add.priority, add.queue, add.colour) == (1, "mail", "red")
    app.conf.task_annotations = {"proj.add": {"mandatory": True}}
    assert (add.priority, add.queue, add.mandatory, hasattr(add, "colour")) == (7, None, True, False)
    app.conf.task_annotations = None
    assert (add.priority, add.queue, add.mandatory) == (7, None, None)


def test_annotations_count_when_retries_are_decided(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add() -> None: ...

    app.conf.task_annotations = [{"*": {"autoretry_for": (OSError,), "retry_backoff": True}}]
    assert add.policy.autoretry_for == (OSError,)
    assert add.policy.retry_backoff is True


def test_annotations_are_refused_as_a_whole_when_they_do_not_fit_a_task(app: AioTask) -> None:
    for name in ("proj.add", "proj.mul"):
        app.task(name=name, priority=7)(print)
    app.conf.task_annotations = {"*": {"queue": "mail"}}
    with pytest.raises(ImproperlyConfigured, match=r"Task 'proj\.mul': 'delay' belongs to every task"):
        app.conf.task_annotations = {"*": {"priority": 1}, "proj.mul": {"delay": 5}}
    assert app.conf.task_annotations == {"*": {"queue": "mail"}}
    assert [(task.priority, task.queue) for task in app.tasks.values()] == [(7, "mail")] * 2


def test_annotations_are_read_from_pyproject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.aiotask.task_annotations]\n"proj.add" = {queue = "mail"}\n')
    monkeypatch.chdir(tmp_path)
    app = AioTask("proj", broker="memory://")
    task: Any = app.task(name="proj.add")(print)
    assert task.queue == "mail"


def test_annotations_name_the_setting_the_option_and_what_it_takes(app: AioTask) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        app.conf.task_annotations = {"proj.add": {"max_retries": -1}}
    assert str(raised.value) == (
        "setting 'task_annotations' doesn't fit: Task 'proj.add': option 'max_retries' is -1; it takes a whole number, "
        "0 or more, or None for no limit (origin: assigned)."
    )
