import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from aiotask.cli.logs import JsonFormatter, TextFormatter, name_the_task
from aiotask.message import TaskMessage
from aiotask.request import Request, reset_current, set_current


def record(message: str = "hello %s", *arguments: object, name: str = "own", **extra: Any) -> logging.LogRecord:
    made = logging.getLogger("x").makeRecord(
        name, logging.INFO, __file__, 1, message, arguments or ("you",), None, extra=extra
    )
    name_the_task(made)
    return made


@pytest.fixture
def running_task() -> Iterator[None]:
    token = set_current(Request(TaskMessage("proj.add", "the-id", b"")))
    yield
    reset_current(token)


def test_text_line_has_time_level_and_logger() -> None:
    time, rest = TextFormatter().format(record()).split(" INFO ")

    assert rest.strip() == "own: hello you"
    assert time[10] == " "
    assert "." in time


@pytest.mark.usefixtures("running_task")
def test_text_line_names_task_and_id_when_a_task_runs() -> None:
    assert TextFormatter().format(record()).endswith("own proj.add[the-id]: hello you")


@pytest.mark.usefixtures("running_task")
def test_text_line_names_the_task_that_the_record_names_when_it_does() -> None:
    line = TextFormatter().format(record(task="other", task_id="its-id"))

    assert line.endswith("own other[its-id]: hello you")


def test_text_line_names_no_task_when_the_record_says_that_there_is_none() -> None:
    assert TextFormatter().format(record(task=None, task_id=None)).endswith("own: hello you")


@pytest.mark.usefixtures("running_task")
def test_text_line_names_the_task_once_when_the_message_does() -> None:
    line = TextFormatter().format(record(name="aiotask.worker.tasks", task="other", task_id="its-id"))

    assert line.endswith("aiotask.worker.tasks: hello you")


@pytest.mark.usefixtures("running_task")
def test_text_line_names_no_task_when_asyncio_speaks_of_another() -> None:
    assert "proj.add" not in TextFormatter().format(record(name="asyncio"))


@pytest.mark.usefixtures("running_task")
def test_json_line_has_the_task_and_the_extras() -> None:
    document = json.loads(JsonFormatter().format(record(seconds=1.5, ts="mine")))

    assert document.pop("ts").endswith("+00:00")
    assert document == {
        "level": "INFO",
        "logger": "own",
        "message": "hello you",
        "task": "proj.add",
        "task_id": "the-id",
        "seconds": 1.5,
        "ts_": "mine",
    }


def test_json_line_has_no_task_when_none_runs() -> None:
    document = json.loads(JsonFormatter().format(record()))

    assert (document["task"], document["task_id"]) == (None, None)


def test_json_line_stays_one_line_when_there_is_a_traceback() -> None:
    made = record("two\nlines %s")
    try:
        raise ValueError("no\nway")
    except ValueError:
        made.exc_info = sys.exc_info()

    line = JsonFormatter().format(made)

    assert "\n" not in line
    assert "ValueError: no\nway" in json.loads(line)["exception"]


@pytest.mark.parametrize("extra", [object(), {object(): 1}, "half \ud800", float("nan"), {1, 2}])
def test_json_line_is_written_when_an_extra_has_no_json_form(extra: Any) -> None:
    document = json.loads(JsonFormatter().format(record(thing=extra)))

    assert "hello you" in document["message"]
    assert "thing" in document


def test_json_line_is_written_when_an_extra_contains_itself() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)

    assert json.loads(JsonFormatter().format(record(thing=cycle)))["thing"] == "[[...]]"
