"""A call can be run here and now, as a worker would: by `apply`, or every call by `task_always_eager`."""

import threading
from typing import Any
from uuid import UUID

import pytest

from aiotask import (
    AioTask,
    ArgumentError,
    AsyncResult,
    EagerResult,
    Ignore,
    MaxRetriesExceeded,
    NotRegistered,
    Reject,
    RemoteError,
    Retry,
    Task,
    states,
)


async def test_apply_runs_the_task_here_and_returns_its_result(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    result = await add.apply((2, 3))
    assert isinstance(result, EagerResult)
    assert (await result, await result.get(), await result.state(), await result.ready()) == (
        5,
        5,
        states.SUCCESS,
        True,
    )
    assert [meta.state async for meta in result.updates()] == [states.SUCCESS]


async def test_apply_gives_the_request_of_an_execution(app: AioTask) -> None:
    @app.task(bind=True)
    def look(self: Task, ref: UUID) -> tuple[bool, bool, bool, bool, bool]:
        request = self.request
        in_a_thread = threading.current_thread() is not threading.main_thread()
        return request.is_eager, request.called_directly, request.id is not None, isinstance(ref, UUID), in_a_thread

    assert await (await look.apply((UUID(int=5),))).get() == (True, False, True, True, True)


async def test_apply_retries_at_once_until_it_works(app: AioTask) -> None:
    @app.task(bind=True, max_retries=2, default_retry_delay=1000)
    async def flaky(self: Task, x: int) -> tuple[int, int]:
        if self.request.retries < 2:
            raise self.retry(args=(x + 1,))
        return x, self.request.retries

    assert await (await flaky.apply((1,))).get() == (3, 2)


async def test_apply_keeps_the_failure_in_the_result(app: AioTask) -> None:
    @app.task
    def fail() -> None:
        raise KeyError("k")

    result = await fail.apply()
    assert await result.failed()
    assert "in fail" in str(await result.traceback())
    with pytest.raises(KeyError):
        await result.get()
    assert isinstance(await result.get(propagate=False), KeyError)


@pytest.mark.parametrize(("raised", "state"), [(Ignore(), states.IGNORED), (Reject("no"), states.FAILURE)])
async def test_apply_knows_the_semipredicates(app: AioTask, raised: Exception, state: str) -> None:
    @app.task
    async def body() -> None:
        raise raised

    assert await (await body.apply()).state() == state


async def test_apply_checks_arguments(app: AioTask) -> None:
    @app.task
    async def add(x: int) -> int:
        return x

    with pytest.raises(ArgumentError, match="argument `x`"):
        await add.apply(("x",))


async def test_every_call_runs_here_when_the_app_is_always_eager(url: str) -> None:
    app = AioTask("proj", broker=url, task_always_eager=True)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    async def fail() -> None:
        raise KeyError("k")

    assert await (await add.delay(2, 3)) == 5
    assert [await result for result in await add.send_many([(1, 1), (2, 2)])] == [2, 4]
    assert await (await fail.delay()).failed()
    app.conf.task_eager_propagates = True
    with pytest.raises(KeyError):
        await fail.delay()
    await app.close()


async def test_apply_goes_through_middleware_and_execute(url: str) -> None:
    class Adding:
        async def execute(self, request: Any, call_next: Any) -> Any:
            return 1 + await call_next(request)

    app = AioTask("proj", broker=url, middleware=[Adding()])

    class Doubling(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        async def execute(self, request: Any, call_next: Any) -> Any:
            return 2 * await call_next(request)

    @app.task(base=Doubling)
    def five() -> int:
        return 5

    assert await (await five.apply()) == 11


async def test_apply_retries_as_a_worker_does(app: AioTask) -> None:
    @app.task(bind=True, max_retries=1)
    async def in_its_body(self: Task) -> str:
        retry = self.retry(throw=False)
        assert isinstance(retry, Retry)
        return "dropped"

    @app.task(autoretry_for=(KeyError,), retry_backoff=1000, max_retries=2)
    async def by_policy(seen: str) -> None:
        runs.append(seen)
        raise KeyError("k")

    runs: list[str] = []
    with pytest.raises(MaxRetriesExceeded, match="more than 1 times"):
        await (await in_its_body.apply()).get()
    result = await by_policy.apply(("x",))
    with pytest.raises(KeyError):
        await result.get()
    assert runs == ["x"] * 3
    assert (await result.meta()).retries == 2


@pytest.mark.parametrize("offload", ["thread", "loop"])
async def test_apply_ends_no_program(app: AioTask, offload: str) -> None:
    @app.task(offload=offload)
    def leave() -> None:
        raise SystemExit(3)

    result = await leave.apply()
    with pytest.raises(RemoteError) as raised:
        await result.get()
    assert (type(raised.value).__name__, raised.value.args, await result.state()) == (
        "SystemExit",
        (3,),
        states.FAILURE,
    )


async def test_eager_result_has_the_children_that_were_sent(app: AioTask) -> None:
    @app.task
    async def child() -> int:
        return 5

    @app.task
    async def parent() -> str:
        return (await child.delay()).id

    @app.task(trail=False)
    async def leaves_no_trail() -> None:
        await child.delay()

    async with app.worker():
        result = await parent.apply()
        [found] = await result.children()
        assert found.id == await result.get()
        assert await found.get(timeout=10) == 5
        assert (await found.meta()).parent_id == result.id
        assert await (await leaves_no_trail.apply()).children() == []


async def test_calls_by_name_run_here_too_when_the_app_is_always_eager(url: str) -> None:
    app = AioTask("proj", broker=url, task_always_eager=True)

    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    result: AsyncResult[int] = await app.send_task("proj.add", (2, 3))
    assert isinstance(result, EagerResult)
    assert await result == 5
    with pytest.raises(
        NotRegistered, match=r"No task 'proj\.ad' .* 'proj\.add'\? With task_always_eager every call runs"
    ):
        await app.send_task("proj.ad", (2, 3))
    assert not app.broker.connected
    await app.close()
