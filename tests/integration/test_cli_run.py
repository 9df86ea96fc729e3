"""`aiotask run`: one worker process, from its first line to its exit code."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.processes import WorkerProcess

Run = Callable[..., "CompletedProcess[str]"]
Call = Callable[..., str]
Start = Callable[..., WorkerProcess]

LONG_S = "600"


# What it says


def test_run_introduces_itself_on_stderr_when_it_starts(aiotask: Run, tmp_path: Path) -> None:
    finished = aiotask("run", "tasks", "--burst", "-n", "web", "-Q", "a,b", "-Q", "c")

    assert (finished.returncode, finished.stdout) == (0, "atexit has run\n")
    assert "web@" in finished.stderr
    assert f"sqlite:///{tmp_path}/tasks.db" in finished.stderr
    assert "queues   a, b, c" in finished.stderr
    assert "tasks.add, tasks.block" in finished.stderr


def test_run_prints_the_broker_whole_when_its_path_is_relative(aiotask: Run) -> None:
    finished = aiotask("run", "tasks", "--burst", "--broker", "sqlite:///no/such/folder.db")

    # The project is this checkout: its pyproject.toml is the first one found upwards.
    root = Path(__file__).parents[2]
    assert finished.returncode == 69
    assert f"broker   sqlite:///{root}/no/such/folder.db" in finished.stderr


def test_run_names_task_and_id_on_every_line_of_a_task(worker: WorkerProcess, call: Call) -> None:
    ids = [call(f"tasks.{name}", "hello") for name in ("log", "log_in_thread", "log_as_a_task")]

    worker.wait_for(rf"\d INFO +project.own tasks.log\[{ids[0]}\]: hello$")
    worker.wait_for(rf"\d INFO +project.own tasks.log_in_thread\[{ids[1]}\]: hello$")
    worker.wait_for(rf"\d INFO +aiotask.task.own tasks.log_as_a_task\[{ids[2]}\]: hello$")
    worker.wait_for(rf"\d INFO +aiotask.worker.tasks: Task tasks.log\[{ids[0]}\] succeeded")


def test_run_writes_one_document_per_line_when_the_format_is_json(aiotask: Run, call: Call) -> None:
    logged, failed = call("tasks.log", "two\nlines"), call("tasks.divide", "1", "0")

    finished = aiotask("run", "tasks", "--burst", "--log-format", "json")

    records = [json.loads(line) for line in finished.stderr.splitlines()]
    assert all({"ts", "level", "logger", "message", "task", "task_id"} <= set(record) for record in records)
    assert records[0]["broker"].startswith("sqlite:///")
    [own] = [record for record in records if record["logger"] == "project.own"]
    assert (own["message"], own["task"], own["task_id"]) == ("two\nlines", "tasks.log", logged)
    [failure] = [record for record in records if record["level"] == "ERROR"]
    assert failure["task_id"] == failed
    assert "Traceback" in failure["message"]
    assert failure["seconds"] > 0


def test_run_logs_to_a_file_when_one_is_named(aiotask: Run, call: Call, tmp_path: Path) -> None:
    task_id = call("tasks.add", "1", "2")

    finished = aiotask("run", "tasks", "--burst", "--logfile", str(tmp_path / "worker.log"))

    assert task_id in (tmp_path / "worker.log").read_text()
    assert task_id not in finished.stderr
    assert "broker   sqlite:///" in finished.stderr


def test_run_logs_nothing_lesser_when_a_level_is_given(aiotask: Run, call: Call) -> None:
    call("tasks.add", "1", "2")
    failed = call("tasks.divide", "1", "0")

    finished = aiotask("run", "tasks", "--burst", "-l", "ERROR")

    assert "succeeded" not in finished.stderr
    assert failed in finished.stderr


def test_run_leaves_logging_to_the_program_when_the_setting_says_so(aiotask: Run, call: Call) -> None:
    call("tasks.add", "1", "2")

    finished = aiotask("run", "tasks", "--burst", AIOTASK_WORKER_SETUP_LOGGING="false")

    assert finished.returncode == 0
    assert "succeeded" not in finished.stderr


def test_run_takes_from_every_declared_queue_unless_it_is_told_otherwise(aiotask: Run) -> None:
    finished = aiotask("run", "tasks", "--burst", AIOTASK_TASK_QUEUES="default,mail")

    assert "queues   default, mail\n" in finished.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_run_is_refused_a_queue_that_is_not_declared_when_missing_ones_are_not_made(
    aiotask: Run, processes: str
) -> None:
    settings = {"AIOTASK_TASK_QUEUES": "default,mail", "AIOTASK_TASK_CREATE_MISSING_QUEUES": "no"}

    finished = aiotask("run", "tasks", "--burst", "-Q", "default,mial", "--processes", processes, **settings)

    assert finished.returncode == 78
    assert finished.stderr == (
        "Error: A worker can't take from 'mial'. There is no queue 'mial', and task_create_missing_queues is False; "
        "task_queues declares these: 'default', 'mail'. Did you mean 'mail'?\n"
    )


# How it ends


def test_run_ends_when_the_limit_of_tasks_is_reached(aiotask: Run, call: Call) -> None:
    for _ in range(3):
        call("tasks.add", "1", "2")

    finished = aiotask("run", "tasks", "--max-tasks", "2")

    assert finished.returncode == 0
    assert finished.stderr.count("succeeded") == 2
    assert json.loads(aiotask("queues", "--json").stdout)[0]["ready"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_lets_tasks_finish_and_exits_0_when_a_signal_comes(
    worker: WorkerProcess, call: Call, aiotask: Run, number: signal.Signals
) -> None:
    task_id = call("tasks.sleep", "0.5")
    worker.wait_for("sleeping")

    worker.send(number)

    assert worker.wait() == 0
    assert aiotask("result", task_id).stdout == '"slept"\n'
    assert "atexit has run" in worker.output


def test_run_hands_work_back_and_exits_1_when_a_second_signal_comes(
    worker: WorkerProcess, call: Call, aiotask: Run
) -> None:
    call("tasks.sleep", LONG_S)
    worker.wait_for("sleeping")

    worker.terminate()
    worker.wait_for("Asked to stop:")
    worker.send(signal.SIGINT)

    assert worker.wait() == 1
    assert json.loads(aiotask("queues", "--json").stdout)[0]["ready"] == 1


def test_run_exits_0_when_a_second_signal_leaves_nothing_behind(worker: WorkerProcess, call: Call) -> None:
    call("tasks.sleep", "0.3")
    worker.wait_for("sleeping")
    worker.terminate()
    worker.wait_for("succeeded")
    worker.terminate()

    assert worker.wait() == 0


def test_run_hands_work_back_when_the_shutdown_timeout_passes(start: Start, call: Call, aiotask: Run) -> None:
    worker = start("--shutdown-timeout", "100ms")
    call("tasks.sleep", LONG_S)
    worker.wait_for("sleeping")

    worker.terminate()

    assert worker.wait() == 0
    assert json.loads(aiotask("queues", "--json").stdout)[0]["ready"] == 1


@pytest.mark.parametrize("task", ["tasks.never_end", "tasks.never_end_in_executor"])
def test_run_ends_promptly_when_a_thread_never_does(start: Start, call: Call, task: str) -> None:
    worker = start("--shutdown-timeout", "0")
    call(task)
    worker.wait_for("never ending")
    asked_mono = time.monotonic()

    worker.terminate()

    assert worker.wait() == 0
    assert time.monotonic() - asked_mono < 5
    assert "atexit has run" in worker.output


def test_run_goes_on_when_a_child_task_of_a_body_exits(worker: WorkerProcess, call: Call, aiotask: Run) -> None:
    exited = call("tasks.exit_in_a_child", "3")

    assert aiotask("result", exited, "--wait").stdout == '"child done: True"\n'
    worker.wait_for("SystemExit in an asyncio task that a task body has started; the worker goes on")
    assert aiotask("call", "tasks.add", "1", "2", "--wait").stdout == "3\n"
    worker.terminate()
    assert worker.wait() == 0


def test_run_ends_at_a_third_signal_when_the_loop_is_blocked(worker: WorkerProcess, call: Call) -> None:
    call("tasks.block", LONG_S)
    worker.wait_for("blocking")
    worker.terminate()
    worker.send(signal.SIGINT)

    deadline = time.monotonic() + 20
    while worker.running and time.monotonic() < deadline:
        worker.terminate()
        time.sleep(0.1)

    assert worker.wait() == 1


def test_run_exits_70_with_the_culprit_when_the_loop_is_blocked_too_long(start: Start, call: Call) -> None:
    worker = start(AIOTASK_WORKER_LOOP_STALL_LIMIT="1.5")
    task_id = call("tasks.block", LONG_S)

    assert worker.wait() == 70
    assert f"by task tasks.block[{task_id}]" in worker.output
    assert "time.sleep(seconds)" in worker.output
    assert "this worker process ends (exit code 70)" in worker.output


# What it refuses


@pytest.mark.parametrize("option", ["--beat", "--reload"])
def test_run_exits_2_when_a_flag_is_not_available_yet(aiotask: Run, option: str) -> None:
    finished = aiotask("run", "tasks", option)

    assert finished.returncode == 2
    assert finished.stderr == f"Error: {option} is not available in this version of aiotask yet.\n"


@pytest.mark.parametrize(
    "options",
    [
        ("-c", "0"),
        ("--processes", "0"),
        ("--threads", "x"),
        ("--max-tasks", "0"),
        ("-Q", "a,,b"),
        ("-n", ""),
        ("-l", "loud"),
        ("--log-format", "xml"),
        ("--loop", "trio"),
        ("--shutdown-timeout", "-1"),
        ("--app-dir", "/nowhere"),
    ],
)
def test_run_exits_2_when_a_flag_does_not_fit(aiotask: Run, options: tuple[str, ...]) -> None:
    finished = aiotask("run", "tasks", *options)

    assert finished.returncode == 2
    assert options[0] in finished.stderr


@pytest.mark.parametrize("target", ["", ":app", "tasks:", ".tasks"])
def test_run_exits_2_when_the_target_is_no_name(aiotask: Run, target: str) -> None:
    assert aiotask("run", target).returncode == 2


def test_run_exits_3_with_one_line_when_the_target_is_misspelt(aiotask: Run) -> None:
    finished = aiotask("run", "taks")

    assert finished.returncode == 3
    assert finished.stderr.count("\n") == 1
    assert "Did you mean 'tasks'?" in finished.stderr


def test_run_exits_78_when_the_broker_is_in_memory(aiotask: Run) -> None:
    finished = aiotask("run", "tasks", "--broker", "memory://")

    assert finished.returncode == 78
    assert "nobody else could send to it" in finished.stderr


def test_run_exits_78_when_uvloop_is_wanted_and_not_installed(aiotask: Run, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('no uvloop here')")

    finished = aiotask("run", "tasks", "--burst", "--loop", "uvloop", PYTHONPATH=str(tmp_path))

    assert finished.returncode == 78
    assert "pip install uvloop" in finished.stderr


def test_run_uses_asyncio_when_uvloop_is_not_installed(aiotask: Run, call: Call, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('no uvloop here')")
    task_id = call("tasks.add", "1", "2")

    finished = aiotask("run", "tasks", "--burst", PYTHONPATH=str(tmp_path))

    assert finished.returncode == 0
    assert f"{task_id}] succeeded" in finished.stderr


def test_run_exits_78_when_the_log_file_can_not_be_written(aiotask: Run) -> None:
    assert aiotask("run", "tasks", "--logfile", "/nowhere/worker.log").returncode == 78


def test_run_exits_69_when_the_broker_is_unreachable(aiotask: Run) -> None:
    finished = aiotask("run", "tasks", "--broker", "sqlite:////nowhere/tasks.db")

    assert finished.returncode == 69
    assert "Tried broker_url sqlite:////nowhere/tasks.db (origin: command line)" in finished.stderr
    assert "Traceback" not in finished.stderr
