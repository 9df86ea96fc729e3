"""The command line on RabbitMQ: what it tells where the server tells it, and what it does."""

import json
import re
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.processes import WorkerProcess
from tests.servers.rabbitmq import RabbitServer

Run = Callable[..., "CompletedProcess[str]"]
Call = Callable[..., str]
Depths = Callable[[], dict[str, Any]]


@pytest.fixture
def env(shared_rabbit: RabbitServer, vhost: str) -> dict[str, str]:
    """Each command here has an empty virtual host for its broker, and its results over `rpc://`."""
    return {"AIOTASK_BROKER_URL": shared_rabbit.url(vhost)}


@pytest.fixture
def depths(aiotask: Run) -> Depths:
    """Returns what each queue holds."""
    return lambda: {queue.pop("name"): queue for queue in json.loads(aiotask("queues", "--json").stdout)}


def depth(**counts: int) -> dict[str, int]:
    return {"ready": 0, "delayed": 0, "parked": 0, "reserved": 0, "dead": 0} | counts


@pytest.fixture
def dead_id(aiotask: Run, call: Call) -> str:
    """The id of a message that has become a dead letter."""
    task_id = call("tasks.missing", "1", "two", "--kwarg", "three=[3]")
    finished = aiotask("run", "tasks", "--burst")
    assert finished.returncode == 0, finished.stderr
    return task_id


# ---- calling ----


def test_call_waits_for_a_result_that_comes_over_rpc(aiotask: Run, worker: WorkerProcess) -> None:
    assert worker.running
    finished = aiotask("call", "tasks.add", "2", "3", "--wait", "--timeout", "20", "--json")
    answer = json.loads(finished.stdout)
    assert (finished.returncode, answer["state"], answer["result"]) == (0, "SUCCESS", 5)


def test_call_waits_for_a_delayed_task(aiotask: Run, worker: WorkerProcess) -> None:
    assert worker.running
    finished = aiotask("call", "tasks.add", "2", "3", "--countdown", "0.5", "--wait", "--timeout", "20")
    assert (finished.returncode, finished.stdout) == (0, "5\n")


def test_call_shows_the_error_of_a_task_that_failed(aiotask: Run, worker: WorkerProcess) -> None:
    assert worker.running
    finished = aiotask("call", "tasks.divide", "1", "0", "--wait", "--timeout", "20")
    assert finished.returncode == 1
    assert "ZeroDivisionError" in finished.stderr


def test_result_says_who_can_be_asked_when_results_go_to_the_caller_alone(aiotask: Run, call: Call) -> None:
    task_id = call("tasks.add", "1", "2")
    finished = aiotask("result", task_id)
    assert (finished.returncode, finished.stdout) == (69, "")
    assert f"The result of task {task_id} does not come here: with rpc:// only the process" in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_result_is_shown_when_results_are_stored(
    aiotask: Run, call: Call, start: Callable[..., WorkerProcess], redis_server: Any, env: dict[str, str]
) -> None:
    env["AIOTASK_RESULT_BACKEND"] = redis_server.url()
    start()
    task_id = call("tasks.add", "1", "2")
    finished = aiotask("result", task_id, "--wait", "--timeout", "20")
    assert (finished.returncode, finished.stdout) == (0, "3\n")


def test_check_and_config_name_both_places(aiotask: Run, env: dict[str, str]) -> None:
    masked = env["AIOTASK_BROKER_URL"].replace(":guest@", ":***@")
    finished = aiotask("check", "tasks")
    assert finished.returncode == 0
    assert f"ok: the broker {masked} can be reached" in finished.stdout
    assert "ok: the result backend rpc:// can be reached (origin: what the broker implies)" in finished.stdout
    shown = aiotask("config").stdout
    assert masked in shown
    assert env["AIOTASK_BROKER_URL"] not in shown


# ---- several processes ----


def test_processes_share_the_work_and_end_together(
    aiotask: Run, call: Call, start: Callable[..., WorkerProcess]
) -> None:
    workers = start("--processes", "2", "-c", "1", "-n", "both")
    children = set(workers.children())
    assert len(children) == 2
    for _ in range(2):
        call("tasks.sleep", "0.5")
    workers.wait_for("sleeping", count=2)
    seen = {int(aiotask("call", "tasks.pid", "--wait", "--timeout", "20").stdout) for _ in range(3)}
    assert seen <= children
    workers.terminate()
    assert workers.wait() == 0
    assert re.search(r"both-1@\S+", workers.output)
    assert re.search(r"both-2@\S+", workers.output)


