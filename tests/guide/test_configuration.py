"""Where an app gets its settings from, and where it keeps messages and results."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from aiotask import AioTask, ArgumentError, Task


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pyproject.toml, a folder deeper the current one, and no settings in the environment."""
    (tmp_path / "pyproject.toml").write_text("[tool.aiotask]\nworker_concurrency = 7\n")
    (tmp_path / "web").mkdir()
    monkeypatch.chdir(tmp_path / "web")
    for name in ("AIOTASK_BROKER_URL", "AIOTASK_RESULT_BACKEND", "AIOTASK_WORKER_CONCURRENCY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


# Where settings come from


def test_setting_is_the_argument_s_then_the_environment_s_then_pyproject_s_then_the_default(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AioTask("proj").conf.worker_concurrency == 7
    monkeypatch.setenv("AIOTASK_WORKER_CONCURRENCY", "8")
    assert AioTask("proj").conf.worker_concurrency == 8
    app = AioTask("proj", worker_concurrency=9)
    assert app.conf.worker_concurrency == 9
    app.conf.worker_concurrency = 10
    assert app.conf.worker_concurrency == 10
    monkeypatch.delenv("AIOTASK_WORKER_CONCURRENCY")
    (project / "pyproject.toml").write_text("")
    assert AioTask("proj").conf.worker_concurrency == 100


@pytest.mark.parametrize("value", [90, 90.0, "90s", "1.5m", timedelta(minutes=1.5)])
def test_duration_is_seconds_or_text_or_a_timedelta(value: Any) -> None:
    assert AioTask("proj", broker="memory://", worker_shutdown_timeout=value).conf.worker_shutdown_timeout == 90.0


def test_broker_is_the_argument_s_then_the_environment_s_then_pyproject_s_then_a_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AioTask("proj").broker_url == "sqlite:///aiotask.db"
    (project / "pyproject.toml").write_text('[tool.aiotask]\nbroker_url = "sqlite:///from_pyproject.db"\n')
    assert AioTask("proj").broker_url == "sqlite:///from_pyproject.db"
    monkeypatch.setenv("AIOTASK_BROKER_URL", "sqlite:///from_environment.db")
    assert AioTask("proj").broker_url == "sqlite:///from_environment.db"
    assert AioTask("proj", broker="memory://").broker_url == "memory://"


async def test_file_of_the_default_broker_lies_beside_the_pyproject_that_is_found_upwards(project: Path) -> None:
    async with AioTask("proj"):
        pass
    assert (project / "aiotask.db").exists()
    assert list((project / "web").iterdir()) == []


# Where results are


def test_backend_is_the_argument_s_then_the_environment_s_then_what_the_broker_implies(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AioTask("proj", broker="memory://").backend_url == "memory://"
    assert AioTask("proj", broker="sqlite:///a.db").backend_url == "sqlite:///a.db"
    monkeypatch.setenv("AIOTASK_RESULT_BACKEND", "sqlite:///from_environment.db")
    assert AioTask("proj", broker="memory://").backend_url == "sqlite:///from_environment.db"
    assert AioTask("proj", broker="memory://", backend="sqlite:///b.db").backend_url == "sqlite:///b.db"


@pytest.mark.parametrize(
    ("broker", "backend"),
    [
        ("memory://", "sqlite:///{}/b.db"),
        ("sqlite:///{}/a.db", "memory://"),
        ("sqlite:///{}/a.db", "sqlite:///{}/b.db"),
    ],
)
async def test_results_may_be_kept_elsewhere_than_messages(tmp_path: Path, broker: str, backend: str) -> None:
    app = AioTask("proj", broker=broker.format(tmp_path), backend=backend.format(tmp_path))

    @app.task(bind=True, max_retries=1)
    async def run(self: Task, x: int) -> int:
        self.update_state("PROGRESS", {"x": x})
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        if x < 0:
            raise ValueError(x)
        return x

    async with app.worker():
        good, bad = await run.send_many([(5,), (-5,)])
        assert await good.get(timeout=10) == 5
        with pytest.raises(ValueError, match="-5"):
            await bad.get(timeout=10)
        assert [meta.state async for meta in good.updates()] == ["SUCCESS"]
        await good.forget()
        assert await app.result(good.id).state() == "PENDING"


async def test_broker_and_backend_are_the_live_objects(app: AioTask) -> None:
    broker, backend = app.broker, app.backend
    assert not broker.connected
    async with app:
        assert app.broker is broker
        assert app.backend is backend
        assert (broker.connected, backend.connected) == (True, True)


# Tasks that are elsewhere


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module that defines a task of whatever app is in `apps_of_the_guide`."""
    (tmp_path / "tasks_of_the_guide.py").write_text(
        "import apps_of_the_guide\n"
        "@apps_of_the_guide.app.task(name='proj.add')\n"
        "async def add(x: int, y: int) -> int: return x + y\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "tasks_of_the_guide"
    sys.modules.pop("tasks_of_the_guide", None)


async def test_worker_imports_the_modules_that_define_its_tasks(
    url: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = AioTask("proj", broker=url, imports=[module])
    monkeypatch.setitem(sys.modules, "apps_of_the_guide", type(sys)("apps_of_the_guide"))
    sys.modules["apps_of_the_guide"].app = app  # type: ignore[attr-defined]
    result = await app.send_task("proj.add", (2, 3))
    assert dict(app.tasks) == {}
    async with app.worker():
        assert await result.get(timeout=10) == 5
    assert set(app.tasks) == {"proj.add"}


@pytest.mark.priorities
async def test_task_is_sent_by_its_name_without_its_code(app: AioTask) -> None:
    result = await app.send_task("proj.add", (2,), {"y": 3}, priority=1, headers={"trace": "ab"})

    @app.task(name="proj.add", bind=True)
    async def add(self: Task, x: int, *, y: int) -> tuple[int, int, dict[str, str]]:
        return x + y, self.request.priority, self.request.headers

    async with app.worker():
        assert await result.get(timeout=10) == (5, 1, {"trace": "ab"})
        with pytest.raises(ArgumentError, match="argument `x`"):  # its code is here by now
            await app.send_task("proj.add", ("2",), {"y": 3})
