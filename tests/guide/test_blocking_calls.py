"""Code without an event loop calls through `.sync`, which blocks."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import fastapi
import httpx2
import pytest
from tests.servers.redis import RedisServer

from aiotask import AioTask, AioTaskError, ArgumentError, Task


async def test_sync_uses_the_loop_of_the_app_when_called_from_another_thread(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    def handler() -> tuple[int, str, bool]:
        result = add.sync.delay(2, 3)
        return result.sync.get(timeout=10), result.sync.state(), result.sync.successful()

    async with app.worker():
        assert await asyncio.to_thread(handler) == (5, "SUCCESS", True)
        results = await asyncio.to_thread(lambda: add.sync.send_many([(1, 1), (2, 2)]))
        assert [await result.get(timeout=10) for result in results] == [2, 4]


async def test_sync_in_a_threads_body_makes_a_child_of_it(app: AioTask) -> None:
    @app.task(bind=True)
    async def child(self: Task) -> tuple[str | None, str | None]:
        return self.request.parent_id, self.request.root_id

    @app.task
    def parent() -> tuple[str, str]:
        return child.sync.apply_async(queue="default").sync.get(timeout=10)  # type: ignore[no-any-return]

    async with app.worker():
        result = await parent.delay()
        assert await result.get(timeout=10) == (result.id, result.id)


async def test_sync_result_has_the_methods_of_a_result(app: AioTask) -> None:
    @app.task(name="proj.half")
    async def half(x: int) -> int:
        if x % 2:
            raise ValueError("odd", x)
        return x // 2

    def script() -> None:
        good = half.sync.apply_async((4,), task_id="good").sync
        bad = half.sync.delay(3).sync
        assert good.get(timeout=10) == 2
        assert (good.state(), good.info(), good.ready(), good.successful(), good.failed()) == (
            "SUCCESS",
            2,
            True,
            True,
            False,
        )
        assert (good.meta().id, good.meta().name, good.traceback(), good.children()) == ("good", "proj.half", None, [])
        with pytest.raises(ValueError, match="odd"):
            bad.get(timeout=10)
        assert isinstance(bad.get(propagate=False), ValueError)
        assert "in half" in str(bad.traceback())
        with pytest.raises(TimeoutError, match="No result of task nobody"):
            app.result("nobody").sync.get(timeout=0.01)
        good.forget()
        assert app.result("good").sync.state() == "PENDING"

    async with app.worker():
        await asyncio.to_thread(script)


async def test_sync_calls_are_checked_as_others_are(app: AioTask) -> None:
    @app.task(name="proj.half")
    async def half(x: int) -> int:
        return x // 2

    def script() -> None:
        wrong: Any = "x"
        with pytest.raises(ArgumentError, match=r"proj\.half: argument `x`: Expected `int`, got `str`"):
            half.sync.delay(wrong)
        with pytest.raises(TypeError, match="apply_async takes no option 'count_down'"):
            half.sync.apply_async((1,), count_down=5)
        with pytest.raises(TypeError, match="send_many takes no task_id"):
            half.sync.send_many([(1,)], task_id="x")

    async with app:
        await asyncio.to_thread(script)


async def test_sync_is_refused_on_a_running_loop(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int) -> int:
        return x

    with pytest.raises(AioTaskError, match=r"proj\.add\.sync\.delay blocks.*Leave out `\.sync` and await it"):
        add.sync.delay(1)
    with pytest.raises(AioTaskError, match=r"result x\.sync blocks.*Leave out `\.sync` and await it"):
        app.result("x").sync.get()


def test_sync_works_in_a_script_before_and_after_a_loop(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"""
import asyncio
from aiotask import AioTask

app = AioTask("script", broker="sqlite:///{tmp_path}/tasks.db")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

first = add.sync.delay(1, 2)

async def work() -> None:
    async with app.worker(burst=True) as worker:
        await worker.wait()

asyncio.run(work())
print(first.sync.get(timeout=10), add.sync.delay(3, 4).sync.state())
""",
        encoding="utf-8",
    )
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
    )
    assert (ran.stdout.split(), ran.stderr) == (["3", "PENDING"], "")


async def test_sync_works_in_a_plain_handler_of_fastapi(app: AioTask) -> None:
    web = fastapi.FastAPI()

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @web.get("/sum")
    def look(x: int, y: int) -> dict[str, int]:
        return {"sum": add.sync.delay(x, y).sync.get(timeout=10)}

    transport = httpx2.ASGITransport(app=web)
    async with app.worker(), httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(*(client.get("/sum", params={"x": number, "y": 3}) for number in range(5)))
    assert [answer.json() for answer in answers] == [{"sum": number + 3} for number in range(5)]


async def test_sync_runs_the_task_where_it_is_called_when_the_app_is_always_eager(url: str) -> None:
    app = AioTask("proj", broker=url, task_always_eager=True)

    @app.task
    async def child(x: int) -> int:
        return 2 * x

    @app.task
    def parent() -> int:
        return child.sync.delay(4).sync.get() + sum(result.sync.get() for result in child.sync.send_many([(1,), (2,)]))

    def script() -> tuple[int, list[Any]]:
        result = parent.sync.delay()
        return result.sync.get(), result.sync.children()

    assert await asyncio.to_thread(script) == (14, [])  # whose results are kept nowhere
    assert not app.broker.connected
    await app.close()


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
def test_sync_works_on_both_sides_of_a_fork(url: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"""
import os
from aiotask import AioTask

app = AioTask("script", broker={url!r})

@app.task
async def add(x: int, y: int) -> int:
    return x + y

print(add.sync.delay(1, 2).sync.state(), flush=True)
child = os.fork()
if child == 0:
    print(add.sync.delay(3, 4).sync.state(), flush=True)
    os._exit(0)
assert os.waitpid(child, 0) == (child, 0)
print(add.sync.delay(5, 6).sync.state(), len(add.sync.send_many([(1, 1)])))
""",
        encoding="utf-8",
    )
    command = ["timeout", "-k", "1", "30", sys.executable, "script.py"]  # a hanging child would outlive its parent
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False)
    assert ran.stdout.split() == ["PENDING", "PENDING", "PENDING", "1"], ran.stderr


@pytest.mark.parametrize("url", ["redis"], indirect=True)
async def test_closing_the_app_closes_the_connections_of_sync_calls_too(
    app: AioTask, redis_server: RedisServer, until: Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]
) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def connections() -> int:
        return len(redis_server.call("CLIENT", "LIST").splitlines())

    before = await connections()
    await asyncio.to_thread(lambda: add.sync.delay(2, 3))
    assert await connections() > before
    await app.close()

    async def as_before() -> bool:
        return await connections() == before

    await until(as_before)
    await asyncio.to_thread(lambda: add.sync.delay(2, 3))  # it can be opened again
