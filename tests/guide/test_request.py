"""The request: what an execution knows of itself; never another one's."""

import asyncio
import contextvars
import logging
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import aiotask
from aiotask import AioTask, current_request, current_task


@pytest.mark.priorities
async def test_request_tells_what_is_being_executed(app: AioTask) -> None:
    seen: dict[str, Any] = {}

    @app.task(name="proj.look", bind=True)
    async def look(self, x: int, *, y: int) -> None:  # type: ignore[no-untyped-def]
        request = self.request
        fields = ("id", "task", "args", "kwargs", "retries", "is_eager", "called_directly", "hostname", "priority")
        seen.update({field: getattr(request, field) for field in fields})
        seen.update(delivery=request.delivery_info, origin=request.origin, utc=request.utc, eta=request.eta)
        seen.update(level=request.loglevel, correlation_id=request.correlation_id)

    async with app.worker(name="web") as worker:
        result = await look.apply_async((1,), {"y": 2}, priority=3)
        await result.get(timeout=10)
        hostname = worker.hostname
    assert (seen["id"], seen["task"], seen["correlation_id"]) == (result.id, "proj.look", result.id)
    assert (list(seen["args"]), seen["kwargs"], seen["retries"]) == ([1], {"y": 2}, 0)
    assert (seen["is_eager"], seen["called_directly"], seen["priority"]) == (False, False, 3)
    assert hostname.startswith("web@")
    assert seen["hostname"] == hostname
    assert seen["delivery"]["queue"] == seen["delivery"]["routing_key"] == "default"
    assert (seen["delivery"]["redelivered"], seen["delivery"]["delivery_count"]) == (False, 1)
    assert (seen["origin"], seen["utc"], seen["eta"]) == (app.origin, True, None)
    assert isinstance(seen["level"], int)
    assert logging.getLevelName(seen["level"]) in logging.getLevelNamesMapping()


FIELDS = (
    *("id", "task", "args", "kwargs", "retries", "is_eager", "called_directly", "group", "taskset", "chord", "chain"),
    *("root_id", "parent_id", "eta", "expires", "utc", "hostname", "logfile", "loglevel", "delivery_info", "headers"),
    *("properties", "reply_to", "correlation_id", "callbacks", "errbacks", "timelimit", "time_limit"),
    *("soft_time_limit", "children", "origin", "priority"),
)


@pytest.mark.parametrize("plain", [False, True])
async def test_request_has_every_field(app: AioTask, plain: bool) -> None:
    seen: dict[str, Any] = {}

    def look(self: Any, *args: Any, **kwargs: Any) -> None:
        seen.update({field: getattr(self.request, field) for field in FIELDS})

    async def look_too(self: Any, *args: Any, **kwargs: Any) -> None:
        look(self, *args, **kwargs)

    task = app.task(name="proj.look", bind=True)(look if plain else look_too)
    async with app.worker(name="web") as worker:
        result = await task.delay(1, y=2)
        await result.get(timeout=10)
    assert isinstance(seen.pop("loglevel"), int)
    assert seen.pop("properties")["correlation_id"] == result.id
    assert list(seen.pop("args")) == [1]
    assert seen == {
        "id": result.id,
        "task": "proj.look",
        "kwargs": {"y": 2},
        "retries": 0,
        "is_eager": False,
        "called_directly": False,
        "group": None,
        "taskset": None,
        "chord": None,
        "chain": None,
        "root_id": result.id,
        "parent_id": None,
        "eta": None,
        "expires": None,
        "utc": True,
        "hostname": worker.hostname,
        "logfile": None,
        "delivery_info": {
            "exchange": "",
            "routing_key": "default",
            "queue": "default",
            "redelivered": False,
            "delivery_count": 1,
            "priority": 5,
        },
        "headers": {},
        "reply_to": None,
        "correlation_id": result.id,
        "callbacks": None,
        "errbacks": None,
        "timelimit": (None, None),
        "time_limit": None,
        "soft_time_limit": None,
        "children": [],
        "origin": app.origin,
        "priority": 5,
    }


async def test_request_has_every_field_outside_an_execution_and_in_a_direct_call(app: AioTask) -> None:
    @app.task(bind=True, name="proj.look")
    async def look(self: Any) -> dict[str, Any]:
        return {field: getattr(self.request, field) for field in FIELDS}

    for seen in ({field: getattr(current_request(), field) for field in FIELDS}, await look()):
        assert (seen.pop("called_directly"), seen.pop("utc"), seen.pop("priority")) == (True, True, 5)
        assert isinstance(seen.pop("loglevel"), int)
        assert set(seen.pop("delivery_info")) == {
            *("exchange", "routing_key", "queue", "redelivered", "delivery_count", "priority")
        }
        assert {field for field, value in seen.items() if value} == {"timelimit"}


