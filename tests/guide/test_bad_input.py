"""An error says what is wrong, why, and what to do; where the mistake is made, not later."""

import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from aiotask import AioTask, AioTaskError, ArgumentError, EncodeError, ImproperlyConfigured, Task


@pytest.fixture
def app() -> AioTask:
    return AioTask("proj", broker="memory://")


def refusal(make: Callable[[], Any], kind: type[Exception] = ImproperlyConfigured) -> str:
    with pytest.raises(kind) as raised:
        make()
    return str(raised.value)


async def function() -> None: ...


# The app


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"task_ack_late": True},
            "unknown setting 'task_ack_late' = True (origin: argument). Did you mean 'task_acks_late'?",
        ),
        ({"CELERY_TASK_ACKS_LATE": True}, "Did you mean 'task_acks_late'?"),
        ({"task_acks_late": "yes please"}, "setting 'task_acks_late' must be "),
        ({"worker_concurrency": 0}, "setting 'worker_concurrency' must be a whole number of at least 1, not 0"),
        ({"worker_concurrency": "many"}, "not 'many' (origin: argument)"),
        ({"worker_lease": "soon"}, "setting 'worker_lease' must be "),
        ({"worker_lease": 3}, "setting 'worker_lease' must be longer than 'worker_lease_renewal'"),
        ({"imports": "proj.tasks"}, "setting 'imports' must be a list of text, such as ['proj.tasks', 'proj.mail']"),
        ({"broker": 5}, "setting 'broker_url' must be a URL as text"),
        ({"broker": "memroy://"}, "broker_url 'memroy://': unknown scheme; there are memory://"),
        ({"broker": "localhost:6379"}, "broker_url 'localhost:6379': unknown scheme; there are memory://"),
        ({"backend": "postgres://u:hunter2@host/x"}, "result_backend 'postgres://u:***@host/x': unknown scheme"),
    ],
)
def test_app_says_what_is_wrong_with_a_setting(settings: dict[str, Any], said: str) -> None:
    message = refusal(lambda: AioTask("proj", **settings))
    assert said in message
    assert "hunter2" not in message


def test_app_says_what_is_wrong_with_an_assignment(app: AioTask) -> None:
    def misspell() -> None:
        app.conf.worker_concurency = 5  # type: ignore[attr-defined]

    assert "Did you mean 'worker_concurrency'?" in refusal(misspell)


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite://relative.db", "sqlite:///:memory:", "sqlite:///x.db?mode=ro"])
async def test_app_shows_how_a_sqlite_url_is_written(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"sqlite:///|memory://|broker_transport_options"):
        async with AioTask("proj", broker=url):
            pass


@pytest.mark.parametrize("name", ["tasc", "__wrapped__", "shutdown"])
def test_app_says_that_it_has_no_such_member(app: AioTask, name: str) -> None:
    assert refusal(lambda: getattr(app, name), AttributeError) == f"AioTask has no attribute {name!r}."
    assert not hasattr(app, name)


# Tasks


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def without_arguments() -> None: ...


def with_keywords_only(*, x: int) -> None: ...


