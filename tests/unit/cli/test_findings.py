import functools
from collections.abc import Callable
from typing import Any

import pytest

from aiotask import AioTask
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
    for name, offload in (("a", "thread"), ("b", "loop"), ("c", "thread")):
        app.task(name=name, offload=offload)(made(1))

    assert told(app, "ok")[1:] == [
        "2 plain functions, run in threads: a, c",
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


@pytest.mark.parametrize("names", [[], ["b", "a"]])
def test_astray_names_the_tasks_of_the_default_app(names: list[str]) -> None:
    assert [finding.level for finding in astray(names)] == ["warning"] * bool(names)
    assert all(finding.what.endswith(": a, b") for finding in astray(names))


def test_tasks_warn_when_there_are_none(app: AioTask) -> None:
    [finding] = of_tasks(app, [])

    assert isinstance(finding, Finding)
    assert finding.level == "warning"
