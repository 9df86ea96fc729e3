"""A task can be a class: one instance per process, with what it has opened; or have a base that many share."""

import pytest

import aiotask
from aiotask import AioTask, AlreadyRegistered, ImproperlyConfigured, Task


async def test_class_is_registered_when_it_is_made_and_runs_as_one_instance(app: AioTask) -> None:
    class Authenticate(app.Task):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            self.users = {"george": "password"}
            self.calls = 0

        async def run(self, username: str, password: str) -> tuple[bool, int]:
            self.calls += 1
            return self.users.get(username) == password, self.calls

    authenticate = app.tasks[Authenticate.name]
    assert Authenticate.name == f"{__name__}.Authenticate"
    async with app.worker():
        assert await (await authenticate.delay("george", "password")).get(timeout=10) == (True, 1)
        assert await (await authenticate.delay("george", "guess")).get(timeout=10) == (False, 2)
    assert await authenticate("george", "password") == (True, 3)


async def test_class_without_an_app_is_registered_by_hand(app: AioTask) -> None:
    class Double(Task):
        name = "proj.double"
        acks_late = True

        def run(self, x: int) -> int:
            return 2 * x

    double = app.register(Double)
    assert app.tasks["proj.double"] is double
    assert app.register(Double) is double
    assert double.acks_late is True
    async with app.worker():
        assert await (await double.delay(4)).get(timeout=10) == 8


async def test_instance_that_the_program_has_made_is_registered_as_it_is(app: AioTask) -> None:
    class Greet(Task):
        name = "proj.greet"

        def __init__(self, greeting: str) -> None:
            self.greeting = greeting

        async def run(self, who: str) -> str:
            return f"{self.greeting} {who}"

    greet = Greet("Hello")
    assert app.register(greet) is greet is app.tasks["proj.greet"]
    async with app.worker():
        assert await (await greet.delay("George")).get(timeout=10) == "Hello George"


async def test_decorated_class_becomes_its_instance(app: AioTask) -> None:
    @app.task(name="proj.seven", max_retries=1)
    class Seven(Task):
        async def run(self) -> int:
            return 7

    task = app.tasks["proj.seven"]
    assert Seven is task  # type: ignore[comparison-overlap]
    assert task.max_retries == 1
    async with app.worker():
        assert await (await task.delay()).get(timeout=10) == 7


def test_abstract_class_is_not_registered_and_its_subclass_is(app: AioTask) -> None:
    class Base(app.Task):  # type: ignore[name-defined,misc]
        abstract = True
        queue = "mail"

    class Send(Base):
        def run(self) -> None: ...

    assert list(app.tasks) == [Send.name]
    assert app.tasks[Send.name].queue == "mail"


async def test_function_gets_the_attributes_and_handlers_of_its_base(app: AioTask) -> None:
    seen = []

    class Watched(app.Task):  # type: ignore[name-defined,misc]
        abstract = True
        colour = "red"

        async def after_return(
            self, status: str, retval: object, task_id: str, args: object, kwargs: object, einfo: object
        ) -> None:
            seen.append((status, retval, task_id))

    @app.task(base=Watched, bind=True, size=3)
    async def paint(self: Task) -> str:
        return f"{self.colour} {self.size}"

    async with app.worker():
        result = await paint.delay()
        assert await result.get(timeout=10) == "red 3"
    assert seen == [("SUCCESS", "red 3", result.id)]


async def test_function_gets_the_handlers_of_a_base_that_has_no_app(app: AioTask) -> None:
    seen = []

    class Watched(Task):
        abstract = True
        max_retries = 7

        def on_success(self, retval: object, task_id: str, args: object, kwargs: object) -> None:
            seen.append((self.name, retval, task_id))

    @app.task(base=Watched, name="proj.paint")
    async def paint() -> str:
        return "red"

    assert paint.max_retries == 7
    async with app.worker():
        result = await paint.delay()
        assert await result.get(timeout=10) == "red"
    assert seen == [("proj.paint", "red", result.id)]


def test_abstract_is_not_inherited(app: AioTask) -> None:
    class Base(Task):
        abstract = True

    class Send(Base):
        def run(self) -> None: ...

    assert (Base.abstract, Send.abstract) == (True, False)


# Options


def test_options_have_these_values_when_nothing_says_otherwise(app: AioTask) -> None:
    task = app.task(name="proj.t")(lambda: None)
    assert (task.max_retries, task.default_retry_delay, task.throws, task.typing) == (3, 180, (), True)
    assert (task.autoretry_for, task.dont_autoretry_for, dict(task.retry_kwargs)) == ((), (), {})
    assert (task.retry_backoff, task.retry_backoff_max, task.retry_jitter) == (False, 600, True)
    assert (task.acks_late, task.acks_on_failure_or_timeout) == (False, True)
    assert (task.ignore_result, task.store_errors_even_if_ignored, task.track_started, task.trail) == (
        False,
        False,
        False,
        True,
    )
    assert (task.queue, task.priority, task.expires, task.offload) == (None, None, None, "thread")