@pytest.mark.parametrize(
    ("define", "said"),
    [
        (lambda app: app.task(42), "42 is no function, and can't be a task."),
        (lambda app: app.task("proj.add"), "'proj.add' is no function, and can't be a task."),
        (lambda app: app.task(None, name="x")(None), "None is no function, and can't be a task."),
        (lambda app: app.task(generator), "generator is a generator, and can't be a task: nobody would iterate it."),
        (lambda app: app.task(async_generator), "nobody would iterate it."),
        (lambda app: app.task(functools.partial(function)), "has no name of its own; give it one by name=."),
        (lambda app: app.task(name=5)(function), "Task 5: name is 5; it takes a text."),
        (lambda app: app.task(name="")(function), "Task '': name is ''; it takes 1 to 255 printable characters."),
        (lambda app: app.task(bind=1)(function), "bind is 1; it takes True or False."),
        (
            lambda app: app.task(bind=True)(without_arguments),
            "without_arguments takes no argument, and bind=True gives",
        ),
        (
            lambda app: app.task(bind=True)(with_keywords_only),
            "with_keywords_only takes no argument, and bind=True gives",
        ),
        (lambda app: app.task(base=dict)(function), "base is <class 'dict'>; it takes a subclass of aiotask.Task."),
        (lambda app: app.task(base="Base")(function), "base is 'Base'; it takes a subclass of aiotask.Task."),
        (lambda app: app.task(dict), "dict is no subclass of Task; derive it from app.Task."),
        (lambda app: app.register(function), "is no Task; register takes a subclass of aiotask.Task or an instance."),
        (
            lambda app: app.register(type("Empty", (Task,), {})),
            "Empty has no run(); define it, or say abstract = True.",
        ),
        (
            lambda app: app.task(max_retries="three", name="proj.t")(function),
            "Task 'proj.t': option 'max_retries' is 'three'; it takes a whole number, 0 or more, or None for no limit.",
        ),
        (
            lambda app: app.task(autoretry_for="ValueError", name="proj.t")(function),
            "Task 'proj.t': option 'autoretry_for' is 'ValueError'; it takes an exception class, or a tuple of them.",
        ),
        (
            lambda app: app.task(retry_kwargs={"countdown": "5"}, name="proj.t")(function),
            "option 'retry_kwargs' is {'countdown': '5'}; it takes a mapping with max_retries or countdown (seconds).",
        ),
        (
            lambda app: app.task(ack_late=True, name="proj.t")(function),
            "Task 'proj.t': unknown option 'ack_late'. Did you mean 'acks_late'?",
        ),
        (
            lambda app: app.task(retry=5, name="proj.t")(function),
            "Task 'proj.t': 'retry' belongs to every task, and can't be an option; define it in a subclass of Task",
        ),
        (lambda app: app.task(on_failure=print)(function), "'on_failure' belongs to every task"),
        (lambda app: app.task(request={})(function), "'request' belongs to every task"),
        (lambda app: app.task(app=app)(function), "'app' belongs to every task"),
        (lambda app: app.task(run=print)(function), "'run' belongs to every task"),
    ],
)
def test_task_says_what_is_wrong_where_it_is_defined(app: AioTask, define: Callable[[AioTask], Any], said: str) -> None:
    assert said in refusal(lambda: define(app))
    assert dict(app.tasks) == {}


def test_class_says_what_is_wrong_where_it_is_defined(app: AioTask) -> None:
    def define() -> None:
        class Fetch(app.Task):  # type: ignore[name-defined,misc]
            name = "proj.fetch"
            priority = 17

            async def run(self) -> None: ...

    assert refusal(define).startswith("Task 'proj.fetch': option 'priority' is 17; it takes a whole number from 0")
    assert dict(app.tasks) == {}


def test_keyword_that_is_no_option_is_an_attribute_of_the_task(app: AioTask) -> None:
    colour = ["red"]
    task = app.task(colour_of_tea=colour)(function)
    assert task.colour_of_tea is colour


def test_task_says_that_it_has_no_such_member(app: AioTask) -> None:
    task = app.task(name="proj.t")(function)
    assert refusal(lambda: task.dealy, AttributeError) == "FunctionTask 'proj.t' has no attribute 'dealy'."


def test_result_says_that_it_has_no_such_member(app: AioTask) -> None:
    assert refusal(lambda: app.result("x").wait, AttributeError) == "AsyncResult has no attribute 'wait'."


