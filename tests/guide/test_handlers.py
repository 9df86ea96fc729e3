"""Handlers run around the body in the worker; what they raise is logged and changes nothing else."""

import logging
import threading
from typing import Any

import pytest

from aiotask import AioTask, ArgumentError, Task, current_request


def recorder(app: AioTask, seen: list[tuple[Any, ...]]) -> type[Task]:
    class Recorder(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # plain: in a thread
            seen.append(("before_start", task_id == current_request().id, list(args), kwargs))

        async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            seen.append(("on_success", task_id == current_request().id, retval))

        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("on_failure", repr(exc), einfo.exception is exc, "in body" in str(einfo)))

        async def on_retry(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("on_retry", repr(exc), str(einfo) == einfo.traceback))

        def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append(("after_return", status, repr(retval), einfo is None))

    return Recorder


async def test_handlers_see_a_success(app: AioTask) -> None:
    seen: list[tuple[Any, ...]] = []

    @app.task(base=recorder(app, seen))
    async def body(x: int, *, y: int) -> int:
        seen.append(("body",))
        return x + y

    async with app.worker():
        assert await (await body.delay(1, y=2)).get(timeout=10) == 3
    assert seen == [
        ("before_start", True, [1], {"y": 2}),
        ("body",),
        ("on_success", True, 3),
        ("after_return", "SUCCESS", "3", True),
    ]


async def test_handlers_see_a_retry_and_then_a_failure(app: AioTask) -> None:
    seen: list[tuple[Any, ...]] = []

    @app.task(base=recorder(app, seen), autoretry_for=(KeyError,), retry_kwargs={"max_retries": 1, "countdown": 0.01})
    def body() -> None:
        raise KeyError("gone")

    async with app.worker():
        with pytest.raises(KeyError):
            await (await body.delay()).get(timeout=10)
    before = ("before_start", True, [], {})
    assert seen == [
        before,
        ("on_retry", "KeyError('gone')", True),
        before,
        ("on_failure", "KeyError('gone')", True, True),
        ("after_return", "FAILURE", "KeyError('gone')", False),
    ]


@pytest.mark.parametrize("handler", ["before_start", "on_success", "after_return"])
@pytest.mark.parametrize("plain", [True, False])
async def test_handler_that_raises_is_logged_and_changes_nothing(
    app: AioTask, caplog: pytest.LogCaptureFixture, handler: str, plain: bool
) -> None:
    def broken(self: Task, *_: Any) -> None:
        raise RuntimeError("handler trouble")

    async def broken_too(self: Task, *_: Any) -> None:
        raise RuntimeError("handler trouble")

    base = type("Broken", (app.Task,), {"abstract": True, handler: broken if plain else broken_too})

    @app.task(base=base, name="proj.body")
    async def body() -> int:
        return 1

    with caplog.at_level(logging.ERROR, "aiotask.worker"):
        async with app.worker():
            assert await (await body.delay()).get(timeout=10) == 1
    [record] = caplog.records
    assert record.getMessage() == f"The handler {handler} of task proj.body failed"
    assert "handler trouble" in str(record.exc_info)


@pytest.mark.parametrize("plain", [True, False])
async def test_handlers_of_a_failure_that_raise_are_logged_and_change_nothing(
    app: AioTask, caplog: pytest.LogCaptureFixture, plain: bool
) -> None:
    def broken(self: Task, *_: Any) -> None:
        raise RuntimeError("handler trouble")

    async def broken_too(self: Task, *_: Any) -> None:
        raise RuntimeError("handler trouble")

    handler = broken if plain else broken_too
    base = type("Broken", (app.Task,), {"abstract": True, "on_retry": handler, "on_failure": handler})

    @app.task(base=base, name="proj.body", autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0)
    async def body() -> None:
        raise KeyError("the body's own")

    with caplog.at_level(logging.ERROR, "aiotask.worker"):
        async with app.worker():
            result = await body.delay()
            with pytest.raises(KeyError, match="the body's own"):
                await result.get(timeout=10)
            assert (await result.meta()).retries == 1
    said = [record.getMessage() for record in caplog.records if record.exc_info]
    assert said == [
        "The handler on_retry of task proj.body failed",
        "The handler on_failure of task proj.body failed",
    ]


async def test_handlers_run_in_an_eager_execution_too(app: AioTask) -> None:
    seen: list[tuple[Any, ...]] = []

    @app.task(base=recorder(app, seen))
    def body() -> int:
        return 5

    assert await (await body.apply()) == 5
    assert [call[0] for call in seen] == ["before_start", "on_success", "after_return"]
    assert all(call[1] is True for call in seen[:2])


async def test_execute_stands_around_the_execution(app: AioTask) -> None:
    class Doubling(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        async def execute(self, request: Any, call_next: Any) -> Any:
            return 2 * await call_next(request) + len(request.args)

    @app.task(base=Doubling)
    def body(x: int) -> int:
        return x

    async with app.worker():
        assert await (await body.delay(5)).get(timeout=10) == 11


async def test_handlers_get_arguments_as_they_came_when_they_do_not_fit(app: AioTask) -> None:
    seen: list[tuple[Any, ...]] = []

    class Watching(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            seen.append((type(exc), args, kwargs, str(einfo)))

        async def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
        ) -> None:
            seen.append((status, args, kwargs))

    @app.task(base=Watching, name="proj.half", typing=False)
    async def half(x: int, *, y: int = 0) -> None: ...

    async with app.worker():
        with pytest.raises(ArgumentError):
            await (await half.delay("four", y=1)).get(timeout=10)
    why = "aiotask.exceptions.ArgumentError: proj.half: argument `x`: Expected `int`, got `str`.\n"
    assert seen == [(ArgumentError, ["four"], {"y": 1}, why), ("FAILURE", ["four"], {"y": 1})]


async def test_plain_handlers_never_run_on_the_event_loop(app: AioTask) -> None:
    seen: dict[str, bool] = {}

    class Watched(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        def before_start(self, *_: Any) -> None:
            seen["plain"] = threading.current_thread() is threading.main_thread()

        async def after_return(self, *_: Any) -> None:
            seen["async"] = threading.current_thread() is threading.main_thread()

    @app.task(base=Watched)
    async def body() -> None: ...

    async with app.worker():
        await (await body.delay()).get(timeout=10)
    assert seen == {"plain": False, "async": True}