@pytest.mark.parametrize("option", ["acks_late", "ignore_result", "store_errors_even_if_ignored", "track_started"])
def test_option_follows_its_setting_until_the_task_says_otherwise(app: AioTask, option: str) -> None:
    follows = app.task(name="proj.follows")(lambda: None)
    says_so = app.task(name="proj.says_so", **{option: False})(lambda: None)
    kind = type("OfAClass", (app.Task,), {"run": lambda _: None, "name": "proj.of_a_class", option: False})
    of_a_class = app.tasks[kind.name]
    setattr(app.conf, f"task_{option}", True)
    assert [getattr(task, option) for task in (follows, says_so, of_a_class)] == [True, False, False]
    setattr(says_so, option, True)
    assert getattr(says_so, option) is True


def test_option_is_an_attribute_of_the_class_or_an_argument_of_the_decorator(app: AioTask) -> None:
    class Fetch(app.Task):  # type: ignore[name-defined,misc]
        max_retries = None
        throws = (LookupError,)
        queue = "mail"

        def run(self) -> None: ...

    fetch = app.tasks[Fetch.name]
    again = app.task(name="proj.fetch", base=Fetch, max_retries=5)(lambda: None)
    assert (fetch.max_retries, fetch.throws, fetch.queue) == (None, (LookupError,), "mail")
    assert (again.max_retries, again.throws, again.queue) == (5, (LookupError,), "mail")


async def test_current_app_and_task_are_those_of_the_execution(app: AioTask) -> None:
    @app.task(bind=True)
    async def look(self: Task) -> bool:
        return aiotask.current_app() is app and aiotask.current_task() is self

    async with app.worker():
        assert await (await look.delay()).get(timeout=10) is True
    assert aiotask.current_task() is None
    assert aiotask.current_app() is aiotask.default_app


def test_class_without_run_is_refused(app: AioTask) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Nothing has no run\(\); define it, or say abstract = True"):

        class Nothing(app.Task):  # type: ignore[name-defined,misc]
            pass


def test_second_class_under_a_taken_name_is_refused(app: AioTask) -> None:
    class First(app.Task):  # type: ignore[name-defined,misc]
        name = "proj.taken"

        def run(self) -> None: ...

    with pytest.raises(AlreadyRegistered, match=r"Two tasks are called 'proj\.taken'"):

        class Second(app.Task):  # type: ignore[name-defined,misc]
            name = "proj.taken"

            def run(self) -> None: ...


@pytest.mark.parametrize("what", [object, 3, "x"])
def test_what_is_no_task_is_not_registered(app: AioTask, what: object) -> None:
    with pytest.raises(ImproperlyConfigured):
        app.register(what)  # type: ignore[type-var]


def test_subclass_of_a_task_is_a_task_of_its_own(app: AioTask) -> None:
    class First(app.Task):  # type: ignore[name-defined,misc]
        def run(self) -> int:
            return 1

    class Second(First):
        def run(self) -> int:
            return 2

    assert {First.name, Second.name} == set(app.tasks)
    assert (app.tasks[First.name].run(), app.tasks[Second.name].run()) == (1, 2)


def test_task_that_is_registered_again_stays_as_it_is(app: AioTask) -> None:
    task = app.task(name="proj.t", max_retries=7)(lambda: None)
    assert app.register(task) is task
    assert (dict(app.tasks), task.name, task.max_retries) == ({"proj.t": task}, "proj.t", 7)


def test_task_has_one_app(app: AioTask) -> None:
    task = app.task(name="proj.t")(lambda: None)
    other = AioTask("other", broker="memory://")
    with pytest.raises(ImproperlyConfigured, match=r"<Task: proj\.t> belongs to <AioTask: proj> already"):
        other.register(task)
    assert task.app is app
    assert dict(other.tasks) == {}


async def test_class_without_an_app_may_be_registered_with_several(app: AioTask) -> None:
    class Double(Task):
        name = "proj.double"

        async def run(self, x: int) -> int:
            return 2 * x

    other = AioTask("other", broker="memory://")
    here, there = app.register(Double), other.register(Double)
    assert here is not there
    assert (here.app, there.app) == (app, other)
    async with app.worker(), other.worker():
        assert await (await here.delay(4)).get(timeout=10) == await (await there.delay(4)).get(timeout=10) == 8
