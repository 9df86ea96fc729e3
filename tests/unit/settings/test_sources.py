"""Settings from the command line, the app, the environment and pyproject.toml."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.settings import Settings, load_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "pyproject.toml"
    path.write_text(text)
    return path


def load(folder: Path, **sources: Any) -> Settings:
    return load_settings(**{"environ": {}, "start": folder, **sources})


def refusal(folder: Path, **sources: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        load(folder, **sources)
    return str(raised.value)


def test_the_order_of_the_sources(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "[tool.aiotask]\nworker_concurrency = 1\nworker_threads = 1\nworker_processes = 1\nworker_max_tasks = 1\n",
    )
    settings = load(
        tmp_path,
        overrides={"worker_concurrency": 4},
        arguments={"worker_concurrency": 3, "worker_threads": 3},
        environ={
            "AIOTASK_WORKER_CONCURRENCY": "2",
            "AIOTASK_WORKER_THREADS": "2",
            "AIOTASK_WORKER_PROCESSES": "2",
        },
    )
    names = ["worker_concurrency", "worker_threads", "worker_processes", "worker_max_tasks", "worker_lease"]
    assert [(getattr(settings, name), settings.origin(name)) for name in names] == [
        (4, "command line"),
        (3, "argument"),
        (2, "environment AIOTASK_WORKER_PROCESSES"),
        (1, f"[tool.aiotask] in {path}"),
        (20.0, "default"),
    ]


def test_a_value_that_does_not_count_is_not_checked(tmp_path: Path) -> None:
    settings = load(tmp_path, arguments={"worker_concurrency": 3}, environ={"AIOTASK_WORKER_CONCURRENCY": "many"})
    assert settings.worker_concurrency == 3


def test_values_of_several_sources_are_checked_together(tmp_path: Path) -> None:
    write(tmp_path, "[tool.aiotask]\nworker_lease = 4\n")
    settings = load(tmp_path, environ={"AIOTASK_WORKER_LEASE_RENEWAL": "1"})
    assert (settings.worker_lease, settings.worker_lease_renewal) == (4.0, 1.0)
    assert f"4 s (origin: [tool.aiotask] in {tmp_path}/pyproject.toml) against 5 s (origin: default)" in refusal(
        tmp_path
    )


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("AIOTASK_BROKER_URL", "redis://host/0", "redis://host/0"),
        ("AIOTASK_RESULT_BACKEND", " disabled://\n", "disabled://"),
        ("AIOTASK_TASK_ACKS_LATE", "yes", True),
        ("AIOTASK_WORKER_SETUP_LOGGING", "0", False),
        ("AIOTASK_WORKER_CONCURRENCY", "7", 7),
        ("AIOTASK_RESULT_EXPIRES", "1.5h", 5400.0),
        ("AIOTASK_RESULT_EXPIRES", "none", None),
        ("AIOTASK_MESSAGE_MAX_BYTES", "2MiB", 2097152),
        ("AIOTASK_IMPORTS", "proj.tasks, proj.mail", ["proj.tasks", "proj.mail"]),
        ("AIOTASK_ACCEPT_CONTENT", '["json"]', ["json"]),
        ("AIOTASK_BROKER_TRANSPORT_OPTIONS", '{"synchronous": "NORMAL"}', {"synchronous": "NORMAL"}),
        ("AIOTASK_WORKER_REDIRECT_STDOUTS", "on", True),
        ("AIOTASK_BEAT_SCHEDULE", "{}", {}),
    ],
)
def test_the_environment_is_read_as_the_setting_needs_it(tmp_path: Path, variable: str, text: str, value: Any) -> None:
    settings = load(tmp_path, environ={variable: text})
    name = variable.removeprefix("AIOTASK_").lower()
    assert getattr(settings, name) == value
    assert settings.origin(name) == f"environment {variable}"


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_variable_counts_as_not_set(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, environ={"AIOTASK_WORKER_CONCURRENCY": text, "AIOTASK_X": text}).worker_concurrency == 100


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOTASK_WORKER_CONCURRENCY", "9")
    monkeypatch.chdir(tmp_path)
    assert load_settings().worker_concurrency == 9


def test_a_variable_of_the_environment_is_named_when_it_does_not_fit(tmp_path: Path) -> None:
    assert refusal(tmp_path, environ={"AIOTASK_WORKER_CONCURRENCY": "many"}) == (
        "setting 'worker_concurrency' must be a whole number of at least 1, not 'many' "
        "(origin: environment AIOTASK_WORKER_CONCURRENCY)."
    )
    assert refusal(tmp_path, environ={"AIOTASK_WORKER_CONCURENCY": "50"}) == (
        "unknown setting 'worker_concurency' = '50' (origin: environment AIOTASK_WORKER_CONCURENCY). "
        "Did you mean 'worker_concurrency'?"
    )
    assert refusal(tmp_path, environ={"AIOTASK_TASK_SEND_ERROR_EMAILS": "1"}) == (
        "setting 'task_send_error_emails' is not available in aiotask 0.1 yet "
        "(origin: environment AIOTASK_TASK_SEND_ERROR_EMAILS). Leave it out: it is False in any case."
    )


def test_the_variables_of_a_kubernetes_service_are_passed_over(tmp_path: Path) -> None:
    load(
        tmp_path,
        environ={
            "AIOTASK_SERVICE_HOST": "10.0.0.11",
            "AIOTASK_SERVICE_PORT": "6379",
            "AIOTASK_SERVICE_PORT_HTTP": "6379",
            "AIOTASK_PORT": "tcp://10.0.0.11:6379",
            "AIOTASK_PORT_6379_TCP": "tcp://10.0.0.11:6379",
            "AIOTASK_PORT_6379_TCP_ADDR": "10.0.0.11",
            "AIOTASK_WORKER_PORT_6379_TCP_PROTO": "tcp",
        },
    )
    assert "unknown setting 'broker_port' = '6379'" in refusal(tmp_path, environ={"AIOTASK_BROKER_PORT": "6379"})


@pytest.mark.parametrize(
    "text",
    [
        "[tool.aiotask]\ntask_acks_late = true\n",
        "[ tool . 'aiotask' ]\ntask_acks_late = true\n",
        "[tool]\naiotask.task_acks_late = true\n",
        "[tool]\naiotask = {task_acks_late = true}\n",
        "tool = {aiotask = {task_acks_late = true}}\n",
        "tool.aiotask.task_acks_late = true\n",
        '["tool"."aiotask"]\ntask_acks_late = true\n',
    ],
)
def test_pyproject_is_read_in_any_spelling(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    settings = load(tmp_path)
    assert settings.task_acks_late
    assert settings.origin("task_acks_late") == f"[tool.aiotask] in {path}"


def test_pyproject_is_found_upwards_and_the_first_one_counts(tmp_path: Path) -> None:
    deep = tmp_path / "one" / "two"
    deep.mkdir(parents=True)
    write(tmp_path, "[tool.aiotask]\ntask_acks_late = true\n")
    assert load(deep).task_acks_late
    write(tmp_path / "one", '[project]\ndependencies = ["aiotask"]\n')
    assert not load(deep).task_acks_late


def test_pyproject_is_looked_for_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "[tool.aiotask]\ntask_acks_late = true\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).task_acks_late


def test_a_line_of_pyproject_is_named_when_it_does_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.aiotask]\nworker-concurrency = 5\n")
    assert refusal(tmp_path) == (
        f"unknown setting 'worker-concurrency' = 5 (origin: [tool.aiotask] in {path}). "
        f"Did you mean 'worker_concurrency'?"
    )
    write(tmp_path, "[tool.aiotask]\ntask_acks_late = 'yes'\n")
    assert refusal(tmp_path).endswith(f"not 'yes' (origin: [tool.aiotask] in {path}).")


def test_pyproject_says_why_when_it_can_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool.aiotask]\ntask_acks_late = \n")
    assert refusal(tmp_path) == f"can't read settings from {path}: Invalid value (at line 2, column 18)"
    path.write_bytes(b"[tool.aiotask]\n# \xff\n")
    assert refusal(tmp_path).startswith(f"can't read settings from {path}: 'utf-8' codec can't decode")


def test_pyproject_shows_a_table_when_it_has_none(tmp_path: Path) -> None:
    path = write(tmp_path, "[tool]\naiotask = true\n")
    assert refusal(tmp_path) == (
        f"'tool.aiotask' in {path} must be a table of settings: "
        f"[tool.aiotask] and below it lines such as task_acks_late = true"
    )


def test_pyproject_is_nothing_to_us_when_tool_is_no_table(tmp_path: Path) -> None:
    write(tmp_path, "tool = 5\n")
    assert load(tmp_path).origin("task_acks_late") == "default"


@pytest.mark.parametrize(
    ("text", "imported"),
    [('[project]\ndependencies = ["aiotask"]\n', False), ("[tool.aiotask]\ntask_acks_late = true\n", True)],
)
def test_toml_is_imported_only_when_there_is_a_table_of_ours(tmp_path: Path, text: str, imported: bool) -> None:
    write(tmp_path, text)
    code = (
        "import sys; from aiotask.settings import load_settings; load_settings(); "
        "print([name for name in ('tomllib', 'difflib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ("['tomllib']" if imported else "[]")
