"""Middleware stands around the app's life, every send and every execution; the first is outermost."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotask import AioTask, ImproperlyConfigured, Task


class Tracing:
    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    @asynccontextmanager
    async def lifespan(self, app: AioTask) -> AsyncIterator[None]:
        self.seen.append(f"{self.name} opens")
        yield
        self.seen.append(f"{self.name} closes")

    async def publish(self, message: Any, call_next: Any) -> None:
        message.headers = {**(message.headers or {}), self.name: message.task}
        self.seen.append(f"{self.name} sends")
        await call_next(message)

    async def execute(self, request: Any, call_next: Any) -> Any:
        self.seen.append(f"{self.name} starts")
        try:
            return await call_next(request)
        finally:
            self.seen.append(f"{self.name} ends")


async def test_middleware_is_passed_from_the_first_to_the_last(url: str) -> None:
    seen: list[str] = []
    app = AioTask("proj", broker=url, middleware=[Tracing("a", seen), Tracing("b", seen)])

    @app.task(bind=True, name="proj.look")
    async def look(self: Task) -> dict[str, str]:
        return self.request.headers

    async with app.worker():
        assert await (await look.delay()).get(timeout=10) == {"a": "proj.look", "b": "proj.look"}
    assert seen == [
        "a opens", "b opens", "a sends", "b sends", "a starts", "b starts", "b ends", "a ends", "b closes", "a closes"
    ]  # fmt: skip


async def test_middleware_can_refuse_a_send(url: str) -> None:
    class Refuse:
        async def publish(self, message: Any, call_next: Any) -> None:
            if message.priority == 0:
                raise PermissionError("not so urgent")
            await call_next(message)

    app = AioTask("proj", broker=url, middleware=[Refuse()])

    @app.task
    async def body() -> int:
        return 1

    async with app.worker():
        with pytest.raises(PermissionError, match="not so urgent"):
            await body.apply_async(priority=0)
        results = await body.send_many([(), ()])
        assert [await result.get(timeout=10) for result in results] == [1, 1]


async def test_failure_that_middleware_raises_is_the_tasks(url: str) -> None:
    class Broken:
        async def execute(self, request: Any, call_next: Any) -> Any:
            await call_next(request)
            raise LookupError("after the body")

    app = AioTask("proj", broker=url, middleware=[Broken()])

    @app.task
    async def body() -> None: ...

    async with app.worker():
        with pytest.raises(LookupError, match="after the body"):
            await (await body.delay()).get(timeout=10)


@pytest.mark.parametrize("wrong", [object(), Tracing, 3])
def test_what_has_no_hook_is_refused(wrong: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="middleware takes objects with any of lifespan, publish, execute"):
        AioTask("proj", broker="memory://", middleware=[wrong])
