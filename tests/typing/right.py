"""Calls that are right: mypy accepts each, and infers the types that the assertions say. Not run, only checked."""

from datetime import UTC, datetime
from typing import Any, assert_type

from aiotask import AioTask, AsyncResult, Task, TaskMeta, task

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


@app.task(bind=True, acks_late=True)
def bound_and_plain(self: Task, path: str) -> int:
    self.update_state("PROGRESS", {"path": path})
    return self.request.retries


@task
async def of_the_default_app(x: int) -> None: ...


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
    assert_type(await of_the_default_app.delay(1), AsyncResult[None])

    assert_type(authenticate, Authenticate)
    assert_type(await authenticate.delay("george", "password"), AsyncResult[bool])
    assert_type(await authenticate.apply_async(("george", "password")), AsyncResult[bool])
    assert_type(await authenticate("george", "password"), bool)
    assert_type(await measure.delay("x"), AsyncResult[int])
    assert_type(measure("x"), int)

    result = await add.apply_async((1, 2), {"scale": 2.0}, countdown=5, expires=60.0, priority=0, queue="mail")
    assert_type(result, AsyncResult[float])
    await add.apply_async([1], eta=datetime.now(UTC), expires=datetime.now(UTC), headers={"a": 1}, task_id="x")
    await add.apply_async(ignore_result=True)

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
