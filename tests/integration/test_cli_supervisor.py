"""`aiotask run --processes N`: a supervisor and its children."""

import json
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from tests.processes import PATIENCE_S, WorkerProcess

Run = Callable[..., "CompletedProcess[str]"]
Call = Callable[..., str]
Start = Callable[..., WorkerProcess]

LONG_S = "600"


@pytest.fixture
def supervisor(start: Start) -> WorkerProcess:
    return start("--processes", "2", "-n", "web")


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_supervisor_names_its_children_when_they_start(supervisor: WorkerProcess, aiotask: Run) -> None:
    supervisor.wait_for("Worker web-1@[^ ]+ is ready")
    supervisor.wait_for("Worker web-2@[^ ]+ is ready")

    assert len(supervisor.children()) == 2
    assert int(aiotask("call", "tasks.pid", "--wait").stdout) in supervisor.children()
    assert supervisor.output.count("broker   sqlite:///") == 1


def test_children_are_in_no_group_that_a_terminal_signals_with_their_supervisor(supervisor: WorkerProcess) -> None:
    assert all(os.getpgid(child) != os.getpgid(supervisor.pid) for child in supervisor.children())


def test_supervisor_keeps_the_host_when_the_name_has_one(start: Start) -> None:
    supervisor = start("--processes", "2", "-n", "web@here")

    supervisor.wait_for("Worker web-1@here is ready")
    supervisor.wait_for("Worker web-2@here is ready")


def test_supervisor_replaces_a_child_when_it_is_killed(supervisor: WorkerProcess, aiotask: Run) -> None:
    before = supervisor.children()

    os.kill(before[0], signal.SIGKILL)

    supervisor.wait_for(rf"Worker process \d \(pid {before[0]}\) ended with signal 9; another is started")
    supervisor.wait_for("is ready", count=3)
    assert len(supervisor.children()) == 2
    assert before[1] in supervisor.children()
    assert aiotask("call", "tasks.add", "1", "2", "--wait").stdout == "3\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_supervisor_lets_tasks_finish_and_exits_0_when_a_signal_comes(
    supervisor: WorkerProcess, call: Call, aiotask: Run, number: signal.Signals
) -> None:
    children = supervisor.children()
    task_id = call("tasks.sleep", "0.5")
    supervisor.wait_for("sleeping")

    supervisor.send(number)

    assert supervisor.wait() == 0
    assert not any(map(is_running, children))
    assert aiotask("result", task_id).stdout == '"slept"\n'


def test_supervisor_takes_its_own_signal_and_its_childrens_for_one(
    supervisor: WorkerProcess, call: Call, aiotask: Run
) -> None:
    # A service manager signals every process of the service.
    task_id = call("tasks.sleep", "1")
    supervisor.wait_for("sleeping")

    for pid in (supervisor.pid, *supervisor.children()):
        with suppress(ProcessLookupError):  # one with nothing to do may be gone by now
            os.kill(pid, signal.SIGTERM)

    assert supervisor.wait() == 0
    assert aiotask("result", task_id).stdout == '"slept"\n'


def test_supervisor_hands_work_back_and_exits_1_when_a_second_signal_comes(
    supervisor: WorkerProcess, call: Call, aiotask: Run
) -> None:
    call("tasks.sleep", LONG_S)
    supervisor.wait_for("sleeping")

    supervisor.terminate()
    supervisor.wait_for("Asked to stop:", count=2)
    supervisor.terminate()

    assert supervisor.wait() == 1
    assert json.loads(aiotask("queues", "--json").stdout)[0]["ready"] == 1


def test_supervisor_kills_children_that_hang_when_a_third_signal_comes(supervisor: WorkerProcess, call: Call) -> None:
    children = supervisor.children()
    call("tasks.block", LONG_S)
    supervisor.wait_for("blocking")
    supervisor.terminate()
    supervisor.wait_for("Stopping 2 worker processes$")
    supervisor.terminate()

    deadline = time.monotonic() + 20
    while supervisor.running and time.monotonic() < deadline:
        supervisor.terminate()
        time.sleep(0.1)

    assert supervisor.wait() == 70
    assert not any(map(is_running, children))


def test_children_stop_when_their_supervisor_is_killed(supervisor: WorkerProcess, call: Call, aiotask: Run) -> None:
    children = supervisor.children()
    task_id = call("tasks.sleep", "0.5")
    supervisor.wait_for("sleeping")

    supervisor.send(signal.SIGKILL)

    wait_until_gone(children)
    assert aiotask("result", task_id).stdout == '"slept"\n'


def test_supervisor_replaces_a_child_when_it_has_run_its_limit_of_tasks(start: Start, aiotask: Run) -> None:
    supervisor = start("--processes", "2", "--max-tasks", "1")

    pids = [aiotask("call", "tasks.pid", "--wait").stdout for _ in range(4)]

    assert len(set(pids)) == 4
    supervisor.terminate()
    assert supervisor.wait() == 0


def test_supervisor_ends_when_its_children_have_nothing_to_do_in_burst(aiotask: Run, call: Call) -> None:
    ids = [call("tasks.add", "1", "2") for _ in range(3)]

    finished = aiotask("run", "tasks", "--processes", "2", "--burst")

    assert finished.returncode == 0
    assert finished.stderr.count("is ready") == 2
    assert all(f"{task_id}] succeeded" in finished.stderr for task_id in ids)


def test_supervisor_starts_nothing_when_the_broker_is_unreachable(aiotask: Run) -> None:
    finished = aiotask("run", "tasks", "--processes", "2", "--broker", "sqlite:////nowhere/tasks.db")

    assert finished.returncode == 69
    assert finished.stderr.count("Error:") == 1


def test_supervisor_gives_up_when_no_child_can_start(aiotask: Run) -> None:
    # The module tells its processes apart: it can be imported in the supervisor alone.
    finished = aiotask("run", "picky", "--processes", "2", "--app-dir", "../picky_project")

    assert finished.returncode == 3
    assert "not in a child" in finished.stderr


def test_supervisor_takes_its_number_of_processes_from_the_settings(start: Start) -> None:
    supervisor = start(ready=False, AIOTASK_WORKER_PROCESSES="2")

    supervisor.wait_for("is ready", count=2)
    assert len(supervisor.children()) == 2
