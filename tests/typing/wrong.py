"""Calls that are wrong: each checker rejects every line that ends with `# wrong`, and no other. They are not run."""

from typing import Any

from aiotask import AioTask, AsyncResult, Task, register_compression, register_serializer

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


class Measure(Task):
    def run(self, path: str) -> int:
        return len(path)


authenticate = app.register(Authenticate)
measure = app.register(Measure())


def need_text(value: str) -> None: ...


def need_number(value: int) -> None: ...


def need_number_to_come(value: AsyncResult[int]) -> None: ...


def need_numbers_to_come(value: list[AsyncResult[int]]) -> None: ...


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
    await resize.delay(way="x")  # wrong
    await bound.delay(5)  # wrong
    await bound.delay("x", "y")  # wrong
    await bound.delay(None, "x")  # wrong
    await bound_and_plain.delay(5)  # wrong
    await bound_and_plain.delay()  # wrong
    add.delay(1)  # wrong
    add.apply_async((1,))  # wrong

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
    await authenticate.delay("george", secret="password")  # wrong
    await authenticate("george", 5)  # wrong
    await measure.delay()  # wrong
    await measure.delay(5)  # wrong
    await measure("x")  # wrong
    need_text(measure("x"))  # wrong
    need_text(await (await authenticate.delay("george", "password")))  # wrong

    await add.apply_async((1,), count_down=5)  # wrong
    await add.apply_async((1,), countdown="5")  # wrong
    await add.apply_async(5)  # wrong
    await add.apply_async((1,), priority="high")  # wrong
    await add.apply_async((1,), eta=5)  # wrong
    await add.apply_async((1,), task_id=5)  # wrong
    await add.apply_async((1,), ignore_result="yes")  # wrong
    need_number_to_come(await add.apply_async((1,)))  # wrong
    need_number(await (await bound.apply_async(("x",))))  # wrong
    need_numbers_to_come(await add.send_many([(1,)]))  # wrong
    need_numbers_to_come(await bound.send_many([("x",)]))  # wrong
    need_text(await (await add.apply((1,))))  # wrong
    await add.apply((1,), count_down=5)  # wrong
    await add.send_many(5)  # wrong
    await add.send_many([(1,)], count_down=5)  # wrong
    await add.send_many([(1,)], task_id="x")  # wrong
    await add.send_many([(1,)], countdown="5")  # wrong
    await add.send_many([1])  # wrong
    add.sync.apply_async((1,), count_down=5)  # wrong
    add.sync.apply_async((1,), queue=5)  # wrong
    add.sync.send_many([(1,)], task_id="x")  # wrong
    add.sync.send_many([(1,)], headers="a")  # wrong
    await add.apply_async((1,), serializer=5)  # wrong
    await add.apply_async((1,), compression=True)  # wrong
    await add.apply_async((1,), argsrepr=(1, 2))  # wrong
    register_serializer("yaml", repr, eval)  # wrong
    register_serializer("yaml", 5, eval, content_type="application/x-yaml")  # wrong
    register_compression("back", repr, bytes, content_type="application/x-back")  # wrong
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


def without_a_loop() -> None:
    add.sync.delay("x")  # wrong
    add.sync.delay()  # wrong
    add.sync.delay(1, z=2)  # wrong
    resize.sync.delay(5)  # wrong
    bound.sync.delay(None, "x")  # wrong
    authenticate.sync.delay("george")  # wrong
    measure.sync.delay(5)  # wrong
    need_number_to_come(add.sync.delay(1))  # wrong
    need_text(add.sync.delay(1).sync.get())  # wrong
    need_number(bound.sync.delay("x").sync.get(timeout=5))  # wrong
    need_text(measure.sync.delay("x").sync.get())  # wrong
    need_number(authenticate.sync.delay("george", "password").sync.state())  # wrong
    need_number_to_come(add.sync.apply_async((1,)))  # wrong
    need_numbers_to_come(add.sync.send_many([(1,)]))  # wrong
    add.sync.delay(1).get().bit_length()  # wrong
