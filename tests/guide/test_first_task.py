"""A task is a function with a decorator; a worker runs it; its result is awaited."""

import asyncio
import functools
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aiotask import AioTask, ArgumentError, Task


async def test_task_runs_in_a_worker_and_its_result_is_awaited(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await add.delay(2, 3)
        assert await result.get(timeout=10) == 5
        assert await result == 5


async def test_coroutine_runs_on_the_event_loop(app: AioTask) -> None:
    @app.task
    async def where() -> tuple[int, bool]:
        return threading.get_ident(), asyncio.get_running_loop() is loop

    loop = asyncio.get_running_loop()
    async with app.worker():
        assert await (await where.delay()).get(timeout=10) == (threading.get_ident(), True)


async def test_plain_function_runs_in_a_thread_and_never_blocks_the_loop(app: AioTask) -> None:
    loop_has_moved = threading.Event()

    @app.task
    def wait_for_the_loop() -> bool:
        return loop_has_moved.wait(10) and threading.current_thread() is not threading.main_thread()

    async with app.worker():
        result = await wait_for_the_loop.delay()
        asyncio.get_running_loop().call_soon(loop_has_moved.set)
        assert await result.get(timeout=10) is True


async def test_plain_function_runs_on_the_loop_when_it_promises_not_to_block(app: AioTask) -> None:
    @app.task(offload="loop")
    def where() -> int:
        return threading.get_ident()

    async with app.worker():
        assert await (await where.delay()).get(timeout=10) == threading.get_ident()


async def test_plain_wrapper_of_a_coroutine_function_is_awaited(app: AioTask) -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    @app.task
    def wrapper(x: int):  # type: ignore[no-untyped-def]
        return double(x)

    async with app.worker():
        assert await (await wrapper.delay(4)).get(timeout=10) == 8


async def test_hundred_tasks_run_at_once(app: AioTask) -> None:
    everybody = asyncio.Barrier(100)

    @app.task
    async def meet(number: int) -> int:
        await everybody.wait()
        return number

    async with app.worker():
        results = await asyncio.gather(*(meet.delay(number) for number in range(100)))
        assert await asyncio.gather(*(result.get(timeout=10) for result in results)) == list(range(100))


async def test_no_more_tasks_run_at_once_than_the_worker_s_concurrency(app: AioTask) -> None:
    running, most = 0, 0

    @app.task
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await asyncio.sleep(0)
        running -= 1

    async with app.worker(concurrency=3):
        for result in await count.send_many([()] * 20):
            await result.get(timeout=10)
    assert most == 3


async def test_call_is_the_function_s_own_when_the_task_is_called(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        """Add."""
        assert add.request.called_directly
        return x + y

    @app.task
    def subtract(x: int, y: int) -> int:
        return x - y

    assert await add(2, 3) == 5
    assert subtract(5, 3) == 2
    assert add.__doc__ == "Add."
    assert repr(add) == f"<Task: {add.name}>"


async def test_call_warns_that_nothing_was_sent_when_it_is_not_awaited(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    with pytest.warns(
        RuntimeWarning, match=r"'proj\.add\.delay \(the task was NOT sent: await it\)' was never awaited"
    ):
        add.delay(2, 3)
    with pytest.warns(RuntimeWarning, match=r"'proj\.add\.apply_async \(the task was NOT sent: await it\)'"):
        add.apply_async((2, 3))


async def test_task_waits_for_a_worker_when_there_is_none_yet(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    result = await add.delay(2, 3)
    assert await result.state() == "PENDING"
    async with app.worker():
        assert await result.get(timeout=10) == 5


def test_module_without_an_app_uses_the_default_one_configured_by_the_environment() -> None:
    program = """
import asyncio, aiotask
from aiotask import default_app, task

@task
async def whose() -> bool:
    return aiotask.current_app() is default_app and whose.app is default_app

async def main():
    async with default_app.worker():
        print(await (await whose.delay()).get(timeout=10), whose.name, aiotask.current_app() is default_app)

asyncio.run(main())
"""
    environment = {"AIOTASK_BROKER_URL": "memory://"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "True __main__.whose True\n"


async def test_other_ways_to_send_warn_too_when_they_are_not_awaited(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    ways: dict[str, Callable[[], Any]] = {
        r"'proj\.add\.send_many \(the task was NOT sent: await it\)'": lambda: add.send_many([(2, 3)]),
        r"'proj\.sub\.send_task \(the task was NOT sent: await it\)'": lambda: app.send_task("proj.sub", (2, 3)),
    }
    for said, forget_to_await in ways.items():
        with pytest.warns(RuntimeWarning, match=said):
            forget_to_await()


async def test_decorators_below_the_tasks_are_run_by_the_worker(app: AioTask) -> None:
    seen = []

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def logging(*args: Any, **kwargs: Any) -> Any:
            seen.append((function.__name__, args))
            return await function(*args, **kwargs)

        return logging

    @app.task
    @logged
    async def double(x: int) -> int:
        return 2 * x

    @app.task(bind=True)
    @logged
    async def bound(self: Task, x: int) -> int:
        return x + self.request.retries

    assert double.name == f"{__name__}.double"
    async with app.worker():
        assert await (await double.delay(4)).get(timeout=10) == 8
        assert await (await bound.delay(4)).get(timeout=10) == 4
    assert seen == [("double", (4,)), ("bound", (bound, 4))]
    with pytest.raises(ArgumentError, match="argument `x`"):  # the signature is still that of the function
        await double.delay("four")
