"""Results in Redis: Celery's own client reads what a worker of aiotask stores, and the other way round."""

import asyncio
import math
import os
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError as CelerysRevoked
from celery.exceptions import TimeoutError as CelerysTimeout
from celery.result import ResultSet
from tests.interop.conftest import PATIENCE_S, InCelery, Theirs

from aiotask import AioTask, ImproperlyConfigured, states
from aiotask.tasks import Task

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # Celery's call

VALUES: list[Any] = [
    3,
    None,
    "a text, also in Ελληνικά",
    [1, [2.5, True], {"deep": {"er": None}}],
    datetime(2026, 11, 21, 15, 0, 0, 250, tzinfo=UTC),
    date(2026, 11, 21),
    uuid.UUID("7d5d2f7a-60d1-4c4b-8f5e-4d2c3b0a9a11"),
    Decimal("3.10"),
    b"\x00bytes\xff",
    math.inf,
    [-math.inf, {"deep": math.inf}],
]


class Picky(Exception):
    """Its constructor wants other things than its args tell."""

    def __init__(self, what: str, *, why: str) -> None:
        super().__init__(f"{what} because {why}")


def returning(value: Any) -> Callable[[], Any]:
    async def task() -> Any:
        return value

    return task


def raising(app: AioTask, exc: BaseException, **options: Any) -> Any:
    async def task() -> None:
        raise exc

    return app.task(name="ours.raising", **options)(task)


# ---- what Celery's client sees ----


async def test_get_returns_what_the_worker_returned(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any
) -> None:
    async with app.worker():
        result = await theirs(await add.delay(2, 3))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 5
    assert (await in_celery(lambda: result.state), await in_celery(result.successful)) == ("SUCCESS", True)


async def test_get_that_waits_is_told(app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any) -> None:
    async with app:
        result = await theirs(await add.delay(2, 3))
        waiting = asyncio.create_task(in_celery(lambda: result.get(timeout=PATIENCE_S)))
        backend: Any = app.backend
        channel = f"celery-task-meta-{result.id}"
        async with asyncio.timeout(PATIENCE_S):
            while not (await backend.link.command("PUBSUB", "NUMSUB", channel))[1]:
                await asyncio.sleep(0.01)
        async with app.worker():
            assert await waiting == 5


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_value_arrives_as_it_was_returned(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any], value: Any
) -> None:
    task = app.task(name="ours.returning")(returning(value))
    async with app.worker():
        result = await theirs(await task.delay())
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S))
    assert (found, type(found)) == (value, type(value))


async def test_error_is_raised_as_its_class_where_that_is_imported(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any]
) -> None:
    task = raising(app, LookupError("no such thing", 7))
    async with app.worker():
        result = await theirs(await task.delay())
        with pytest.raises(LookupError) as raised:
            await in_celery(lambda: result.get(timeout=PATIENCE_S))
    assert raised.value.args == ("no such thing", 7)
    assert await in_celery(lambda: (result.state, result.failed())) == ("FAILURE", True)


async def test_error_of_a_module_that_is_not_imported_keeps_its_name_and_module(
    app: AioTask, celery_app: Celery, theirs: Theirs, in_celery: InCelery[Any]
) -> None:
    away = ModuleType("far.away.errors")
    exec("class Distant(Exception): pass", vars(away))
    assert away.__name__ not in sys.modules
    task = raising(app, away.Distant("too far"))
    async with app.worker():
        result = await theirs(await task.delay())
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    assert (type(found).__name__, found.args) == ("Distant", ("too far",))
    backend: Any = celery_app.backend
    stored = await in_celery(lambda: backend.decode(backend.get(backend.get_key_for_task(result.id))))
    assert stored["result"] == {"exc_type": "Distant", "exc_message": ["too far"], "exc_module": "far.away.errors"}


async def test_traceback_is_the_worker_s(app: AioTask, theirs: Theirs, in_celery: InCelery[Any]) -> None:
    async with app.worker():
        result = await theirs(await raising(app, KeyError("gone")).delay())
        await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    text = await in_celery(lambda: result.traceback)
    assert text.startswith("Traceback (most recent call last):\n")
    assert "in task\n    raise exc\n" in text
    assert text.endswith("KeyError: 'gone'\n")


