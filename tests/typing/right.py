"""Calls that are right: each checker accepts them, and infers the types that are asserted. Not run, only checked."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, assert_type

from aiotask import AioTask, AsyncResult, EagerResult, Task, TaskMeta, register_compression, register_serializer, task

app = AioTask("proj", broker="memory://")


@app.task
async def add(x: int, y: int = 0, *, scale: float = 1.0) -> float:
    return (x + y) * scale


@app.task
def resize(path: str) -> list[int]:
    return [len(path)]


@app.task(name="proj.fetch", max_retries=5, autoretry_for=(TimeoutError,), retry_backoff=True)
async def fetch(url: str) -> bytes:
    return url.encode()


@app.task(bind=True)
async def bound(self: Any, url: str) -> str:
    raise self.retry(countdown=1)


@app.task()
async def with_empty_options(x: int) -> str:
    return str(x)


@app.task(bind=True, acks_late=True)
def bound_and_plain(self: Task, path: str) -> int:
    self.update_state("PROGRESS", {"path": path})
    return self.request.retries


@task
async def of_the_default_app(x: int) -> None: ...


@task(bind=True, queue="mail")
def of_the_default_app_and_bound(self: Any, x: int) -> bytes:
    return bytes(x)


class Authenticate(Task):
    async def run(self, username: str, password: str) -> bool:
        return username == password


class Measure(Task):
    max_retries = None
    acks_late = True

    def run(self, path: str) -> int:
        raise self.retry(countdown=1)


authenticate = app.register(Authenticate)
measure = app.register(Measure())


async def main() -> None:
    assert_type(await add.delay(1), AsyncResult[float])
    assert_type(await add.delay(1, 2, scale=3.0), AsyncResult[float])
    assert_type(await add.delay(x=1, y=2), AsyncResult[float])
    assert_type(await resize.delay("x"), AsyncResult[list[int]])
    assert_type(await fetch.delay("x"), AsyncResult[bytes])
    assert_type(await bound.delay("x"), AsyncResult[str])
    assert_type(await bound_and_plain.delay("x"), AsyncResult[int])
    assert_type(await with_empty_options.delay(1), AsyncResult[str])
    assert_type(await of_the_default_app.delay(1), AsyncResult[None])
    assert_type(await of_the_default_app_and_bound.delay(1), AsyncResult[bytes])
    # A real coroutine: what takes one takes it.
    coming: Coroutine[Any, Any, AsyncResult[float]] = add.delay(1)
    await coming
    first, second = await asyncio.gather(add.delay(1), bound.delay("x"))
    assert_type(first, AsyncResult[float])
    assert_type(second, AsyncResult[str])
    assert_type(await asyncio.create_task(resize.apply_async(("x",))), AsyncResult[list[int]])
    async with asyncio.TaskGroup() as group:
        assert_type(await group.create_task(measure.delay("x")), AsyncResult[int])

    assert_type(authenticate, Authenticate)
    assert_type(await authenticate.delay("george", "password"), AsyncResult[bool])
    assert_type(await authenticate.apply_async(("george", "password")), AsyncResult[bool])
    assert_type(await authenticate("george", "password"), bool)
    assert_type(await measure.delay("x"), AsyncResult[int])
    assert_type(measure("x"), int)

    result = await add.apply_async((1, 2), {"scale": 2.0}, countdown=5, expires=60.0, priority=0, queue="mail")
    assert_type(result, AsyncResult[float])
    await add.apply_async([1], eta=datetime.now(UTC), expires=datetime.now(UTC), headers={"a": 1}, task_id="x")
    await add.apply_async(ignore_result=True, queue=None)
    await add.apply_async((1,), serializer="msgpack", compression="gzip", shadow="x", argsrepr="x", kwargsrepr="{}")
    register_serializer("yaml", repr, eval, content_type="application/x-yaml", content_encoding="utf-8")
    register_compression("back", bytes, bytes, content_type="application/x-back")
    assert_type(await resize.apply_async(("x",)), AsyncResult[list[int]])
    assert_type(await bound.apply_async(("x",)), AsyncResult[str])
    assert_type(await measure.apply_async(("x",)), AsyncResult[int])

    assert_type(await add.send_many([(1, 2), (3, 4)], countdown=5, priority=9), list[AsyncResult[float]])
    assert_type(await resize.send_many([["x"]], queue="mail"), list[AsyncResult[list[int]]])
    assert_type(await bound_and_plain.send_many(()), list[AsyncResult[int]])
    assert_type(await authenticate.send_many([("george", "password")]), list[AsyncResult[bool]])

    assert_type(await add.apply((1,), {"y": 2}), EagerResult[float])
    assert_type(await (await resize.apply(("x",))), list[int])
    assert_type(await (await measure.apply(("x",))).get(), int)

    assert_type(await result.get(timeout=5), float)
    assert_type(await result, float)
    assert_type(await result.state(), str)
    assert_type(await result.ready(), bool)
    assert_type(await result.meta(), TaskMeta)
    async for meta in result.updates():
        assert_type(meta, TaskMeta)

    # A direct call is the function's own.
    assert_type(await add(1, 2), float)
    assert_type(resize("x"), list[int])
    assert_type(await bound("x"), str)
    assert_type(bound_and_plain("x"), int)

    async with app, app.worker(concurrency=5, queues=["mail"], name="web", shutdown_timeout=1.5, burst=True) as worker:
        worker.stop()
        await worker.wait()
    app.conf.task_acks_late = True
    app.conf.worker_lease = "20s"
    assert_type(app.conf.worker_lease, float)
    assert_type(app.result("x"), AsyncResult[Any])


def without_a_loop() -> None:
    assert_type(add.sync.delay(1, y=2), AsyncResult[float])
    assert_type(add.sync.delay(1).sync.get(timeout=5), float)
    assert_type(resize.sync.delay("x"), AsyncResult[list[int]])
    assert_type(bound.sync.delay("x").sync.get(), str)
    assert_type(of_the_default_app_and_bound.sync.delay(1).sync.get(), bytes)
    assert_type(authenticate.sync.delay("george", "password").sync.get(), bool)
    assert_type(measure.sync.delay("x").sync.get(), int)
    assert_type(measure.sync.delay("x").sync.state(), str)
    assert_type(add.sync.apply_async((1,), expires=60, task_id="x"), AsyncResult[float])
    assert_type(resize.sync.apply_async(["x"], countdown=5).sync.get(), list[int])
    assert_type(measure.sync.send_many([("x",)], headers={"a": 1}), list[AsyncResult[int]])
