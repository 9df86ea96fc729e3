"""`concurrency`: at most so many executions of one task at once in one worker, and nobody else waits for them."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from tests.guide.conftest import Depth

from aiotask import AioTask, ImproperlyConfigured, TaskRevokedError


class Crowd:
    """Counts who is inside, and lets them go."""

    def __init__(self) -> None:
        self.inside = self.most = self.entered = 0
        self.door = asyncio.Event()

    async def pass_through(self) -> None:
        self.inside += 1
        self.entered += 1
        self.most = max(self.most, self.inside)
        try:
            await self.door.wait()
            await asyncio.sleep(0.001)
        finally:
            self.inside -= 1

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)


async def test_no_more_executions_run_at_once_than_the_task_says(app: AioTask) -> None:
    crowd = Crowd()

    @app.task(concurrency=3)
    async def visit() -> None:
        await crowd.pass_through()

    async with app.worker(concurrency=20):
        results = await visit.send_many([()] * 30)
        await crowd.until(lambda: crowd.entered == 3)
        crowd.door.set()
        for result in results:
            await result.get(timeout=20)
    assert crowd.most == 3
    assert crowd.entered == 30


async def test_plain_functions_in_threads_are_limited_too(app: AioTask) -> None:
    inside = most = 0
    lock = threading.Lock()

    @app.task(concurrency=2)
    def visit() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        threading.Event().wait(0.005)
        with lock:
            inside -= 1

    async with app.worker(concurrency=20):
        for result in await visit.send_many([()] * 12):
            await result.get(timeout=20)
    assert most == 2


async def test_other_tasks_run_while_a_limited_one_has_no_place(app: AioTask, depth: Depth) -> None:
    crowd = Crowd()

    @app.task(concurrency=1)
    async def visit() -> None:
        await crowd.pass_through()

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker(concurrency=4):
        visits = await visit.send_many([()] * 50)
        assert await (await add.delay(2, 3)).get(timeout=20) == 5
        assert crowd.entered == 1
        async with asyncio.timeout(20):
            while (await depth()).parked < 49:
                await asyncio.sleep(0.01)
        crowd.door.set()
        for result in visits:
            await result.get(timeout=20)


async def test_those_that_wait_start_in_their_order(app: AioTask) -> None:
    seen: list[int] = []

    @app.task(concurrency=1)
    async def note(n: int) -> None:
        seen.append(n)
        await asyncio.sleep(0)

    results = await note.send_many([(n,) for n in range(25)])
    async with app.worker(concurrency=10):
        for result in results:
            await result.get(timeout=20)
    assert seen == list(range(25))


async def test_what_waits_for_a_place_is_run_by_the_next_worker_when_its_own_stops(app: AioTask, depth: Depth) -> None:
    crowd = Crowd()

    @app.task(concurrency=1)
    async def visit() -> None:
        await crowd.pass_through()

    async with app.worker(concurrency=10):
        results = await visit.send_many([()] * 5)
        async with asyncio.timeout(20):
            while (await depth()).parked < 4:
                await asyncio.sleep(0.01)
        crowd.door.set()
    assert crowd.entered < 5
    async with app.worker(concurrency=10, burst=True) as worker:
        await asyncio.wait_for(worker.wait(), 20)
    assert crowd.entered == 5
    assert [await result.state() for result in results] == ["SUCCESS"] * 5


async def test_each_worker_has_its_own_places(app: AioTask) -> None:
    crowd = Crowd()

    @app.task(concurrency=1)
    async def visit() -> None:
        await crowd.pass_through()

    async with app.worker(name="one"), app.worker(name="two"):
        results = await visit.send_many([()] * 6)
        await crowd.until(lambda: crowd.entered == 2)
        crowd.door.set()
        for result in results:
            await result.get(timeout=20)
    assert crowd.most == 2


async def test_execution_that_waits_for_another_task_keeps_its_place(app: AioTask) -> None:
    crowd = Crowd()

    @app.task
    async def child() -> None:
        await crowd.door.wait()

    @app.task(concurrency=1)
    async def parent() -> None:
        crowd.entered += 1
        await (await child.delay())

    async with app.worker(concurrency=1):
        results = await parent.send_many([(), ()])
        await crowd.until(lambda: crowd.entered == 1)
        await asyncio.sleep(0.05)
        assert crowd.entered == 1
        crowd.door.set()
        for result in results:
            await result.get(timeout=20)


async def test_task_that_expires_while_it_waits_for_a_place_is_not_run(app: AioTask) -> None:
    crowd = Crowd()

    @app.task(concurrency=1)
    async def visit() -> None:
        await crowd.pass_through()

    async with app.worker():
        first = await visit.delay()
        await crowd.until(lambda: crowd.entered == 1)
        late = await visit.apply_async(expires=0.01)
        await asyncio.sleep(0.05)
        crowd.door.set()
        await first.get(timeout=20)
        with pytest.raises(TaskRevokedError, match="expired"):
            await late.get(timeout=20)
    assert crowd.entered == 1


async def test_place_is_free_again_after_a_failure_and_a_retry(app: AioTask) -> None:
    @app.task(bind=True, concurrency=1, default_retry_delay=0)
    async def flaky(self: object, n: int) -> int:
        if flaky.request.retries == 0:
            raise flaky.retry(countdown=0)
        if n % 2:
            raise ValueError(n)
        return n

    async with app.worker():
        results = await flaky.send_many([(n,) for n in range(6)])
        answers = [await result.get(timeout=20, propagate=False) for result in results]
    assert [answer if isinstance(answer, int) else str(answer) for answer in answers] == [0, "1", 2, "3", 4, "5"]


async def test_hundred_parents_that_wait_for_hundred_children_finish_in_a_worker_of_hundred_slots(
    app: AioTask,
) -> None:
    @app.task
    async def child(x: int) -> int:
        return x + 1

    @app.task
    async def parent(x: int) -> int:
        return await (await child.delay(x))

    async with app.worker(concurrency=100):
        results = await parent.send_many([(x,) for x in range(100)])
        assert [await result.get(timeout=30) for result in results] == list(range(1, 101))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
async def test_limit_that_is_no_whole_number_is_refused_where_the_task_is_defined(app: AioTask, value: object) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"option 'concurrency' is .*; it takes a whole number, 1 or more"):
        app.task(name="limited", concurrency=value)(lambda: None)