@pytest.mark.parametrize("exc", [Picky("no", why="so"), ValueError(object())], ids=["constructor", "args"])
async def test_error_that_can_t_be_rebuilt_is_still_an_error(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any], exc: Exception
) -> None:
    async with app.worker():
        result = await theirs(await raising(app, exc).delay())
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    assert isinstance(found, Exception)
    assert "no because so" in str(found) or "ValueError(<object object" in str(found)
    assert await in_celery(lambda: result.state) == "FAILURE"


async def test_states_before_the_final_one_are_seen_with_their_meta(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any]
) -> None:
    go_on: dict[str, asyncio.Event] = {"started": asyncio.Event(), "progress": asyncio.Event()}

    @app.task(bind=True, name="ours.slow", track_started=True)
    async def slow(self: Task) -> str:
        await go_on["started"].wait()
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 2})
        await go_on["progress"].wait()
        return "done"

    async def seen(state: str) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            while await in_celery(lambda: result.state) != state:
                await asyncio.sleep(0.01)
        return await in_celery(lambda: result.info)

    async with app:
        result = await theirs(await slow.delay())
        assert await seen("PENDING") is None
        async with app.worker(name="seen"):
            assert set(await seen("STARTED")) == {"pid", "hostname"}
            go_on["started"].set()
            assert await seen("PROGRESS") == {"current": 1, "total": 2}
            go_on["progress"].set()
            assert await seen("SUCCESS") == "done"


async def test_retry_is_seen_with_the_error_that_led_to_it(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any]
) -> None:
    @app.task(bind=True, name="ours.again")
    async def again(self: Task) -> None:
        raise self.retry(exc=ConnectionError("not yet"), countdown=3600)

    async with app.worker():
        ours = await again.delay()
        async with asyncio.timeout(PATIENCE_S):
            while await ours.state() != states.RETRY:
                await asyncio.sleep(0.01)
        result = await theirs(ours)
        found = await in_celery(lambda: (result.state, result.info, result.traceback, result.date_done))
    state, error, traceback, done = found
    assert (state, type(error), error.args, done) == ("RETRY", ConnectionError, ("not yet",), None)
    assert "ConnectionError: not yet" in traceback


async def test_expired_task_is_revoked(app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any) -> None:
    async with app.worker():
        result = await theirs(await add.apply_async((1, 1), expires=-1))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    assert await in_celery(lambda: result.state) == "REVOKED"
    assert type(found).__name__ == CelerysRevoked.__name__
    assert found.args == ("expired",)


async def test_many_results_are_joined(
    app: AioTask, celery_app: Celery, theirs: Theirs, in_celery: InCelery[Any], add: Any
) -> None:
    async with app.worker():
        ours = await add.send_many([(number, number) for number in range(50)])
        results = ResultSet([await theirs(result) for result in ours], app=celery_app)
        found = await in_celery(lambda: results.join_native(timeout=PATIENCE_S))
    assert found == [2 * number for number in range(50)]


async def test_children_and_extended_fields_are_known(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any
) -> None:
    app.conf.result_extended = True

    @app.task(name="ours.parent")
    async def parent(number: int, *, more: int) -> str:
        return (await add.delay(number, more)).id

    async with app.worker(name="w"):
        result = await theirs(await parent.delay(1, more=2))
        child = await in_celery(lambda: result.get(timeout=PATIENCE_S))
        [found] = await in_celery(lambda: result.children)
        assert found.id == child
        assert await in_celery(lambda: found.get(timeout=PATIENCE_S)) == 3
    fields = await in_celery(lambda: (result.name, result.args, result.kwargs, result.queue, result.retries))
    assert fields == ("ours.parent", [1], {"more": 2}, "default", 0)
    worker, done = await in_celery(lambda: (result.worker, result.date_done))
    assert worker.startswith("w@")
    assert (datetime.now(UTC) - done).total_seconds() < PATIENCE_S


