"""`aiotask call` and `aiotask result`, against a worker process."""

import json
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest
from tests.processes import WorkerProcess
from tests.servers.redis import free_port

Run = Callable[..., "CompletedProcess[str]"]


@pytest.mark.usefixtures("worker")
def test_call_prints_the_value_alone_when_it_waits(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.add", "2", "-3", "--wait")

    assert (finished.returncode, finished.stdout) == (0, "-1\n")
    assert "Sent tasks.add as " in finished.stderr


@pytest.mark.usefixtures("worker")
def test_call_sends_json_where_arguments_parse_as_json_else_text(aiotask: Run) -> None:
    arguments = ("[1, 2]", "null", "a b", "1.5", '"7"', "-1e3", "--kwarg", "k=true", "--kwarg", "t=x=y")

    finished = aiotask("call", "tasks.echo", *arguments, "--wait")

    assert json.loads(finished.stdout) == [[[1, 2], None, "a b", 1.5, "7", -1000.0], {"k": True, "t": "x=y"}]


@pytest.mark.usefixtures("worker")
def test_call_prints_id_state_and_result_when_json_and_wait_are_given(aiotask: Run) -> None:
    document = json.loads(aiotask("call", "tasks.add", "2", "3", "--wait", "--json").stdout)

    assert set(document) == {"id", "state", "result"}
    assert (document["state"], document["result"]) == ("SUCCESS", 5)


def test_call_prints_the_id_alone_when_it_does_not_wait(aiotask: Run) -> None:
    plain = aiotask("call", "tasks.add", "2", "3")
    document = json.loads(aiotask("call", "tasks.add", "2", "3", "--json").stdout)

    assert plain.stdout.strip().isalnum()
    assert plain.stderr == ""
    assert set(document) == {"id"}


@pytest.mark.usefixtures("worker")
def test_call_exits_1_with_type_message_and_remote_traceback_when_the_task_fails(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.divide", "1", "0", "--wait")

    assert (finished.returncode, finished.stdout) == (1, "")
    assert "ZeroDivisionError: division by zero" in finished.stderr
    assert "Remote traceback:" in finished.stderr
    assert "return x / y" in finished.stderr


@pytest.mark.usefixtures("worker")
def test_call_prints_the_failure_as_json_when_asked_to(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.divide", "1", "0", "--wait", "--json")

    document = json.loads(finished.stdout)
    assert finished.returncode == 1
    assert document["state"] == "FAILURE"
    assert document["result"]["exc_type"] == "ZeroDivisionError"
    assert document["result"]["exc_message"] == ["division by zero"]


def test_call_exits_1_and_says_how_to_go_on_when_the_timeout_passes(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.add", "1", "2", "--wait", "--timeout", "0.1")

    assert finished.returncode == 1
    assert "its state is PENDING" in finished.stderr
    assert "aiotask result " in finished.stderr


def test_call_holds_a_task_back_when_a_countdown_is_given(aiotask: Run, call: Callable[..., str]) -> None:
    call("tasks.add", "1", "2", "--countdown", "1h", "--queue", "later")

    assert json.loads(aiotask("queues", "--json").stdout) == [
        {"name": "later", "ready": 0, "delayed": 1, "parked": 0, "reserved": 0, "dead": 0}
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tasks.add", "1"), "missing a required argument: 'y'"),
        (("tasks.add", "1", "x"), "argument `y`: Expected `int`, got `str`"),
        (("tasks.forget", "--wait"), "ignores its result"),
    ],
)
def test_call_sends_nothing_when_the_app_knows_better(aiotask: Run, arguments: tuple[str, ...], says: str) -> None:
    finished = aiotask("call", "--app", "tasks", *arguments)

    assert finished.returncode == 2
    assert says in finished.stderr
    assert json.loads(aiotask("queues", "--json").stdout) == []


def test_call_sends_with_a_hint_when_the_app_has_no_such_task(aiotask: Run) -> None:
    finished = aiotask("call", "--app", "tasks", "tasks.ad", "1")

    assert finished.returncode == 0
    assert "Did you mean 'tasks.add'?" in finished.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("tasks.add", "--kwarg", "x"),
        ("tasks.add", "--kwarg", "x=1", "--kwarg", "x=2"),
        ("tasks.add", "--timeout", "1"),
        ("tasks.add", "--countdown", "soon"),
        ("tasks.add", "--countdown", "-1"),
        ("tasks.add", "--unknown"),
        ("tasks.add", "--queue", ""),
        ("",),
        (),
    ],
)
def test_call_exits_2_when_it_is_used_wrongly(aiotask: Run, arguments: tuple[str, ...]) -> None:
    finished = aiotask("call", *arguments)

    assert finished.returncode == 2
    assert "Error: " in finished.stderr
    assert "Traceback" not in finished.stderr


def test_call_tells_how_a_keyword_argument_is_written(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.add", "--x=2")

    assert finished.returncode == 2
    assert "No such option '--x'. A keyword argument of the task is written --kwarg x=VALUE." in finished.stderr
    assert "written --kwarg" not in aiotask("call", "tasks.add", "--wiat").stderr


def test_call_exits_2_when_the_message_is_too_large(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.echo", "x" * 2000, AIOTASK_MESSAGE_MAX_BYTES="1000")

    assert finished.returncode == 2
    assert "message_max_bytes" in finished.stderr


def test_call_exits_69_and_names_the_url_and_its_origin_when_the_broker_is_unreachable(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.add", "--broker", "sqlite:////nowhere/at/all.db")

    assert finished.returncode == 69
    assert "the folder /nowhere/at does not exist" in finished.stderr
    assert "sqlite:////nowhere/at/all.db (origin: command line)" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("url", ["memory://", "redos://x", "redis://user:secret@host/none"])
def test_call_exits_78_and_shows_no_password_when_the_broker_can_not_be_used(aiotask: Run, url: str) -> None:
    finished = aiotask("call", "tasks.add", "--broker", url)

    assert finished.returncode == 78
    assert "secret" not in finished.stderr
    assert "Traceback" not in finished.stderr


def test_call_exits_69_and_shows_no_password_when_nothing_listens_there(aiotask: Run) -> None:
    port = free_port()
    finished = aiotask("call", "tasks.add", "--broker", f"redis://user:secret@127.0.0.1:{port}/0")

    assert finished.returncode == 69
    assert f"redis://user:***@127.0.0.1:{port}/0" in finished.stderr
    assert "secret" not in finished.stderr
    assert "Traceback" not in finished.stderr


def test_call_exits_78_when_the_environment_has_an_unknown_setting(aiotask: Run) -> None:
    finished = aiotask("call", "tasks.add", AIOTASK_BROKER_ULR="sqlite:///x.db")

    assert finished.returncode == 78
    assert "Did you mean 'broker_url'?" in finished.stderr


@pytest.mark.usefixtures("worker")
def test_result_prints_the_value_when_it_waits(aiotask: Run, call: Callable[..., str]) -> None:
    task_id = call("tasks.add", "2", "3")

    waited = aiotask("result", task_id, "--wait")
    asked = aiotask("result", task_id, "--json")

    assert (waited.returncode, waited.stdout) == (0, "5\n")
    assert json.loads(asked.stdout) == {"id": task_id, "state": "SUCCESS", "result": 5}


def test_result_exits_1_and_says_pending_when_the_id_is_unknown(aiotask: Run) -> None:
    plain, as_json = aiotask("result", "nobody"), aiotask("result", "nobody", "--json")

    assert (plain.returncode, plain.stdout) == (1, "")
    assert "Task nobody is PENDING" in plain.stderr
    assert json.loads(as_json.stdout) == {"id": "nobody", "state": "PENDING", "result": None}


def test_result_exits_1_when_the_task_has_failed(aiotask: Run, call: Callable[..., str], worker: WorkerProcess) -> None:
    task_id = call("tasks.divide", "1", "0")
    worker.wait_for(rf"{task_id}\] failed")

    finished = aiotask("result", task_id, "--wait", "--timeout", "20")

    assert finished.returncode == 1
    assert "ZeroDivisionError" in finished.stderr
