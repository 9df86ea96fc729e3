"""What an execution knows of itself, and that nobody else's request is ever seen."""

import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime
from typing import Any

from aiotask.message import Delivery, TaskMessage
from aiotask.request import Request, current_request, find_current, reset_current, set_current

# Celery's names and ours, as the contract lists them.
FIELDS = (
    *("id", "task", "args", "kwargs", "retries", "is_eager", "called_directly", "group", "taskset", "chord", "chain"),
    *("root_id", "parent_id", "eta", "expires", "utc", "hostname", "logfile", "loglevel", "delivery_info", "headers"),
    *("properties", "reply_to", "correlation_id", "callbacks", "errbacks", "timelimit", "time_limit"),
    *("soft_time_limit", "children", "origin", "priority"),
)


def sent(**fields: Any) -> Request:
    """Return the request of a message with these fields."""
    message = TaskMessage("proj.t", "id-1", b"[[], {}]", **fields)
    delivery = Delivery("id-1", "mail", b"", "application/x", 3, receipt=1, delivery_count=2)
    return Request(message, delivery, hostname="web@host", args=[1], kwargs={"a": 2})


def test_request_has_every_field_of_the_contract_inside_and_outside_an_execution() -> None:
    for request in (sent(), Request()):
        assert [name for name in FIELDS if not hasattr(request, name)] == []


def test_request_tells_what_the_message_says() -> None:
    request = sent(retries=2, root_id="root", parent_id="parent", origin="gen1@host", headers={"a": 1}, priority=3)
    assert (request.id, request.task, request.correlation_id) == ("id-1", "proj.t", "id-1")
    assert (request.args, request.kwargs, request.retries) == ([1], {"a": 2}, 2)
    assert (request.root_id, request.parent_id, request.origin) == ("root", "parent", "gen1@host")
    assert (request.headers, request.priority, request.hostname) == ({"a": 1}, 3, "web@host")
    assert not request.called_directly
    assert not request.is_eager


def test_request_is_its_own_root_when_nobody_sent_it() -> None:
    assert sent().root_id == "id-1"
    assert sent().parent_id is None


def test_request_shows_moments_as_aware_datetimes() -> None:
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    request = sent(eta=moment.timestamp(), expires=moment.timestamp() + 60)
    assert request.eta == moment
    assert request.expires == moment.replace(minute=1)
    assert request.eta.tzinfo is UTC
    assert sent().eta is sent().expires is None


def test_request_tells_how_the_message_came() -> None:
    assert sent().delivery_info == {
        "exchange": "",
        "routing_key": "mail",
        "queue": "mail",
        "redelivered": True,
        "delivery_count": 2,
        "priority": 3,
    }


def test_request_shows_what_is_to_be_seen_in_place_of_name_and_arguments() -> None:
    assert (sent().shadow, sent().argsrepr, sent().kwargsrepr) == (None, "(1,)", "{'a': 2}")
    given = sent(shadow="other", argsrepr="(...)", kwargsrepr="{\n}")
    assert (given.shadow, given.argsrepr, given.kwargsrepr) == ("other", "(...)", r"{\n}")
    assert (Request().shadow, Request().argsrepr, Request().kwargsrepr) == (None, "()", "{}")


def test_request_tells_the_exchange_that_the_message_came_by() -> None:
    info = sent(via=("media", "media.video")).delivery_info
    assert (info["exchange"], info["routing_key"], info["queue"]) == ("media", "media.video", "mail")


def test_request_says_so_when_there_is_no_execution() -> None:
    request = Request()
    assert request.called_directly
    assert request.id is request.root_id is request.task is request.parent_id is request.eta is None
    assert (request.retries, request.headers, request.children) == (0, {}, [])
    assert request.delivery_info["queue"] is None
    assert current_request().called_directly
    assert find_current() is None


def test_request_tells_the_level_of_the_tasks_loggers_as_a_number() -> None:
    logger = logging.getLogger("aiotask.task")
    before = logger.level
    try:
        logger.setLevel(logging.WARNING)
        assert sent().loglevel == 30
    finally:
        logger.setLevel(before)


def test_request_names_task_and_id_in_its_repr() -> None:
    assert repr(sent()) == "<Request: proj.t[id-1]>"
    assert repr(Request()) == "<Request: called directly>"


def test_request_reports_to_whoever_runs_it_and_to_nobody_in_a_direct_call() -> None:
    reported: list[Any] = []
    execution = object()
    request = Request(TaskMessage("t", "1", b""), report=lambda *what: reported.append(what), execution=execution)
    request.report("PROGRESS", {"n": 1})
    assert reported == [(execution, "PROGRESS", {"n": 1})]
    Request().report("PROGRESS", {})


def test_children_are_each_request_s_own() -> None:
    one, other = sent(), sent()
    one.children.append("child")
    assert other.children == []


async def test_current_request_is_each_asyncio_task_s_own_and_that_of_what_it_starts() -> None:
    async def child() -> Request:
        await asyncio.sleep(0)
        return current_request()

    async def execution(request: Request, all_set: asyncio.Barrier) -> list[Request]:
        set_current(request)
        await all_set.wait()
        started = asyncio.create_task(child())
        return [current_request(), await child(), await started, await asyncio.to_thread(current_request)]

    requests = [sent() for _ in range(3)]
    all_set = asyncio.Barrier(3)
    seen = await asyncio.gather(*(execution(request, all_set) for request in requests))
    for request, own in zip(requests, seen, strict=True):
        assert all(found is request for found in own)
    assert current_request().called_directly


def test_current_request_is_not_seen_by_a_thread_that_was_given_no_context() -> None:
    found: list[Request | None] = []

    def execution() -> None:
        set_current(sent())
        bare = threading.Thread(target=lambda: found.append(find_current()))
        bare.start()
        bare.join()

    contextvars.copy_context().run(execution)
    assert found == [None]


def test_current_request_is_the_former_one_after_reset() -> None:
    def execution() -> None:
        outer = sent()
        set_current(outer)
        token = set_current(None)
        assert current_request().called_directly
        reset_current(token)
        assert current_request() is outer

    contextvars.copy_context().run(execution)
