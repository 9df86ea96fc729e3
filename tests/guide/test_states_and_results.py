"""States while a task runs, its result when it has ended, and the many ways to ask."""

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.guide.conftest import Until

from aiotask import AioTask, AsyncResult, EncodeError, Ignore, RemoteError, Task, TaskMeta


async def states_of(result: AsyncResult[Any]) -> list[tuple[str, Any]]:
    """Follow a task to its end."""
    async with asyncio.timeout(10):
        return [(meta.state, meta.result) async for meta in result.updates()]


# Asking


async def test_result_tells_everything_of_a_success(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        before = datetime.now(UTC)
        result = await add.delay(2, 3)
        assert await result == 5
        assert await result.get() == 5
        assert await result.state() == "SUCCESS"
        assert await result.info() == 5
        assert [await result.ready(), await result.successful(), await result.failed()] == [True, True, False]
        assert await result.traceback() is None
        meta = await result.meta()
    assert isinstance(meta, TaskMeta)
    assert (meta.id, meta.state, meta.result, meta.name) == (result.id, "SUCCESS", 5, "proj.add")
    assert (meta.queue, meta.retries, meta.parent_id, meta.group_id, meta.children) == ("default", 0, None, None, [])
    assert meta.date_done is not None
    assert meta.date_done.utcoffset() == timedelta(0)
    assert before - timedelta(seconds=1) <= meta.date_done <= datetime.now(UTC) + timedelta(seconds=1)
    assert meta.ready
    assert meta.args is meta.kwargs is meta.worker is None


async def test_result_tells_everything_of_a_failure(app: AioTask) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("no", 5)

    async with app.worker():
        result = await fail.delay()
        with pytest.raises(ValueError, match="no"):
            await result
        returned = await result.get(propagate=False)
        assert type(returned) is ValueError
        assert returned.args == ("no", 5)
        assert await result.state() == "FAILURE"
        assert repr(await result.info()) == "ValueError('no', 5)"
        assert [await result.ready(), await result.successful(), await result.failed()] == [True, False, True]
        assert 'raise ValueError("no", 5)' in (await result.traceback() or "")


async def test_result_has_arguments_and_worker_when_results_are_extended(url: str) -> None:
    app = AioTask("proj", broker=url, result_extended=True)

    @app.task
    async def add(x: int, *, y: list[Any]) -> None:
        y.append(object())

    async with app.worker(name="web") as worker:
        result = await add.delay(2, y=[3])
        await result.get(timeout=10)
        meta = await result.meta()
    assert (meta.args, meta.kwargs, meta.worker) == ([2], {"y": [3]}, worker.hostname)


async def test_unknown_id_is_pending(app: AioTask) -> None:
    result = app.result("nobody-has-sent-this")
    assert await result.state() == "PENDING"
    assert await result.info() is None
    assert not await result.ready()
    assert (await result.meta()).id == "nobody-has-sent-this"


async def test_get_raises_timeout_error_when_there_is_no_result_in_time(app: AioTask) -> None:
    with pytest.raises(TimeoutError, match=r"No result of task nothing within 0\.01 s\."):
        await app.result("nothing").get(timeout=0.01)


async def test_get_without_patience_returns_what_is_there(app: AioTask) -> None:
    @app.task
    async def five() -> int:
        return 5

    async with app.worker():
        result = await five.delay()
        await result.get(timeout=10)
        assert await result.get(timeout=0) == 5
        assert await app.result(result.id).get(timeout=0) == 5
        with pytest.raises(TimeoutError, match=r"There is no result of task nothing yet\."):
            await app.result("nothing").get(timeout=0)


async def test_get_raises_the_task_s_own_timeout_error_as_such(app: AioTask) -> None:
    @app.task
    async def slow() -> None:
        raise TimeoutError("the remote service is slow")

    async with app.worker():
        with pytest.raises(TimeoutError, match="the remote service is slow"):
            await (await slow.delay()).get(timeout=10)


async def test_final_state_is_remembered_and_others_are_asked_for_again(app: AioTask) -> None:
    @app.task
    async def five() -> int:
        return 5

    result, again = await five.delay(), None
    assert await result.state() == "PENDING"
    async with app.worker():
        assert await result.get(timeout=10) == 5
        again = app.result(result.id)
        await again.forget()
        assert await again.state() == "PENDING"
        assert await result.get() == 5
        await result.forget()
        assert await result.state() == "PENDING"


async def test_results_of_one_id_are_equal(app: AioTask) -> None:
    assert app.result("a") == app.result("a")
    assert app.result("a") != app.result("b")
    assert len({app.result("a"), app.result("a"), app.result("b")}) == 2
    assert repr(app.result("a")) == "<AsyncResult: a>"


async def test_hundreds_wait_for_results_at_once(app: AioTask) -> None:
    @app.task
    async def double(x: int) -> int:
        return 2 * x

    results = await double.send_many([(number,) for number in range(300)])
    waiting = [asyncio.create_task(result.get(timeout=10)) for result in results for _ in range(2)]
    async with app.worker():
        assert await asyncio.gather(*waiting) == [2 * number for number in range(300) for _ in range(2)]


async def test_waiting_can_be_given_up(app: AioTask) -> None:
    @app.task
    async def five() -> int:
        return 5

    result = await five.delay()
    waiting = asyncio.create_task(result.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with app.worker():
        assert await result.get(timeout=10) == 5


async def test_result_expires(url: str, until: Until) -> None:
    app = AioTask("proj", broker=url, result_expires=0.2)

    @app.task
    async def five() -> int:
        return 5

    async with app.worker():
        result = await five.delay()
        assert await result.get(timeout=10) == 5

        async def gone() -> bool:
            return await app.result(result.id).state() == "PENDING"

        await until(gone)


@pytest.mark.parametrize("store_errors", [False, True])
async def test_nothing_is_stored_when_results_are_ignored_but_errors_where_wanted(
    app: AioTask, store_errors: bool
) -> None:
    @app.task(ignore_result=True, store_errors_even_if_ignored=store_errors)
    async def run(fails: bool) -> int:
        if fails:
            raise ValueError
        return 5

    success, failure = await run.delay(False), await run.delay(True)
    async with app.worker(burst=True) as worker:
        await worker.wait()
    async with app:
        assert await success.state() == "PENDING"
        assert await failure.state() == ("FAILURE" if store_errors else "PENDING")


# States of a running task


async def test_started_is_stored_with_process_and_node_when_it_is_tracked(app: AioTask) -> None:
    go_on = asyncio.Event()

    @app.task(track_started=True)
    async def run() -> int:
        await go_on.wait()
        return 5

    async with app.worker() as worker:
        result = await run.delay()
        async for meta in result.updates():
            if meta.state == "STARTED":
                assert set(meta.result) == {"pid", "hostname"}
                assert meta.result["hostname"] == worker.hostname
                assert not meta.ready
                go_on.set()
        assert (meta.state, meta.result) == ("SUCCESS", 5)


async def test_started_is_not_stored_when_it_is_not_tracked(app: AioTask) -> None:
    @app.task
    async def run() -> int:
        await asyncio.sleep(0.02)
        return 5

    result = await run.delay()
    following = asyncio.create_task(states_of(result))
    async with app.worker():
        assert await following == [("SUCCESS", 5)]


async def test_started_is_not_stored_when_results_are_ignored_since_no_final_state_would_follow(app: AioTask) -> None:
    @app.task(track_started=True, ignore_result=True)
    async def run() -> None: ...

    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert await result.state() == "PENDING"


@pytest.mark.parametrize("plain", [False, True])
async def test_updates_are_seen_as_they_happen_and_in_their_order(app: AioTask, plain: bool) -> None:
    seen = threading.Semaphore(0)
    seen_by_coroutine = asyncio.Semaphore(0)

    def body(self: Any) -> str:
        for number in range(3):
            self.update_state(state="PROGRESS", meta={"current": number})
            assert seen.acquire(timeout=10)
        return "done"

    async def coroutine(self: Any) -> str:
        for number in range(3):
            self.update_state("PROGRESS", {"current": number})
            await seen_by_coroutine.acquire()
        return "done"

    run = app.task(bind=True, name="proj.run")(body if plain else coroutine)
    progress = []
    async with app.worker(), asyncio.timeout(10):
        async for meta in (await run.delay()).updates():
            progress.append((meta.state, meta.result))
            seen.release()
            seen_by_coroutine.release()
    assert progress == [*(("PROGRESS", {"current": number}) for number in range(3)), ("SUCCESS", "done")]


@pytest.mark.parametrize("plain", [False, True])
async def test_last_update_is_written_before_the_final_state_however_many_there_were(app: AioTask, plain: bool) -> None:
    def body(self: Any) -> None:
        for number in range(1000):
            self.update_state("PROGRESS", number)
        raise Ignore

    async def coroutine(self: Any) -> None:
        body(self)

    run = app.task(bind=True, name="proj.run")(body if plain else coroutine)
    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert await result.state() == "PROGRESS"
        assert await result.info() == 999


async def test_states_never_go_back(app: AioTask) -> None:
    @app.task(bind=True)
    async def run(self) -> int:  # type: ignore[no-untyped-def]
        for number in range(50):
            self.update_state("PROGRESS", number)
            await asyncio.sleep(0)
        return 50

    async with app.worker():
        for _ in range(5):
            seen = [value for _, value in await states_of(await run.delay())]
            assert seen == sorted(seen)
            assert seen[-1] == 50


@pytest.mark.parametrize("plain", [False, True])
async def test_update_keeps_what_the_meta_was_when_it_was_made(app: AioTask, plain: bool) -> None:
    def body(self: Any) -> None:
        meta = {"current": 1, "log": ["a"]}
        self.update_state("PROGRESS", meta)
        meta["current"] = 2
        meta["log"].append("b")  # type: ignore[attr-defined]
        raise Ignore

    async def coroutine(self: Any) -> None:
        body(self)

    run = app.task(bind=True, name="proj.run")(body if plain else coroutine)
    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert await result.info() == {"current": 1, "log": ["a"]}


async def test_final_state_is_never_replaced_by_what_the_task_left_running(app: AioTask) -> None:
    finished = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    @app.task(bind=True)
    async def run(self) -> int:  # type: ignore[no-untyped-def]
        async def later() -> None:
            await finished.wait()
            self.update_state("PROGRESS", "too late")

        left.append(asyncio.create_task(later()))
        return 5

    async with app.worker():
        result = await run.delay()
        assert await result.get(timeout=10) == 5
        finished.set()
        await left[0]
    async with app:
        assert await app.result(result.id).state() == "SUCCESS"


async def test_ended_task_has_nothing_more_to_say_though_it_stored_no_final_state(app: AioTask) -> None:
    ended = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    @app.task(bind=True)
    async def run(self) -> None:  # type: ignore[no-untyped-def]
        async def later() -> None:
            await ended.wait()
            self.update_state("TOO_LATE")

        self.update_state("DONE_BY_HAND")
        left.append(asyncio.create_task(later()))
        raise Ignore

    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        ended.set()
        await left[0]
    async with app:
        assert await result.state() == "DONE_BY_HAND"


async def test_final_state_is_told_at_once_to_who_comes_late(app: AioTask) -> None:
    @app.task
    async def five() -> int:
        return 5

    async with app.worker():
        result = await five.delay()
        await result.get(timeout=10)
        assert await states_of(result) == [("SUCCESS", 5)]
        assert await states_of(app.result(result.id)) == [("SUCCESS", 5)]


async def test_several_may_follow_one_task(app: AioTask) -> None:
    @app.task(bind=True)
    async def run(self) -> int:  # type: ignore[no-untyped-def]
        self.update_state("HALF_WAY")
        return 5

    result = await run.delay()
    following = [asyncio.create_task(states_of(app.result(result.id))) for _ in range(3)]
    await asyncio.sleep(0)
    async with app.worker():
        for seen in await asyncio.gather(*following):
            assert seen[-1] == ("SUCCESS", 5)


@pytest.mark.parametrize("state", ["progress", "", "Half", None, 5, "A\nB", "\udcff"])
async def test_update_is_refused_when_the_state_is_no_upper_case_text(app: AioTask, state: Any) -> None:
    @app.task(bind=True)
    async def run(self) -> str:  # type: ignore[no-untyped-def]
        try:
            self.update_state(state)
        except ValueError as error:
            return str(error).encode("ascii", "backslashreplace").decode()
        return "accepted"

    async with app.worker():
        assert "it takes an upper-case text such as 'PROGRESS'." in await (await run.delay()).get(timeout=10)


@pytest.mark.parametrize("plain", [False, True])
async def test_update_is_refused_in_the_body_when_its_meta_can_not_be_serialised(app: AioTask, plain: bool) -> None:
    def body(self: Any) -> None:
        self.update_state("PROGRESS", {"file": object()})

    async def coroutine(self: Any) -> None:
        body(self)

    run = app.task(bind=True, name="proj.run")(body if plain else coroutine)
    async with app.worker():
        with pytest.raises(EncodeError, match=r"\$\.file"):
            await (await run.delay()).get(timeout=10)


async def test_update_does_nothing_in_a_direct_call(app: AioTask) -> None:
    @app.task(bind=True)
    async def run(self) -> int:  # type: ignore[no-untyped-def]
        self.update_state("PROGRESS", {"current": 1})
        return 5

    assert await run() == 5


@pytest.mark.parametrize("meta", ["the reason", {"exc_type": "ValueError", "exc_message": ["why"]}, None])
async def test_failure_can_be_set_by_hand_and_stays_when_the_task_ignores_the_rest(app: AioTask, meta: Any) -> None:
    @app.task(bind=True)
    async def run(self) -> None:  # type: ignore[no-untyped-def]
        self.update_state("FAILURE", meta)
        raise Ignore

    async with app.worker():
        with pytest.raises(ValueError if isinstance(meta, dict) else RemoteError) as raised:
            await (await run.delay()).get(timeout=10)
    assert raised.value.args == (("why",) if isinstance(meta, dict) else (meta,))


async def test_any_upper_case_text_is_a_state_of_the_task_s_own(app: AioTask) -> None:
    seen = asyncio.Event()

    @app.task(bind=True)
    async def sail(self: Task) -> None:
        self.update_state("WEIGHING_ANCHOR", {"fathoms": [1, 2]})
        await seen.wait()

    async with app.worker():
        result = await sail.delay()
        states = []
        async for meta in result.updates():
            states.append((meta.state, meta.result))
            if meta.state == "WEIGHING_ANCHOR":
                assert (await result.state(), await result.info()) == ("WEIGHING_ANCHOR", {"fathoms": [1, 2]})
                assert not await result.ready()
                seen.set()
    assert states[-2:] == [("WEIGHING_ANCHOR", {"fathoms": [1, 2]}), ("SUCCESS", None)]