async def test_ignored_result_is_never_there(app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any) -> None:
    async with app.worker():
        ignored = await add.apply_async((1, 1), ignore_result=True)
        assert await (await add.delay(1, 2)) == 3  # in the same queue, behind it
    result = await theirs(ignored)
    assert await in_celery(lambda: result.state) == "PENDING"
    with pytest.raises(CelerysTimeout):
        await in_celery(lambda: result.get(timeout=0.1))


async def test_forgotten_result_is_gone_for_us_too(
    app: AioTask, theirs: Theirs, in_celery: InCelery[Any], add: Any
) -> None:
    async with app.worker():
        ours = await add.delay(1, 1)
        result = await theirs(ours)
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 2
        await in_celery(result.forget)
        assert await app.result(ours.id).state() == states.PENDING


# ---- what our client sees of Celery's ----


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
async def test_value_that_celery_has_stored_arrives(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], value: Any
) -> None:
    async with app:
        result = app.result("stored-by-celery")
        waiting = asyncio.create_task(result.get(timeout=PATIENCE_S))
        await in_celery(lambda: celery_app.backend.store_result(result.id, value, "SUCCESS"))
        assert await waiting == value


async def test_text_of_half_a_character_that_celery_has_stored_arrives(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    """As file names that are no UTF-8 are read."""
    value = os.fsdecode(b"caf\xe9")
    async with app:
        result = app.result("stored-by-celery")
        await in_celery(lambda: celery_app.backend.store_result(result.id, value, "SUCCESS"))
        assert await result.get(timeout=PATIENCE_S) == value


async def test_error_that_celery_has_stored_is_raised_with_its_traceback(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    async with app:
        result = app.result("failed-in-celery")
        error = LookupError("no such thing", 7)
        await in_celery(lambda: celery_app.backend.mark_as_failure(result.id, error, traceback="Traceback: theirs"))
        with pytest.raises(LookupError) as raised:
            await result.get(timeout=PATIENCE_S)
    assert raised.value.args == error.args
    assert "Traceback: theirs" in raised.value.__notes__[-1]


async def test_states_that_celery_stores_are_followed(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    backend = celery_app.backend
    async with app:
        result = app.result("moving-in-celery")
        seen: list[tuple[str, Any]] = []
        await in_celery(lambda: backend.mark_as_started(result.id, pid=1, hostname="celery@vm"))
        async for meta in result.updates():
            seen.append((meta.state, meta.result))
            if meta.state == "STARTED":
                await in_celery(lambda: backend.store_result(result.id, {"done": 1}, "PROGRESS"))
            elif meta.state == "PROGRESS":
                await in_celery(lambda: backend.mark_as_done(result.id, "ready"))
    assert seen == [("STARTED", {"pid": 1, "hostname": "celery@vm"}), ("PROGRESS", {"done": 1}), ("SUCCESS", "ready")]


async def test_revoked_in_celery_is_revoked_here(app: AioTask, celery_app: Celery, in_celery: InCelery[Any]) -> None:
    async with app:
        result = app.result("revoked-in-celery")
        await in_celery(lambda: celery_app.backend.mark_as_revoked(result.id, reason="terminated"))
        with pytest.raises(Exception, match="terminated") as raised:
            await result.get(timeout=PATIENCE_S)
        assert type(raised.value).__name__ == "TaskRevokedError"
        assert await result.state() == states.REVOKED


async def test_celery_s_protocol_is_refused_on_a_broker_without_headers(redis_url: str, tmp_path: Path) -> None:
    """Its messages need headers beside the body: nothing is sent."""
    for broker in (redis_url, f"sqlite:///{tmp_path}/tasks.db"):
        async with AioTask("ours", broker=broker, task_protocol=2) as app:
            with pytest.raises(ImproperlyConfigured, match=r"needs a broker whose messages have headers: amqp://"):
                await app.send_task("ours.add", (1, 2))
            admin: Any = app.broker
            assert await admin.queues() == []
