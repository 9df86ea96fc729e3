"""`aiotask config`, in a project of each test's own."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.processes import run_aiotask

APP = """
from aiotask import AioTask
app = AioTask("shop", imports=["shop_tasks"], task_acks_late=True)
"""
TASKS = """
from shop import app
app.conf.worker_lease = "30s"
"""

Run = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[tool.aiotask]\nworker_concurrency = 20\n")
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "shop_tasks.py").write_text(TASKS)
    return tmp_path


@pytest.fixture
def aiotask(project: Path) -> Run:
    return lambda *arguments, **env: run_aiotask(*arguments, cwd=project, env=env)


def test_config_shows_what_differs_from_the_defaults(aiotask: Run) -> None:
    finished = aiotask("config", "shop", AIOTASK_WORKER_THREADS="4", AIOTASK_WORKER_PROCESSES="1")

    assert finished.returncode == 0
    assert [line.split(maxsplit=1) for line in finished.stdout.splitlines()] == [
        ["NAME", "VALUE"],
        ["imports", "['shop_tasks']"],
        ["task_acks_late", "True"],
        ["worker_concurrency", "20"],
        ["worker_threads", "4"],
        ["worker_lease", "30.0"],
    ]


def test_config_says_where_each_value_came_from_when_asked_to(aiotask: Run, project: Path) -> None:
    finished = aiotask("config", "shop", "--show-origin", "-b", "sqlite:///x.db", AIOTASK_WORKER_THREADS="4")

    origins = dict(line.split(maxsplit=2)[::2] for line in finished.stdout.splitlines())
    assert origins == {
        "NAME": "ORIGIN",
        "broker_url": "command line",
        "imports": "argument",
        "task_acks_late": "argument",
        "worker_concurrency": f"[tool.aiotask] in {project}/pyproject.toml",
        "worker_threads": "environment AIOTASK_WORKER_THREADS",
        "worker_lease": "assigned",
    }


def test_config_lists_every_available_setting_when_asked_to(aiotask: Run) -> None:
    rows = json.loads(aiotask("config", "--all", "--json").stdout)

    assert {"name": "worker_lease", "value": 20.0, "default": 20.0, "origin": "default"} in rows
    assert not {"beat_schedule", "email_host_password"} & {row["name"] for row in rows}
    assert len(aiotask("config", "--all").stdout.splitlines()) == len(rows) + 1


def test_config_shows_the_default_app_and_imports_nothing_when_no_target_is_named(aiotask: Run, project: Path) -> None:
    rows = json.loads(aiotask("config", "--json", AIOTASK_IMPORTS="missing").stdout)

    assert rows == [
        {"name": "imports", "value": ["missing"], "default": [], "origin": "environment AIOTASK_IMPORTS"},
        {
            "name": "worker_concurrency",
            "value": 20,
            "default": 100,
            "origin": f"[tool.aiotask] in {project}/pyproject.toml",
        },
    ]


def test_config_says_so_on_stderr_when_every_setting_has_its_default(aiotask: Run, project: Path) -> None:
    (project / "pyproject.toml").unlink()

    finished = aiotask("config")

    assert (finished.returncode, finished.stdout) == (0, "NAME  VALUE\n")
    assert "Every setting has its default" in finished.stderr


@pytest.mark.parametrize("option", ["--show-origin", "--json"])
def test_config_shows_no_password(aiotask: Run, project: Path, option: str) -> None:
    (project / "shop_tasks.py").write_text(
        "from shop import app\n"
        "app.conf.update(broker_url='redis://me:hidden@host/0', result_backend='redis://host/0?password=hidden')\n"
    )

    finished = aiotask("config", "shop", option)

    assert finished.returncode == 0
    assert "redis://me:***@host/0" in finished.stdout
    assert "redis://host/0?password=***" in finished.stdout
    assert "hidden" not in finished.stdout + finished.stderr


def test_config_imports_the_target_from_the_folder_that_is_named(aiotask: Run, project: Path) -> None:
    folder = project / "src"
    folder.mkdir()
    for name in ("shop.py", "shop_tasks.py"):
        (project / name).rename(folder / name)

    assert "task_acks_late" in aiotask("config", "shop", "--app-dir", "src").stdout


def test_config_exits_2_when_an_option_is_unknown(aiotask: Run) -> None:
    assert aiotask("config", "--origin").returncode == 2


@pytest.mark.parametrize("target", ["shopp", "shop:ap"])
def test_config_exits_3_with_the_nearest_name_when_the_target_can_not_be_had(aiotask: Run, target: str) -> None:
    finished = aiotask("config", target)

    assert (finished.returncode, finished.stdout) == (3, "")
    assert "Did you mean" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_config_exits_3_when_a_module_in_imports_can_not_be_imported(aiotask: Run, project: Path) -> None:
    (project / "shop_tasks.py").unlink()

    finished = aiotask("config", "shop")

    assert finished.returncode == 3
    assert "which the setting 'imports' names (origin: argument)" in finished.stderr


@pytest.mark.parametrize("target", [[], ["shop"]])
def test_config_exits_78_with_the_nearest_name_when_the_environment_has_an_unknown_setting(
    aiotask: Run, target: list[str]
) -> None:
    finished = aiotask("config", *target, AIOTASK_WORKER_CONCURENCY="5")

    assert (finished.returncode, finished.stdout) == (78, "")
    assert "(origin: environment AIOTASK_WORKER_CONCURENCY)" in finished.stderr
    assert "Did you mean 'worker_concurrency'?" in finished.stderr


def test_config_exits_78_and_shows_no_password_when_a_url_does_not_fit(aiotask: Run) -> None:
    finished = aiotask("config", "-b", "redos://me:hidden@host")

    assert finished.returncode == 78
    assert "redos://me:***@host" in finished.stderr
    assert "hidden" not in finished.stderr
