"""A task can keep its results in a result backend of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from aiotask import (
    AioTask,
    AsyncResult,
    BackendConnectionError,
    BackendError,
    ContentDisallowed,
    ImproperlyConfigured,
    Task,
)
from aiotask.connections.memory import MemoryLink
from aiotask.message import DeadLetter
from aiotask.results.memory import MemoryBackend


@pytest.fixture
def own_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/own.db"


@pytest.fixture
def apart(app: AioTask, own_url: str) -> Any:
    """A task whose results are kept apart."""

    @app.task(name="proj.apart", backend=own_url)
    async def apart(x: int) -> int:
        if x < 0:
            raise ValueError("negative")
        return x + 1

    return apart


@pytest.fixture
def usual(app: AioTask) -> Any:
    @app.task(name="proj.usual")
    async def usual(x: int) -> int:
        return x + 1

    return usual


async def test_results_are_stored_there_and_read_from_there(app: AioTask, apart: Any, usual: Any) -> None:
    async with app.worker():
        results = [await apart.delay(1), await usual.delay(1)]
        assert [await result.get(timeout=10) for result in results] == [2, 2]
        ids = [result.id for result in results]
        assert [meta is not None for meta in await apart.backend.fetch(ids)] == [True, False]
        assert [meta is not None for meta in await app.backend.fetch(ids)] == [False, True]
    assert apart.backend is not app.backend
    assert usual.backend is app.backend


async def test_every_way_of_asking_reads_there(app: AioTask, apart: Any) -> None:
    async with app.worker():
        result = await apart.delay(1)
        assert [meta.state async for meta in result.updates()][-1] == "SUCCESS"
        assert (await (await app.send_task("proj.apart", (1,))).get(timeout=10)) == 2
        assert [await one for one in await apart.send_many([(1,), (2,)])] == [2, 3]
        again = await apart.delay(-1)
        with pytest.raises(ValueError, match="negative"):
            await again.get(timeout=10)
        assert await again.failed()
        await again.forget()
        assert await again.state() == "PENDING"
        assert await apart.backend.fetch([again.id]) == [None]


async def test_calls_without_a_loop_read_there(app: AioTask, apart: Any) -> None:
    def call() -> Any:
        result = apart.sync.delay(1)
        return result.sync.get(timeout=10), result.sync.state()

    async with app.worker():
        assert await asyncio.to_thread(call) == (2, "SUCCESS")


async def test_result_known_by_its_id_alone_is_looked_for_in_the_app_s(app: AioTask, apart: Any) -> None:
    async with app.worker():
        result = await apart.delay(1)
        await result.get(timeout=10)
        assert await app.result(result.id).state() == "PENDING"


async def test_states_and_retries_are_stored_there(app: AioTask, own_url: str) -> None:
    @app.task(bind=True, backend=own_url, track_started=True, default_retry_delay=0)
    async def working(self: Any) -> str:
        async for meta in AsyncResult(self.request.id, app=app, name=self.name).updates():
            if meta.state == "STARTED":
                break
        self.update_state("PROGRESS", {"n": 1})
        if self.request.retries == 0:
            raise self.retry()
        return "done"

    async with app.worker():
        result = await working.delay()
        states = [meta.state async for meta in result.updates()]
        assert states[-1] == "SUCCESS"
        assert "RETRY" in states
        assert await app.backend.fetch([result.id]) == [None]


async def test_failure_before_the_start_is_stored_there(
    app: AioTask, apart: Any, dead_letters: Callable[[], Awaitable[list[DeadLetter]]]
) -> None:
    async with app.worker():
        result = await apart.apply_async((1,), serializer="msgpack")
        with pytest.raises(ContentDisallowed):
            await result.get(timeout=10)
    assert len(await dead_letters()) == 1


async def test_tasks_of_one_url_share_one_backend(app: AioTask, own_url: str, tmp_path: Path) -> None:
    one = app.task(name="one", backend=own_url)(print)
    two = app.task(name="two", backend=own_url)(print)
    other = app.task(name="other", backend=f"sqlite:///{tmp_path}/other.db")(print)
    same_path = app.task(name="same_path", backend=f"sqlite:///{tmp_path}/../{tmp_path.name}/own.db")(print)
    assert one.backend is two.backend is same_path.backend
    assert other.backend is not one.backend


@pytest.mark.not_on("amqp", "The URL of RabbitMQ is not one of results")
async def test_backend_of_the_app_s_own_url_is_the_app_s(app: AioTask, url: str) -> None:
    assert app.task(name="one", backend=url)(print).backend is app.backend


async def test_backend_is_opened_and_closed_with_the_app(app: AioTask, apart: Any) -> None:
    assert not apart.backend.connected
    async with app:
        assert apart.backend.connected
        opened = apart.backend
    assert not opened.connected
    async with app:
        assert apart.backend.connected


async def test_task_that_comes_while_the_app_is_open_has_its_backend_too(app: AioTask, own_url: str) -> None:
    async with app.worker():

        @app.task(backend=own_url)
        async def late(x: int) -> int:
            return x + 1

        assert await (await late.delay(1)).get(timeout=10) == 2


async def test_instance_is_used_and_opened_with_the_app(app: AioTask) -> None:
    own = MemoryBackend(MemoryLink())

    @app.task(backend=own)
    async def apart(x: int) -> int:
        return x + 1

    assert apart.backend is own
    async with app.worker():
        result = await apart.delay(1)
        assert await result.get(timeout=10) == 2
        [stored] = await own.fetch([result.id])
        assert stored is not None
    assert not own.connected


async def test_instance_that_is_open_is_left_open(app: AioTask) -> None:
    own = MemoryBackend(MemoryLink())
    await own.open()
    apart = app.task(name="proj.apart", backend=own)(print)
    async with app:
        assert apart.backend.connected
    assert own.connected


async def test_class_says_so_by_its_attribute(app: AioTask, own_url: str) -> None:
    class Apart(app.Task):
        backend = own_url

        async def run(self, x: int) -> int:
            return x + 1

    class Further(Apart):
        pass

    class Base(Task):
        abstract = True
        backend = own_url

    @app.task(base=Base)
    async def based(x: int) -> int:
        return x + 1

    tasks = [app.tasks[Apart.name], app.tasks[Further.name], based]
    assert len({id(task.backend) for task in tasks}) == 1
    assert tasks[0].backend is not app.backend
    async with app.worker():
        assert [await (await task.delay(1)).get(timeout=10) for task in tasks] == [2, 2, 2]


async def test_outcome_waits_for_its_backend_and_is_lost_by_nobody(app: AioTask) -> None:
    own = Failing(MemoryLink())
    runs = 0

    @app.task(backend=own, acks_late=True)
    async def apart() -> str:
        nonlocal runs
        runs += 1
        return "done"

    async with app.worker():
        result = await apart.delay()
        assert await result.get(timeout=10) == "done"
    assert (runs, own.failures) == (1, 0)


class Failing(MemoryBackend):
    """Is out of order twice."""

    failures = 2

    async def store(self, rows: Sequence[Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise BackendError("out of order")
        await super().store(rows)


async def test_app_says_which_backend_can_not_be_reached(app: AioTask, tmp_path: Path) -> None:
    @app.task(backend=f"sqlite:///{tmp_path}/missing/own.db")
    async def apart() -> None: ...

    with pytest.raises(BackendConnectionError, match="missing"):
        await app.connect()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nonsense", "option 'backend' 'nonsense': unknown scheme; there are memory://, sqlite://"),
        ("sqlte:///x.db", "Did you mean 'sqlite'?"),
        ("amqp://u:secret@host", "option 'backend' 'amqp://"),
        ("", "option 'backend' is ''; it takes a URL, a result backend"),
        (5, "option 'backend' is 5; it takes a URL, a result backend"),
    ],
)
def test_backend_that_is_none_is_refused_where_the_task_is_defined(app: AioTask, value: Any, said: str) -> None:
    def by_class() -> None:
        type("Tasked", (app.Task,), {"run": print, "backend": value, "__module__": "proj", "__qualname__": "Tasked"})

    for define in (lambda: app.task(name="proj.Tasked", backend=value)(print), by_class):
        with pytest.raises(ImproperlyConfigured) as raised:
            define()
        assert str(raised.value).startswith("Task 'proj.Tasked': ")
        assert said in str(raised.value)
        assert "secret" not in str(raised.value)
    assert "proj.Tasked" not in app.tasks