async def test_request_has_every_field_in_an_eager_execution(app: AioTask) -> None:
    @app.task(bind=True, name="proj.look")
    async def look(self: Any, x: int) -> dict[str, Any]:
        return {field: getattr(self.request, field) for field in FIELDS}

    result = await look.apply((1,), priority=2, headers={"a": 1})
    seen = await result
    assert (seen["id"], seen["task"], list(seen["args"])) == (result.id, "proj.look", [1])
    assert (seen["is_eager"], seen["called_directly"], seen["priority"], seen["headers"]) == (True, False, 2, {"a": 1})


async def test_request_names_the_file_that_the_worker_logs_to(app: AioTask, tmp_path: Path) -> None:
    @app.task
    async def look() -> str | None:
        return current_request().logfile

    handler = logging.FileHandler(tmp_path / "worker.log")
    logging.getLogger().addHandler(handler)
    try:
        async with app.worker():
            assert await (await look.delay()).get(timeout=10) == str(tmp_path / "worker.log")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


async def test_request_tells_when_it_was_due_and_when_it_expires(app: AioTask) -> None:
    @app.task(bind=True)
    async def look(self) -> tuple[datetime, datetime]:  # type: ignore[no-untyped-def]
        return self.request.eta, self.request.expires

    eta, expires = datetime.now(UTC) + timedelta(seconds=0.05), datetime.now(UTC) + timedelta(seconds=60)
    async with app.worker():
        result = await look.apply_async(eta=eta, expires=expires)
        assert await result.get(timeout=10) == (eta, expires)


async def test_request_has_the_caller_s_headers(app: AioTask) -> None:
    @app.task(bind=True)
    async def look(self) -> dict[str, Any]:  # type: ignore[no-untyped-def]
        return self.request.headers  # type: ignore[no-any-return]

    async with app.worker():
        headers = {"trace": "00-ab", "nested": {"list": [1, None]}}
        assert await (await look.apply_async(headers=headers)).get(timeout=10) == headers
        assert await (await look.delay()).get(timeout=10) == {}


async def test_request_says_so_outside_an_execution(app: AioTask) -> None:
    @app.task(bind=True)
    async def look(self) -> None: ...  # type: ignore[no-untyped-def]

    for request in (look.request, current_request()):
        assert request.called_directly
        assert request.id is None
        assert not request.is_eager
    assert current_task() is None


async def test_current_ones_are_those_of_the_execution(app: AioTask) -> None:
    @app.task(name="proj.look")
    async def look() -> list[Any]:
        task = current_task()
        assert task is look
        return [current_request().id, look.request is current_request(), aiotask.current_app() is app]

    async with app.worker():
        result = await look.delay()
        assert await result.get(timeout=10) == [result.id, True, True]


async def test_executions_of_one_coroutine_task_never_see_each_other_s_request(app: AioTask) -> None:
    together = asyncio.Barrier(20)

    async def child() -> str | None:
        await asyncio.sleep(0)
        return current_request().id

    @app.task(bind=True)
    async def look(self) -> set[str]:  # type: ignore[no-untyped-def]
        seen = {self.request.id}
        await together.wait()
        seen.add(self.request.id)
        seen.add(await asyncio.create_task(child()))
        seen.update(await asyncio.gather(child(), child()))
        seen.add(await asyncio.to_thread(lambda: self.request.id))
        async with asyncio.TaskGroup() as group:
            started = group.create_task(child())
        seen.add(started.result())
        await together.wait()
        return seen | {current_request().id}

    async with app.worker():
        for result in await look.send_many([()] * 20):
            assert await result.get(timeout=10) == {result.id}


async def test_executions_of_one_plain_task_never_see_each_other_s_request(app: AioTask) -> None:
    together = threading.Barrier(10)

    async def child() -> str | None:
        return current_request().id

    @app.task(bind=True)
    def look(self) -> set[str]:  # type: ignore[no-untyped-def]
        seen = {self.request.id}
        together.wait(10)
        seen.add(self.request.id)
        seen.add(asyncio.run(child()))
        context, found = contextvars.copy_context(), []
        started = threading.Thread(target=context.run, args=(lambda: found.append(self.request.id),))
        started.start()
        started.join()
        together.wait(10)
        return seen | {*found, current_request().id}

    async with app.worker():
        for result in await look.send_many([()] * 10):
            assert await result.get(timeout=10) == {result.id}


async def test_request_is_gone_when_the_execution_is_over(app: AioTask) -> None:
    @app.task
    def look() -> str | None:
        return current_request().id

    async with app.worker(threads=1):
        first, second = await look.delay(), await look.delay()
        assert await first.get(timeout=10) == first.id
        assert await second.get(timeout=10) == second.id
        assert current_request().id is None


