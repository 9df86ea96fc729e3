import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

from aiotask import AioTask, Queue
from aiotask.cli.findings import Finding, astray, facts, of_settings, of_tasks


class Opaque: ...


@pytest.fixture
def app() -> AioTask:
    return AioTask("proj", broker="sqlite:////x.db")


def told(app: AioTask, level: str = "warning") -> list[str]:
    findings = of_tasks(app, [facts(task) for task in app.tasks.values()])
    return [finding.what for finding in findings if finding.level == level]


def made(number: int) -> Callable[[], int]:
    def task() -> int:
        return number

    return task


def test_settings_are_silent_when_nothing_is_amiss(app: AioTask) -> None:
    assert list(of_settings(app)) == []


def test_settings_warn_once_when_broker_and_results_are_both_in_memory() -> None:
    [finding] = of_settings(AioTask("x", broker="memory://"))

    assert finding.level == "warning"
    assert finding.what.startswith("the broker memory:// (origin: argument)")


def test_settings_warn_when_results_alone_are_in_memory() -> None:
    [finding] = of_settings(AioTask("x", broker="sqlite:////x.db", backend="memory://"))

    assert finding.what.startswith("the result backend memory:// (origin: argument)")


def test_tasks_name_the_parameters_that_are_not_checked(app: AioTask) -> None:
    @app.task(name="t", bind=True)
    async def t(self: Any, number: int, opaque: Opaque, missing: "Missing") -> None: ...  # noqa: F821

    said = "is neither checked nor converted"
    assert told(app) == [
        f"t: argument `opaque` {said}: {__name__}.Opaque is no type that values can be made of",
        f"t: argument `missing` {said}: Missing is not defined",
    ]


def test_tasks_hold_an_error_when_an_annotation_raises(app: AioTask) -> None:
    @app.task(name="t")
    async def t(x: "1 / 0") -> None: ...

    [error] = told(app, "error")

    assert error == "t: its signature can't be read, so every call fails (ZeroDivisionError: division by zero)"


def test_tasks_name_plain_functions_by_where_they_run(app: AioTask) -> None:
    for name, offload in (("a", "thread"), ("b", "loop"), ("c", "thread"), ("d", "process")):
        app.task(name=name, offload=offload)(made(1))

    assert told(app, "ok")[1:] == [
        "2 plain functions, run in threads: a, c",
        "1 plain function, run in other processes: d",
        "1 plain function, run on the event loop, which stands still meanwhile: b",
    ]


def test_tasks_are_cut_when_they_are_many(app: AioTask) -> None:
    for number in range(25):
        app.task(name=f"{number:02}")(made(number))

    assert told(app, "ok")[0].startswith("25 tasks: 00, 01, ")
    assert told(app, "ok")[0].endswith(", 19 and 5 more")


def test_tasks_warn_when_one_function_is_several(app: AioTask) -> None:
    function = made(1)
    app.task(name="a")(function)
    app.task(name="b")(function)

    assert told(app) == ["the same function is several tasks: a, b"]


def test_tasks_are_fine_when_they_share_a_factory_a_decorator_or_a_body(app: AioTask) -> None:
    def logged(function: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(function)
        def wrapper() -> Any:
            return function()

        return wrapper

    def first() -> None: ...
    def second() -> None: ...

    class Base(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        def run(self) -> None: ...

    class A(Base): ...

    class B(Base): ...

    second.__module__ = "elsewhere"
    for name, function in (("a", made(1)), ("b", made(2)), ("c", logged(first)), ("d", logged(second))):
        app.task(name=name)(function)

    assert len(app.tasks) == 6
    assert told(app) == []


def test_tasks_name_their_queues_when_there_are_several(app: AioTask) -> None:
    app.conf.update(
        task_queues=["default", Queue("a", "news", exchange_type="fanout"), Queue("b", "news"), "idle"],
        task_routes={"t2": {"exchange": "news"}},
    )
    for name in ("t1", "t2"):
        app.task(name=name)(made(1))

    assert told(app, "ok")[2:] == [
        "tasks go to the queues default, a, b, idle; a worker without -Q takes from default, a, b, idle",
        "the queue default gets t1",
        "the queue a gets t2",
        "the queue b gets t2",
        "the queue idle gets no task of this app",
    ]


def test_tasks_warn_of_queues_that_no_worker_takes_from_by_itself(app: AioTask) -> None:
    app.conf.update(task_queues=["web"], task_routes={"t": "mail"})
    app.task(name="t")(made(1))
    app.task(name="u")(made(2))

    assert told(app) == [
        "the queue mail is not in task_queues: no worker takes from it but with -Q mail",
        "the queue default is not in task_queues: no worker takes from it but with -Q default",
    ]


def test_tasks_leave_open_what_a_function_decides(app: AioTask) -> None:
    app.conf.task_routes = [{"t1": "mail"}, lambda *_, **__: None]
    for name, queue in (("t1", None), ("t2", None), ("t3", "web")):
        app.task(name=name, queue=queue)(made(1))

    assert "the queue mail gets t1" in told(app, "ok")
    assert "the queue web gets t3" in told(app, "ok")
    assert "a function in task_routes decides at each call: t2" in told(app, "ok")


@pytest.mark.parametrize(("mandatory", "level"), [(False, "warning"), (True, "error")])
def test_tasks_name_what_reaches_no_queue(app: AioTask, mandatory: bool, level: str) -> None:
    app.conf.task_queues = ["default", Queue("videos", "media", "video")]
    app.task(name="t", exchange="media", routing_key="vidoe", mandatory=mandatory)(made(1))

    [said] = told(app, level)

    start = "t can't be sent: " if mandatory else "t goes to default, since it would reach no queue: "
    assert said == (
        f"{start}No queue is bound to the exchange 'media' for the routing key 'vidoe'; there are 'video' (the queue "
        "'videos')."
    )


def test_tasks_warn_of_routes_that_match_none(app: AioTask) -> None:
    app.conf.task_routes = {"feed.taks.*": "feeds", "feed.tasks.fetch": "feeds", re.compile("x+"): "x"}
    app.task(name="feed.tasks.fetch")(made(1))

    said = "and no task here is called so: right only for tasks of other programs that this one sends by name."
    assert told(app) == [
        f"task_routes routes 'feed.taks.*', {said} Did you mean 'feed.tasks.fetch'?",
        f"task_routes routes 'x+', {said}",
    ]


def test_tasks_warn_of_annotations_of_none(app: AioTask) -> None:
    app.conf.task_annotations = {"*": {}, "shop.ad": {"priority": 1}}
    app.task(name="shop.add")(made(1))

    assert told(app) == [
        "task_annotations lays options over 'shop.ad', and no task here is called so. Did you mean 'shop.add'?"
    ]


@pytest.mark.parametrize("names", [[], ["b", "a"]])
def test_astray_names_the_tasks_of_the_default_app(names: list[str]) -> None:
    assert [finding.level for finding in astray(names)] == ["warning"] * bool(names)
    assert all(finding.what.endswith(": a, b") for finding in astray(names))


def test_tasks_warn_when_there_are_none(app: AioTask) -> None:
    [finding] = of_tasks(app, [])

    assert isinstance(finding, Finding)
    assert finding.level == "warning"
