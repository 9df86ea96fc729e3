"""Whatever a task raises or returns, it ends its own message only: the caller learns of it, and the worker goes on."""

import asyncio
import dataclasses
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pydantic
import pytest

from aiotask import AioTask, EncodeError, Ignore, RemoteError
from aiotask.message import QueueDepth


class Declined(Exception):
    """An exception with a constructor of its own."""

    def __init__(self, code: int, *, hint: str = "") -> None:
        super().__init__(f"declined with {code}")


class Picky(Exception):
    def __init__(self) -> None:
        super().__init__("from nothing")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no str")

    __repr__ = __str__


class Deadly(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class Argless(Exception):
    args = None  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class OfItsOwnKind(BaseException):
    pass


class OtherGroup(ExceptionGroup[Exception]):
    pass


RAISED: list[tuple[BaseException, type[BaseException], str]] = [
    # what is raised, the class that the caller sees, its name
    (ValueError("x", 1), ValueError, "ValueError"),
    (AssertionError("x"), AssertionError, "AssertionError"),
    (MemoryError(), MemoryError, "MemoryError"),
    (RecursionError("x"), RecursionError, "RecursionError"),
    (StopAsyncIteration("x"), StopAsyncIteration, "StopAsyncIteration"),
    (UserWarning("x"), UserWarning, "UserWarning"),
    (Declined(5), Declined, "Declined"),
    (Picky(), Picky, "Picky"),
    (Frozen(5), Frozen, "Frozen"),
    (Mute("x"), Mute, "Mute"),
    (Deadly("x"), Deadly, "Deadly"),
    (Mute(object()), RemoteError, "RemoteError"),
    (Deadly(object()), RemoteError, "RemoteError"),
    (Argless(5), RemoteError, "RemoteError"),
    (ValueError(object()), RemoteError, "RemoteError"),
    (OSError("no file 'caf\udce9'"), RemoteError, "RemoteError"),
    (SystemExit(3), RemoteError, "SystemExit"),
    (KeyboardInterrupt(), RemoteError, "KeyboardInterrupt"),
    (GeneratorExit(), RemoteError, "GeneratorExit"),
    (asyncio.CancelledError("x"), RemoteError, "CancelledError"),
    (OfItsOwnKind("x"), RemoteError, "OfItsOwnKind"),
    (ExceptionGroup("many", [ValueError(1), Mute(2)]), RemoteError, "RemoteError"),
    (OtherGroup("many", [ValueError(1)]), RemoteError, "RemoteError"),
    (BaseExceptionGroup("many", [SystemExit(1)]), RemoteError, "RemoteError"),
]


@pytest.fixture(params=["coroutine", "thread", "loop"])
def make(request: pytest.FixtureRequest, app: AioTask) -> Callable[..., Any]:
    """Make a task of a plain function, to be run in each of the ways that there are."""

    def make(function: Callable[[], Any], **options: Any) -> Any:
        async def coroutine() -> Any:
            await asyncio.sleep(0)
            return function()

        if request.param == "coroutine":
            return app.task(name="proj.t", **options)(coroutine)
        return app.task(name="proj.t", offload=request.param, **options)(function)

    return make


async def worker_goes_on(app: AioTask, depth: Callable[..., Awaitable[QueueDepth]]) -> None:
    """See that the one slot is free, in a thread and on the loop, and that nothing is held."""

    @app.task(name="proj.after")
    async def after() -> str:
        return "fine"

    @app.task(name="proj.after_in_a_thread")
    def after_in_a_thread() -> str:
        return "fine"

    assert await (await after.delay()).get(timeout=10) == "fine"
    assert await (await after_in_a_thread.delay()).get(timeout=10) == "fine"
    found = await depth()
    assert found.ready + found.delayed == 0


async def test_exception_ends_its_own_message_only(
    app: AioTask, make: Callable[..., Any], depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    """One after the other in one worker, which goes on after each."""
    at = iter(RAISED)

    def body() -> None:
        exc, _, _ = next(at)
        raise exc

    task = make(body)
    async with app.worker(concurrency=1, threads=1):
        for exc, seen_as, name in RAISED:
            result = await task.delay()
            with pytest.raises(seen_as) as raised:
                await result.get(timeout=10)
            assert type(raised.value).__name__ == name, type(exc)
            assert await result.state() == "FAILURE", type(exc)
            assert "raise exc" in (await result.traceback() or ""), type(exc)
        await worker_goes_on(app, depth)


async def test_stop_iteration_ends_its_own_message_only(
    app: AioTask, make: Callable[..., Any], depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    def body() -> None:
        raise StopIteration("x")

    task = make(body)
    async with app.worker(concurrency=1, threads=1):
        # Python itself makes a RuntimeError of it where a coroutine stands around.
        with pytest.raises((StopIteration, RuntimeError), match=r"x|StopIteration"):
            await (await task.delay()).get(timeout=10)
        await worker_goes_on(app, depth)


class Unreadable(pydantic.BaseModel):
    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def loaded(self) -> str:
        raise RuntimeError("lazily loaded, and gone")


def loop() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(100_000):
        made = [made]
    return made


NO_RESULTS: list[Any] = [
    object(),
    [1, {"a": object()}],
    lambda: None,
    iter([1]),
    1j,
    "\ud800",
    {(1, 2): 3},
    ValueError("returned, not raised"),
    Unreadable(),
    loop(),
    deep(),
]


async def test_result_that_can_not_be_serialised_fails_its_own_message_only(
    app: AioTask, make: Callable[..., Any], depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    at = iter(NO_RESULTS)
    task = make(lambda: next(at))
    async with app.worker(concurrency=1, threads=1):
        for value in NO_RESULTS:
            result = await task.delay()
            with pytest.raises(EncodeError, match="Can't serialise"):
                await result.get(timeout=10)
            assert await result.state() == "FAILURE", type(value)
        await worker_goes_on(app, depth)


async def test_result_that_can_not_be_serialised_is_not_retried(app: AioTask) -> None:
    runs = []

    @app.task(autoretry_for=(Exception,), default_retry_delay=0)
    async def run() -> object:
        runs.append(1)
        return object()

    async with app.worker():
        with pytest.raises(EncodeError):
            await (await run.delay()).get(timeout=10)
    assert runs == [1]


async def test_result_that_can_not_be_serialised_does_no_harm_when_it_is_ignored(app: AioTask) -> None:
    @app.task(ignore_result=True, acks_late=True)
    async def run() -> object:
        return object()

    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert await result.state() == "PENDING"


async def test_body_that_cancels_itself_ends_its_own_message_only(
    app: AioTask, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    @app.task
    async def cancel_and_wait() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        await asyncio.sleep(0)

    @app.task
    async def cancel_and_return() -> str:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        return "returned"

    async with app.worker(concurrency=1):
        with pytest.raises(RemoteError) as raised:
            await (await cancel_and_wait.delay()).get(timeout=10)
        assert type(raised.value).__name__ == "CancelledError"
        assert await (await cancel_and_return.delay()).get(timeout=10) == "returned"
        await worker_goes_on(app, depth)


@pytest.mark.parametrize("exc", [ValueError("handler's"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("plain", [False, True])
async def test_handler_s_error_is_logged_and_changes_nothing_else(
    app: AioTask, caplog: pytest.LogCaptureFixture, exc: BaseException, plain: bool
) -> None:
    called: list[str] = []

    def note(name: str) -> Any:
        def handler(self: Any, *args: Any) -> None:
            called.append(name)
            raise exc

        async def coroutine(self: Any, *args: Any) -> None:
            handler(self)

        return handler if plain else coroutine

    class Run(app.Task):  # type: ignore[name-defined,misc]
        name = "proj.run"
        before_start, on_success, after_return = (note(n) for n in ("before_start", "on_success", "after_return"))

        async def run(self) -> int:
            return 5

    async with app.worker(concurrency=1):
        assert await (await app.tasks["proj.run"].delay()).get(timeout=10) == 5
    assert called == ["before_start", "on_success", "after_return"]
    for name in called:
        assert f"The handler {name} of task proj.run failed" in caplog.text


async def test_task_runs_though_its_class_can_not_be_hashed(app: AioTask) -> None:
    @dataclasses.dataclass
    class Run(app.Task):  # type: ignore[name-defined,misc]
        name = "proj.run"

        async def run(self) -> int:
            return 5

    async with app.worker():
        assert await (await app.tasks["proj.run"].delay()).get(timeout=10) == 5


async def test_class_that_only_the_worker_has_is_shown_by_its_name(app: AioTask) -> None:
    class WorkersOwn(Exception):
        pass

    @app.task
    async def fail() -> None:
        raise WorkersOwn("why", 5)

    async with app.worker():
        with pytest.raises(RemoteError) as raised:
            await (await fail.delay()).get(timeout=10)
    assert type(raised.value).__name__ == "WorkersOwn"
    assert raised.value.args == ("why", 5)


async def test_remote_traceback_is_a_note_that_begins_in_the_task_s_own_code(app: AioTask) -> None:
    def deeper() -> None:
        raise ValueError("here")

    @app.task
    async def fail() -> None:
        try:
            raise KeyError("the cause")
        except KeyError as exc:
            raise ValueError("outer") from exc

    @app.task
    def fail_in_a_thread() -> None:
        deeper()

    async with app.worker():
        with pytest.raises(ValueError, match="outer") as raised:
            await (await fail.delay()).get(timeout=10)
        [note] = raised.value.__notes__
        assert "KeyError: 'the cause'" in note
        assert "direct cause" in note
        with pytest.raises(ValueError, match="here") as raised:
            await (await fail_in_a_thread.delay()).get(timeout=10)
        [note] = raised.value.__notes__
    assert "in deeper" in note
    assert "aiotask/worker" not in note


async def test_chained_exceptions_are_told_in_their_order(app: AioTask) -> None:
    @app.task
    async def fail() -> None:
        try:
            try:
                raise LookupError("the first")
            except LookupError:
                raise ValueError("while that was handled")  # noqa: B904 - its context is what is told
        except ValueError as exc:
            raise RuntimeError("from that") from exc

    async with app.worker():
        result = await fail.delay()
        with pytest.raises(RuntimeError, match="from that") as raised:
            await result.get(timeout=10)
        [note] = raised.value.__notes__
        assert note.strip().startswith("Remote traceback:\n")
        assert (await result.traceback() or "").strip() in note
    told = [
        "LookupError: the first",
        "During handling of the above exception, another exception occurred",
        "ValueError: while that was handled",
        "The above exception was the direct cause of the following exception",
        "RuntimeError: from that",
    ]
    places = [note.index(text) for text in told]
    assert places == sorted(places)


async def test_notes_are_told_with_the_traceback(app: AioTask) -> None:
    @app.task
    def fail() -> None:
        error = ValueError("no account")
        error.add_note("asked for by George")
        raise error

    async with app.worker():
        with pytest.raises(ValueError, match="no account") as raised:
            await (await fail.delay()).get(timeout=10)
    [note] = raised.value.__notes__
    assert note.endswith("ValueError: no account\nasked for by George")


async def test_group_is_told_with_all_that_it_holds(app: AioTask) -> None:
    @app.task
    async def fail() -> None:
        async def part(number: int) -> None:
            raise ValueError(f"part {number}")

        async with asyncio.TaskGroup() as group:
            for number in range(2):
                group.create_task(part(number))

    async with app.worker():
        with pytest.raises(RemoteError, match=r"ExceptionGroup\('unhandled errors in a TaskGroup'") as raised:
            await (await fail.delay()).get(timeout=10)
    [note] = raised.value.__notes__
    for told in ("ExceptionGroup: unhandled errors in a TaskGroup", "ValueError: part 0", "ValueError: part 1"):
        assert told in note


async def test_nothing_is_imported_or_called_because_a_result_says_so(app: AioTask) -> None:
    """Whoever can write to the result store names a module that nobody has imported, and things that are no errors."""

    @app.task(bind=True)
    async def pretend(self: Any, module: str, name: str) -> None:
        record = {"exc_type": name, "exc_message": ["import os"], "exc_module": module}
        self.update_state("FAILURE", record)
        raise Ignore

    async with app.worker():
        for module, name in [
            ("antigravity", "Error"),
            ("os", "system"),
            ("builtins", "exec"),
            ("builtins", "SystemExit"),
        ]:
            with pytest.raises(RemoteError) as raised:
                await (await pretend.delay(module, name)).get(timeout=10)
            assert (type(raised.value).__name__, raised.value.args) == (name, ("import os",))
    assert "antigravity" not in sys.modules


async def test_same_failure_can_be_raised_again_and_its_note_is_there_once(app: AioTask) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("x")

    async with app.worker():
        result = await fail.delay()
        for _ in range(2):
            with pytest.raises(ValueError, match="x") as raised:
                await result.get(timeout=10)
            assert len(raised.value.__notes__) == 1


async def test_unexpected_failure_is_one_error_with_its_traceback(
    app: AioTask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.fail")
    async def fail() -> None:
        raise ValueError("unexpected")

    with caplog.at_level(logging.INFO, "aiotask"):
        async with app.worker():
            result = await fail.delay()
            await result.get(timeout=10, propagate=False)
    [record] = [record for record in caplog.records if result.id in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert f"proj.fail[{result.id}] failed" in record.getMessage()
    assert "ValueError: unexpected" in record.getMessage()
    assert "Traceback (most recent call last)" in record.getMessage()


async def test_expected_failure_is_one_line_of_information_without_traceback(
    app: AioTask, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="proj.fail", throws=(LookupError,))
    async def fail() -> None:
        raise KeyError("expected")

    with caplog.at_level(logging.INFO, "aiotask"):
        async with app.worker():
            result = await fail.delay()
            with pytest.raises(KeyError):
                await result.get(timeout=10)
            assert await result.traceback() is not None
    [record] = [record for record in caplog.records if result.id in record.getMessage()]
    assert record.levelno == logging.INFO
    assert "KeyError: 'expected'" in record.getMessage()
    assert "\n" not in record.getMessage()
