"""The quickstart example: the demo as `make demo` runs it, and the two terminals of its README."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
PATIENCE_S = 25.0


@pytest.fixture(scope="module")
def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, QUICKSTART / "demo.py"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(params=["sqlite", "redis"])
def broker_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_url"))
    return f"sqlite:///{tmp_path}/aiotask.db"


@pytest.fixture
def environment(broker_url: str) -> dict[str, str]:
    return clean_environment() | {"AIOTASK_BROKER_URL": broker_url}


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    with aiotask("run", "tasks", environment=environment) as process:
        yield process
        process.kill()


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AIOTASK_")}


def aiotask(*arguments: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "aiotask", *arguments], cwd=QUICKSTART, env=environment)


def output_of(*arguments: str, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=QUICKSTART,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_demo_succeeds_when_run_as_make_demo_does(demo: subprocess.CompletedProcess[str]) -> None:
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert demo.stderr == ""
    assert demo.stdout.endswith("Every result was right.\n")


def test_demo_shows_who_sent_and_who_executed_when_it_runs(demo: subprocess.CompletedProcess[str]) -> None:
    senders = set(re.findall(r"^  sender +(\d+) \|", demo.stdout, re.MULTILINE))
    workers = set(re.findall(r"^  worker +(\d+) \|", demo.stdout, re.MULTILINE))
    executors = set(re.findall(r"counted by process (\d+)", demo.stdout))

    assert len(senders) == 1
    assert len(workers) == 2
    assert executors < workers
    assert not senders & workers


@pytest.mark.parametrize(
    "line",
    [
        r"sender .* the result is 5",
        r"worker .* tasks\.add\[\w+\] succeeded",
        r"sender .* 1229 primes",
        r"worker .* tasks\.fetch_forecast\[\w+\] is retried after",
        r"sender .* the result is 'sunny in Oslo'",
        r"sender .* raised ZeroDivisionError\('division by zero'\)",
        r"sender .* Remote traceback:",
        r"sender .* PROGRESS: \{'washed': \d, 'of': 3\}",
        r"sender .* SUCCESS: 3 dishes washed",
        r"worker .* Stopping: 1 running tasks get",
        r"sender .* the result is '6 dishes washed', the worker's exit code 0",
        r"sender .* the result is 42, the worker's exit code 0",
    ],
)
def test_demo_shows_both_sides_when_it_runs(demo: subprocess.CompletedProcess[str], line: str) -> None:
    assert re.search(line, demo.stdout), demo.stdout


def test_demo_runs_on_another_broker_when_one_is_named(redis_url: str) -> None:
    told = output_of("demo.py", redis_url, environment=clean_environment())
    assert f"|   broker   {redis_url}\n" in told
    assert told.endswith("Every result was right.\n")


def test_demo_says_so_in_one_line_when_the_worker_does_not_start(tmp_path: Path) -> None:
    # The demo's own process has the module, its worker runs another program instead of Python.
    program = (
        f"import runpy, sys; sys.path.insert(0, {str(QUICKSTART)!r}); sys.executable = {shutil.which('false')!r}; "
    )
    program += f"runpy.run_path({str(QUICKSTART / 'demo.py')!r}, run_name='__main__')"

    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert finished.returncode == 1
    assert finished.stderr.strip() == "The demo failed: the worker ended with exit code 1 before it was ready"


def test_demo_leaves_no_worker_behind_when_interrupted() -> None:
    with subprocess.Popen(
        # What starts the tests in the background may ignore SIGINT, and who is started inherits that.
        ["env", "--default-signal=INT", sys.executable, "-u", QUICKSTART / "demo.py"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        worker = next(int(match[1]) for line in process.stdout if (match := re.search(r"worker +(\d+) \|", line)))
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(PATIENCE_S) != 0

    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


@pytest.mark.usefixtures("worker")
def test_send_prints_the_sum_when_a_worker_runs(environment: dict[str, str]) -> None:
    assert output_of("send.py", environment=environment).endswith("2 + 3 = 5\n")


@pytest.mark.usefixtures("worker")
def test_call_prints_the_result_when_it_waits_for_a_worker(environment: dict[str, str]) -> None:
    called = output_of("-m", "aiotask", "call", "tasks.add", "2", "3", "--wait", environment=environment)

    assert called == "5\n"


def test_sent_task_waits_when_no_worker_runs_yet(environment: dict[str, str]) -> None:
    task_id = output_of("-m", "aiotask", "call", "tasks.add", "2", "3", environment=environment).strip()

    with aiotask("run", "tasks", "--burst", environment=environment) as worker:
        assert worker.wait(PATIENCE_S) == 0
    assert output_of("-m", "aiotask", "result", task_id, environment=environment).strip() == "5"
