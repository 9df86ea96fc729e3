"""`aiotask queues`, `purge` and `dead`."""

import asyncio
import json
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.processes import WorkerProcess

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink
from aiotask.message import Settlement

Run = Callable[..., "CompletedProcess[str]"]
Call = Callable[..., str]


@pytest.fixture
def depths(aiotask: Run) -> Callable[[], dict[str, Any]]:
    """Returns what each queue holds."""
    return lambda: {queue.pop("name"): queue for queue in json.loads(aiotask("queues", "--json").stdout)}


@pytest.fixture
def dead_id(aiotask: Run, call: Call) -> str:
    """The id of a message that has become a dead letter."""
    task_id = call("tasks.missing", "1", "two", "--kwarg", "three=[3]")
    assert aiotask("run", "tasks", "--burst").returncode == 0
    return task_id


def test_queues_shows_an_aligned_table_when_json_is_not_asked_for(aiotask: Run, call: Call) -> None:
    call("tasks.add", "1", "2")
    call("tasks.add", "1", "2", "--queue", "mail", "--countdown", "60")

    lines = aiotask("queues").stdout.splitlines()

    assert [line.split() for line in lines] == [
        ["NAME", "READY", "DELAYED", "PARKED", "RESERVED", "DEAD"],
        ["default", "1", "0", "0", "0", "0"],
        ["mail", "0", "1", "0", "0", "0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_queues_says_so_on_stderr_when_nothing_is_held(aiotask: Run) -> None:
    finished = aiotask("queues")

    assert finished.returncode == 0
    assert "No queue holds anything." in finished.stderr
    assert json.loads(aiotask("queues", "--json").stdout) == []


def test_queues_shows_an_empty_queue_when_it_is_named(aiotask: Run) -> None:
    assert json.loads(aiotask("queues", "-Q", "a,b", "--json").stdout)[1] == {
        "name": "b",
        "ready": 0,
        "delayed": 0,
        "parked": 0,
        "reserved": 0,
        "dead": 0,
    }


def test_queues_shows_what_is_parked_and_purge_drops_it(
    aiotask: Run, call: Call, depths: Callable[[], dict[str, Any]], env: dict[str, str]
) -> None:
    call("tasks.add", "1", "2")

    async def park() -> None:
        broker = SqliteBroker(SqliteLink(env["AIOTASK_BROKER_URL"].removeprefix("sqlite:///")))
        await broker.open()
        consumer = await broker.subscribe(["default"], consumer="c", lease=20.0, max_losses=3)
        (delivery,) = await consumer.receive(1, 5.0)
        await consumer.settle([Settlement(delivery, "park", line="tasks.add")])
        await broker.close()

    asyncio.run(park())

    assert aiotask("queues").stdout.splitlines()[1].split() == ["default", "0", "0", "1", "0", "0"]
    assert depths() == {"default": {"ready": 0, "delayed": 0, "parked": 1, "reserved": 0, "dead": 0}}
    assert aiotask("purge", "--all", "--yes").stdout == "1 messages dropped from all queues.\n"
    assert depths() == {}


def test_purge_drops_what_waits_in_the_named_queues_only(
    aiotask: Run, call: Call, depths: Callable[[], dict[str, Any]]
) -> None:
    for queue in ("a", "b", "c"):
        call("tasks.add", "--queue", queue)

    finished = aiotask("purge", "-Q", "a,b", "--yes")

    assert finished.stdout == "2 messages dropped from the queues a, b.\n"
    assert set(depths()) == {"c"}


@pytest.mark.usefixtures("dead_id")
def test_purge_leaves_dead_letters_when_it_drops_all(
    aiotask: Run, call: Call, depths: Callable[[], dict[str, Any]]
) -> None:
    call("tasks.add", "--countdown", "60")

    assert aiotask("purge", "--all", "--yes").stdout == "1 messages dropped from all queues.\n"
    assert depths() == {"default": {"ready": 0, "delayed": 0, "parked": 0, "reserved": 0, "dead": 1}}


@pytest.mark.parametrize("command", [("purge",), ("dead", "purge")])
def test_purge_exits_2_and_drops_nothing_when_nobody_can_be_asked(
    aiotask: Run, call: Call, depths: Callable[[], dict[str, Any]], command: tuple[str, ...]
) -> None:
    call("tasks.add")

    finished = aiotask(*command, "--all", stdin="y\n")

    assert finished.returncode == 2
    assert "--yes" in finished.stderr
    assert depths()["default"]["ready"] == 1


@pytest.mark.parametrize("command", [("purge",), ("dead", "purge"), ("dead", "replay")])
@pytest.mark.parametrize("which", [(), ("--all", "-Q", "a")])
def test_command_exits_2_when_it_is_not_clear_which_queues_are_meant(
    aiotask: Run, command: tuple[str, ...], which: tuple[str, ...]
) -> None:
    finished = aiotask(*command, *which, "--yes")

    assert finished.returncode == 2
    assert "--all" in finished.stderr


def test_dead_list_shows_reason_and_task_of_each_letter(aiotask: Run, dead_id: str) -> None:
    header, row = aiotask("dead", "list").stdout.splitlines()
    [document] = json.loads(aiotask("dead", "list", "--json").stdout)

    assert header.split() == ["ID", "QUEUE", "TASK", "REASON", "DIED", "DETAIL"]
    assert row.split()[:4] == [dead_id, "default", "tasks.missing", "NotRegistered"]
    assert document["id"] == dead_id
    assert document["reason"] == "NotRegistered"
    assert document["replayable"] is True


def test_dead_list_is_empty_when_another_queue_is_asked_for(aiotask: Run, dead_id: str) -> None:
    assert dead_id
    assert json.loads(aiotask("dead", "list", "-Q", "other", "--json").stdout) == []
    assert "There are no dead letters." in aiotask("dead", "list", "-Q", "other").stderr


def test_dead_show_prints_the_arguments_of_a_letter(aiotask: Run, dead_id: str) -> None:
    shown = aiotask("dead", "show", dead_id).stdout
    document = json.loads(aiotask("dead", "show", dead_id, "--json").stdout)

    assert 'args          [1, "two"]' in shown
    assert (document["args"], document["kwargs"]) == ([1, "two"], {"three": [3]})
    assert document["task"] == "tasks.missing"
    assert "No task 'tasks.missing' is registered" in document["detail"]


@pytest.mark.parametrize("command", ["show", "replay"])
def test_dead_exits_1_with_a_clear_line_when_the_id_is_unknown(aiotask: Run, command: str) -> None:
    finished = aiotask("dead", command, "nobody")

    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr.startswith("Error: There is no dead letter of nobody on sqlite:///")
    assert finished.stderr.count("\n") == 1


def test_dead_replay_resets_the_state_and_puts_the_letter_back(
    aiotask: Run, dead_id: str, depths: Callable[[], dict[str, Any]]
) -> None:
    assert json.loads(aiotask("result", dead_id, "--json").stdout)["state"] == "FAILURE"

    finished = aiotask("dead", "replay", dead_id)

    assert (finished.returncode, finished.stdout) == (0, f"{dead_id}\n")
    assert json.loads(aiotask("result", dead_id, "--json").stdout)["state"] == "PENDING"
    assert depths() == {"default": {"ready": 1, "delayed": 0, "parked": 0, "reserved": 0, "dead": 0}}


def test_dead_replay_puts_back_what_there_is_and_exits_1_when_an_id_is_unknown(aiotask: Run, dead_id: str) -> None:
    finished = aiotask("dead", "replay", dead_id, "nobody")

    assert (finished.returncode, finished.stdout) == (1, f"{dead_id}\n")
    assert "nobody" in finished.stderr


@pytest.mark.parametrize("which", [("--all",), ("-Q", "default"), ("--all", "--yes")])
def test_dead_replay_puts_back_every_letter_when_no_id_is_given(
    aiotask: Run, dead_id: str, which: tuple[str, ...]
) -> None:
    assert aiotask("dead", "replay", *which).stdout == f"{dead_id}\n"


def test_dead_replay_lets_a_worker_run_it_when_it_has_the_task_by_then(
    aiotask: Run, call: Call, start: Callable[..., WorkerProcess]
) -> None:
    task_id = call("late.greet", '"you"')
    assert aiotask("run", "tasks", "--burst").returncode == 0
    start("--app-dir", "../late_project", target="late")

    aiotask("dead", "replay", task_id)

    assert aiotask("result", task_id, "--wait", "--timeout", "20").stdout == '"Hello you"\n'


def test_dead_purge_drops_dead_letters_for_good(
    aiotask: Run, dead_id: str, depths: Callable[[], dict[str, Any]]
) -> None:
    assert dead_id
    assert aiotask("dead", "purge", "-Q", "other", "--yes").stdout.startswith("0 ")
    assert aiotask("dead", "purge", "--all", "--yes").stdout == "1 dead letters dropped from all queues.\n"
    assert depths() == {}