@pytest.mark.parametrize("plain", [False, True])
async def test_task_called_by_another_is_called_directly(app: AioTask, plain: bool) -> None:
    if plain:

        @app.task(bind=True, name="proj.inner")
        def inner(self) -> list[Any]:  # type: ignore[no-untyped-def]
            return [self.request.called_directly, self.request.id]

        @app.task(bind=True)
        def outer(self) -> list[Any]:  # type: ignore[no-untyped-def]
            return [*inner(), self.request.id]

    else:

        @app.task(bind=True, name="proj.inner")
        async def inner(self) -> list[Any]:  # type: ignore[no-untyped-def]
            return [self.request.called_directly, self.request.id]

        @app.task(bind=True)
        async def outer(self) -> list[Any]:  # type: ignore[no-untyped-def]
            return [*await inner(), self.request.id]

    async with app.worker():
        result = await outer.delay()
        assert await result.get(timeout=10) == [True, None, result.id]


async def test_task_called_by_itself_is_called_directly_and_its_own_request_is_back_afterwards(app: AioTask) -> None:
    @app.task(bind=True)
    async def count(self, down: int) -> list[Any]:  # type: ignore[no-untyped-def]
        rest = await count(down - 1) if down else []
        return [*rest, self.request.called_directly]

    async with app.worker():
        assert await (await count.delay(2)).get(timeout=10) == [True, True, False]


async def test_children_know_their_parent_and_the_root_of_their_tree(app: AioTask) -> None:
    tree: dict[str, Any] = {}

    @app.task(bind=True)
    async def grow(self, depth: int) -> None:  # type: ignore[no-untyped-def]
        tree[f"level {depth}"] = self.request.id, self.request.parent_id, self.request.root_id
        if depth:
            await (await grow.delay(depth - 1)).get(timeout=10)

    async with app.worker():
        root = await grow.delay(2)
        await root.get(timeout=10)
        meta = await app.result(tree["level 0"][0]).meta()
    assert tree["level 2"] == (root.id, None, root.id)
    assert tree["level 1"][1:] == (root.id, root.id)
    assert tree["level 0"][1:] == (tree["level 1"][0], root.id)
    assert meta.parent_id == tree["level 1"][0]


async def test_children_sent_by_what_a_body_started_know_their_parent_too(app: AioTask) -> None:
    @app.task(bind=True)
    async def child(self) -> str:  # type: ignore[no-untyped-def]
        return str(self.request.parent_id)

    @app.task
    async def parent() -> list[str]:
        results = await asyncio.gather(*(asyncio.create_task(child.delay()) for _ in range(3)))
        return [result.id for result in results]

    async with app.worker():
        result = await parent.delay()
        for id_ in await result.get(timeout=10):
            assert await app.result(id_).get(timeout=10) == result.id


async def test_waiting_for_a_child_lends_its_slot_so_that_the_child_can_run(app: AioTask) -> None:
    @app.task
    async def child() -> str:
        return "child's"

    @app.task
    async def parent() -> str:
        return f"with {await (await child.delay()).get(timeout=10)}"

    async with app.worker(concurrency=1):
        assert await (await parent.delay()).get(timeout=10) == "with child's"


async def test_waiting_for_several_children_lends_one_slot_only(app: AioTask) -> None:
    running, most = 0, 0

    @app.task
    async def child() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(10):
            await asyncio.sleep(0)
        running -= 1

    @app.task
    async def parent() -> None:
        results = [await child.delay() for _ in range(5)]
        await asyncio.gather(*(result.get(timeout=10) for result in results))

    async with app.worker(concurrency=1):
        await (await parent.delay()).get(timeout=10)
    assert most == 1


async def test_slot_is_lent_no_longer_when_the_one_that_waited_has_ended(app: AioTask) -> None:
    running, most, started, release = 0, 0, asyncio.Event(), asyncio.Event()
    waits: list[Any] = []

    @app.task
    async def careless(other: str) -> None:
        waits.append(asyncio.create_task(app.result(other).get(timeout=10)))
        await asyncio.sleep(0)

    @app.task
    async def count() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        started.set()
        await release.wait()
        running -= 1

    async with app.worker(concurrency=1):
        await (await careless.delay("never sent 1")).get(timeout=10)
        await (await careless.delay("never sent 2")).get(timeout=10)
        results = [await count.delay() for _ in range(3)]
        await started.wait()
        for _ in range(20):
            await asyncio.sleep(0.001)
        release.set()
        for result in results:
            await result.get(timeout=10)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    assert most == 1