# Workers


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "'worker_concurrency' must be a whole number of at least 1, not 0"),
        ({"concurrency": -1}, "'worker_concurrency' must be"),
        ({"concurrency": "ten"}, "'worker_concurrency' must be"),
        ({"threads": 0}, "'worker_threads' must be"),
        ({"max_tasks": 0}, "'worker_max_tasks' must be"),
        ({"shutdown_timeout": -1}, "'worker_shutdown_timeout' must be"),
        ({"shutdown_timeout": "soon"}, "'worker_shutdown_timeout' must be"),
        ({"name": ""}, "'worker_name' must be"),
        ({"queues": "mail"}, "queues is 'mail'; it takes a list of names, such as ['mail']."),
        ({"queues": ["mail", ""]}, "queues is ['mail', '']; it takes a list of names"),
        ({"queues": [5]}, "queues is [5]; it takes a list of names"),
    ],
)
def test_worker_says_what_is_wrong_before_it_starts(app: AioTask, options: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: app.worker(**options))


async def test_worker_takes_durations_as_settings_do(app: AioTask) -> None:
    async with app.worker(shutdown_timeout="5s", concurrency=1):
        pass


# Calls


class Crate:
    """Nothing that JSON has a form for."""


CRATE = f"{__name__}.Crate is not serialisable as JSON. Use plain values, a dataclass, a Struct or a Pydantic model."
SHIP = "proj.ship(order: int, to: str = '', what: Any = None) -> None"
NAIVE = datetime(2026, 3, 1, 12)  # noqa: DTZ001 - that is what is wrong with it


@pytest.mark.parametrize(
    ("args", "kwargs", "options", "kind", "said"),
    [
        (("one",), {}, {}, ArgumentError, "proj.ship: argument `order`: Expected `int`, got `str`."),
        ((1,), {"to": 5}, {}, ArgumentError, "proj.ship: argument `to`: Expected `str`, got `int`."),
        ((), {}, {}, ArgumentError, f"{SHIP}: missing a required argument: 'order'."),
        ((1, "x", None, 2), {}, {}, ArgumentError, f"{SHIP}: too many positional arguments."),
        ((1,), {"too": "x"}, {}, ArgumentError, f"{SHIP}: got an unexpected keyword argument 'too'."),
        (
            (1,),
            {},
            {"count_down": 5},
            TypeError,
            "proj.ship: apply_async takes no option 'count_down'. Did you mean 'countdown'?",
        ),
        (
            (1,),
            {},
            {"eta": NAIVE},
            ValueError,
            "eta is the naive datetime.datetime(2026, 3, 1, 12, 0); give it a time zone, e.g. datetime.now(UTC).",
        ),
        (
            (1,),
            {},
            {"expires": NAIVE},
            ValueError,
            "expires is the naive datetime.datetime(2026, 3, 1, 12, 0); give it a time zone, e.g. datetime.now(UTC).",
        ),
        ((1, "", Crate()), {}, {}, EncodeError, f"proj.ship: Can't serialise args[2] as JSON: {CRATE}"),
        (
            (1,),
            {"what": {"in": [Crate()]}},
            {},
            EncodeError,
            f"proj.ship: Can't serialise kwargs.what.in[0] as JSON: {CRATE}",
        ),
    ],
)
async def test_call_says_what_is_wrong_and_why_and_what_to_do(
    app: AioTask,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    options: dict[str, Any],
    kind: type[Exception],
    said: str,
) -> None:
    @app.task(name="proj.ship")
    async def ship(order: int, to: str = "", what: Any = None) -> None: ...

    with pytest.raises(kind) as raised:
        await ship.apply_async(args, kwargs, **options)
    assert str(raised.value) == said


# Bodies and handlers


async def test_result_says_which_part_of_it_could_not_be_serialised(app: AioTask) -> None:
    @app.task(name="proj.pack")
    async def pack() -> dict[str, Any]:
        return {"boxes": [1, Crate()]}

    async with app.worker():
        with pytest.raises(EncodeError) as raised:
            await (await pack.delay()).get(timeout=10)
    assert str(raised.value) == f"Can't serialise $.boxes[1] as JSON: {CRATE}"


class Picky(Exception):
    """Its constructor takes nothing of what its args hold."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"picky about {reason}")


class Changing(Exception):
    """Its constructor makes something else of its own args."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"changed: {reason}")