# ---- looking at queues ----


def test_queues_shows_what_is_ready_and_what_is_dead(aiotask: Run, call: Call, dead_id: str, depths: Depths) -> None:
    """What is delayed or handed out, AMQP does not tell (docs/rabbitmq.md)."""
    assert dead_id
    call("tasks.add", "1", "2", "--queue", "mail")
    call("tasks.add", "1", "2", "--queue", "mail")
    call("tasks.add", "1", "2", "--countdown", "60")
    assert depths() == {"default": depth(dead=1), "mail": depth(ready=2)}
    assert [line.split() for line in aiotask("queues").stdout.splitlines()][1:] == [
        ["default", "0", "0", "0", "0", "1"],
        ["mail", "2", "0", "0", "0", "0"],
    ]


def test_queues_says_so_on_stderr_when_nothing_is_held(aiotask: Run) -> None:
    finished = aiotask("queues")
    assert finished.returncode == 0
    assert "No queue holds anything." in finished.stderr
    assert json.loads(aiotask("queues", "-Q", "a,b", "--json").stdout) == [
        {"name": "a", **depth()},
        {"name": "b", **depth()},
    ]


def test_purge_drops_what_waits_in_the_named_queues_and_leaves_dead_letters(
    aiotask: Run, call: Call, dead_id: str, depths: Depths
) -> None:
    assert dead_id
    for queue in ("a", "b", "c"):
        call("tasks.add", "--queue", queue)
    assert aiotask("purge", "-Q", "a,b", "--yes").stdout == "2 messages dropped from the queues a, b.\n"
    assert aiotask("purge", "--all", "--yes").stdout == "1 messages dropped from all queues.\n"
    assert depths() == {"default": depth(dead=1)}


# ---- dead letters ----


def test_dead_list_and_show_tell_of_a_letter(aiotask: Run, dead_id: str) -> None:
    header, row = aiotask("dead", "list").stdout.splitlines()
    assert header.split() == ["ID", "QUEUE", "TASK", "REASON", "DIED", "DETAIL"]
    assert row.split()[:4] == [dead_id, "default", "tasks.missing", "NotRegistered"]
    document = json.loads(aiotask("dead", "show", dead_id, "--json").stdout)
    assert (document["args"], document["kwargs"]) == ([1, "two"], {"three": [3]})
    assert json.loads(aiotask("dead", "list", "-Q", "other", "--json").stdout) == []


@pytest.mark.parametrize("which", [(), ("--all",), ("-Q", "default")])
def test_dead_replay_puts_a_letter_back(aiotask: Run, dead_id: str, which: tuple[str, ...], depths: Depths) -> None:
    finished = aiotask("dead", "replay", *(which or (dead_id,)))
    assert (finished.returncode, finished.stdout) == (0, f"{dead_id}\n"), finished.stderr
    assert depths() == {"default": depth(ready=1)}


def test_dead_replay_lets_a_worker_run_it_when_it_has_the_task_by_then(
    aiotask: Run, call: Call, start: Callable[..., WorkerProcess]
) -> None:
    task_id = call("late.greet", '"you"')
    assert aiotask("run", "tasks", "--burst").returncode == 0
    assert aiotask("dead", "replay", task_id).returncode == 0
    worker = start("--app-dir", "../late_project", target="late")
    worker.wait_for(f"late.greet.*{task_id}")
    assert json.loads(aiotask("dead", "list", "--json").stdout) == []


def test_dead_purge_drops_dead_letters_for_good(aiotask: Run, dead_id: str, depths: Depths) -> None:
    assert dead_id
    assert aiotask("dead", "purge", "-Q", "other", "--yes").stdout.startswith("0 ")
    assert aiotask("dead", "purge", "--all", "--yes").stdout == "1 dead letters dropped from all queues.\n"
    assert depths() == {}


def test_dead_exits_1_with_a_clear_line_when_the_id_is_unknown(aiotask: Run) -> None:
    finished = aiotask("dead", "replay", "nobody")
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("Error: There is no dead letter of nobody on amqp://guest:***@")
