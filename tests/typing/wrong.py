"""Calls that are wrong: mypy rejects every line that ends with `# wrong`, and no other. Not run, only checked."""

from typing import Any

from aiotask import AioTask, AsyncResult, Task

app = AioTask("proj", broker="memory://")


@app.task
async def add(x: int, y: int = 0, *, scale: float = 1.0) -> float:
    return (x + y) * scale


@app.task
def resize(path: str) -> list[int]:
    return [len(path)]


@app.task(bind=True)
async def bound(self: Any, url: str) -> str:
    return url


@app.task(name="proj.plain", bind=True)
def bound_and_plain(self: Any, path: str) -> int:
    return len(path)


class Authenticate(Task):
    async def run(self, username: str, password: str) -> bool:
        return username == password


authenticate = app.register(Authenticate)


def need_text(value: str) -> None: ...


def need_number(value: int) -> None: ...


def need_number_to_come(value: AsyncResult[int]) -> None: ...


async def main() -> None:
    await add.delay("x")  # wrong
    await add.delay()  # wrong
    await add.delay(1, 2, 3)  # wrong
    await add.delay(1, z=2)  # wrong
    await add.delay(1, y="x")  # wrong
    await add.delay(1, scale="x")  # wrong
    await add.delay(None)  # wrong
    await resize.delay(b"x")  # wrong
    await resize.delay()  # wrong
    await bound.delay(5)  # wrong
    await bound.delay("x", "y")  # wrong
    await bound.delay(None, "x")  # wrong
    await bound_and_plain.delay(5)  # wrong
    await bound_and_plain.delay()  # wrong

    await add(1, "x")  # wrong
    resize(5)  # wrong
    await resize("x")  # wrong
    await bound(5)  # wrong
    need_text(await add(1, 2))  # wrong

    need_number_to_come(await add.delay(1))  # wrong
    need_text(await (await add.delay(1)).get())  # wrong
    need_number(await (await bound.delay("x")).get(timeout=5))  # wrong
    need_text(await (await resize.delay("x")))  # wrong
    need_text(await (await add.delay(1)).ready())  # wrong
    need_number(await (await authenticate.delay("george", "password")).traceback())  # wrong

    await authenticate.delay("george")  # wrong
    await authenticate.delay("george", 5)  # wrong
    await authenticate("george", 5)  # wrong
    need_text(await (await authenticate.delay("george", "password")))  # wrong

    await add.apply_async((1,), count_down=5)  # wrong
    await add.apply_async((1,), countdown="5")  # wrong
    await add.apply_async(5)  # wrong
    await add.apply_async((1,), priority="high")  # wrong
    await add.apply_async((1,), eta=5)  # wrong
    await add.apply_async((1,), task_id=5)  # wrong
    await add.apply_async((1,), ignore_result="yes")  # wrong
    await (await add.delay(1)).get("5")  # wrong
    add.delay(1).get()  # wrong
    (await add.delay(1)).gett()  # wrong

    app.wroker()  # wrong
    app.worker(concurrency="ten")  # wrong
    app.worker(queues=5)  # wrong
    app.conf.worker_concurency = 5  # wrong
    app.conf.worker_concurrency = "ten"  # wrong
    AioTask("proj", broker=5)  # wrong
    app.task(bind="yes")  # wrong