@pytest.mark.parametrize(
    ("exc", "said"), [(Picky(reason="x"), "picky about x"), (Changing("x"), "changed: x")], ids=["fails", "changes"]
)
async def test_exception_arrives_as_it_was_though_its_constructor_would_not_make_it_again(
    app: AioTask, exc: Exception, said: str
) -> None:
    @app.task
    async def fail() -> None:
        raise exc

    async with app.worker():
        with pytest.raises(type(exc)) as raised:
            await (await fail.delay()).get(timeout=10)
    assert (str(raised.value), raised.value.args) == (said, (said,))
    assert f"{type(exc).__name__}: {said}" in raised.value.__notes__[0]


async def test_handler_that_raises_is_named_with_its_task_and_its_traceback(
    app: AioTask, caplog: pytest.LogCaptureFixture
) -> None:
    class Pack(app.Task):  # type: ignore[name-defined,misc]
        name = "proj.pack"

        async def run(self) -> int:
            return 5

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            raise RuntimeError("no paper")

    async with app.worker():
        assert await (await app.tasks["proj.pack"].delay()).get(timeout=10) == 5
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage() == "The handler on_success of task proj.pack failed"
    assert "RuntimeError: no paper" in caplog.text
    assert "in on_success" in caplog.text


async def test_call_names_the_task_and_the_argument(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int, numbers: list[dict[str, int]]) -> None: ...

    with pytest.raises(ArgumentError) as raised:
        await add.delay(1, [{"a": 1}, {"a": "two"}])
    assert str(raised.value) == "proj.add: argument `numbers[1][...]`: Expected `int`, got `str`."


@pytest.mark.parametrize(
    ("send", "said"),
    [
        (lambda task: task.send_many(None), "proj.add: calls is None; it takes a list of tuples, one for each call."),
        (lambda task: task.send_many([1, 2]), "proj.add: args is 1; it takes a tuple or list, one item per argument."),
        (
            lambda task: task.app.send_task("proj.elsewhere", (1,), {2: 3}),
            "proj.elsewhere: kwargs is {2: 3}; the names of arguments are texts.",
        ),
        (lambda task: task.app.send_task(5), "name is 5; it takes a text."),
    ],
)
async def test_call_says_what_it_takes(app: AioTask, send: Callable[[Any], Any], said: str) -> None:
    task = app.task(name="proj.add")(function)
    with pytest.raises(TypeError) as raised:
        await send(task)
    assert str(raised.value) == said


def test_result_is_asked_for_by_a_text(app: AioTask) -> None:
    assert refusal(lambda: app.result(5), TypeError) == "task_id is 5; it takes a text."  # type: ignore[arg-type]
    assert refusal(lambda: app.result(""), ValueError) == "task_id is ''; it takes 1 to 255 printable characters."


async def test_result_is_waited_for_so_many_seconds(app: AioTask) -> None:
    for timeout in ("5", timedelta(seconds=5)):
        with pytest.raises(TypeError, match="it takes seconds as a number, or None to wait for ever"):
            await app.result("x").get(timeout=timeout)  # type: ignore[arg-type]
    await app.close()


async def test_worker_is_waited_for_once_it_runs(app: AioTask) -> None:
    with pytest.raises(AioTaskError, match=r"was not started: write `async with app\.worker\(\) as worker:`"):
        await app.worker().wait()


async def test_result_that_can_not_be_serialised_is_one_line_of_the_log(
    app: AioTask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.pack")
    async def pack() -> Any:
        return Crate()

    async with app.worker():
        result = await pack.delay()
        with pytest.raises(EncodeError):
            await result.get(timeout=10)
        assert await result.traceback() is None
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage().startswith(f"Task proj.pack[{result.id}] failed after ")
    assert record.getMessage().endswith(f": EncodeError: Can't serialise $ as JSON: {CRATE}")
