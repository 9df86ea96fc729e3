"""Celery's client calls tasks that our worker runs: what it asks for is done, and it sees what came of it."""

import asyncio
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
from amqp.exceptions import PreconditionFailed
from celery import Celery, group
from celery.exceptions import NotRegistered as CelerysNotRegistered
from celery.exceptions import Reject as CelerysReject
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from kombu.exceptions import EncodeError as CelerysEncodeError
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.shared_queue import QUEUE, dead_letters, dead_letters_now, send_raw

from aiotask import AioTask, Reject, current_request
from aiotask.tasks import Task


async def test_delay_of_celery_runs_here_and_get_returns(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @celery_app.task(name="ours.add", shared=False)  # what a client of Celery has of a task that runs elsewhere
    def theirs(x: int, y: int) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: theirs.delay(2, 3))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 5
        results = await in_celery(lambda: [theirs.delay(number, number) for number in range(20)])
        found = await in_celery(lambda: [each.get(timeout=PATIENCE_S) for each in results])
        assert found == [2 * number for number in range(20)]


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2", "lzma"])
async def test_tagged_values_and_compressed_bodies_arrive_and_return(
    app: AioTask, call: Callable[..., Any], compression: str | None
) -> None:
    value = [
        datetime(2026, 11, 21, 1, 2, 3, tzinfo=UTC),
        UUID("7d5d2f7a-60d1-4c4b-8f5e-4d2c3b0a9a11"),
        Decimal("1.50"),
        b"\x00\xff",
        "x" * 3000,
    ]
    seen: list[Any] = []

    @app.task(name="ours.echo")
    async def echo(value: Any) -> Any:
        seen.append(value)
        return value

    async with app.worker():
        assert await call("ours.echo", value, compression=compression) == value
    assert seen == [value]


async def test_floats_that_json_lacks_arrive_and_return(app: AioTask, call: Callable[..., Any]) -> None:
    @app.task(bind=True, name="ours.scale")
    async def scale(self: Task, value: float, others: list[Any], by: float) -> Any:
        self.update_state(state="PROGRESS", meta={"value": value})
        if not self.request.retries:
            raise self.retry(exc=ValueError(value), countdown=0, args=(value, others), kwargs={"by": by})
        return [value, by, *others]

    async with app.worker():
        found = await call("ours.scale", math.nan, [{"a": -math.inf}], kwargs={"by": math.inf})
    assert math.isnan(found[0])
    assert found[1:] == [math.inf, {"a": -math.inf}]


async def test_empty_compression_means_none(app: AioTask, celery_app: Celery, in_celery: InCelery[Any]) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.add", b"[[2, 3], {}, null]", compression=""))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 5


@pytest.mark.parametrize("extended", [False, True])
async def test_text_of_half_a_character_arrives_and_fails_its_own_task_when_it_is_returned(
    app: AioTask, call: Callable[..., Any], extended: bool
) -> None:
    """As Celery's client sends a file name that is no UTF-8; ours never does."""
    app.conf.result_extended = extended
    name = os.fsdecode(b"caf\xe9")

    @app.task(name="ours.length")
    async def length(text: str) -> int:
        return len(text)

    @app.task(name="ours.echo")
    async def echo(text: str) -> str:
        return text

    async with app.worker():
        assert await call("ours.length", name) == 4
        with pytest.raises(CelerysEncodeError, match="surrogates not allowed"):
            await call("ours.echo", name)
        assert await call("ours.length", name) == 4


async def test_request_has_what_celery_s_client_has_said(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any]
) -> None:
    seen: dict[str, Any] = {}

    @app.task(name="ours.look")
    async def look(x: int, *, y: int) -> None:
        request = current_request()
        for name in (
            *("id", "task", "args", "kwargs", "root_id", "parent_id", "group", "taskset", "chord", "chain", "retries"),
            *("headers", "properties", "timelimit", "delivery_info", "shadow", "origin", "reply_to", "correlation_id"),
            *("eta", "expires", "utc", "callbacks", "errbacks", "priority", "called_directly", "is_eager"),
        ):
            seen[name] = getattr(request, name)

    now = datetime.now(UTC)
    async with app.worker():
        await call(
            "ours.look",
            1,
            kwargs={"y": 2},
            task_id="an-id",
            root_id="a-root",
            parent_id="a-parent",
            group_id="a-group",
            headers={"x-mine": "v"},
            priority=7,
            time_limit=60,
            soft_time_limit=45,
            app_id="an-app",
            shadow="other",
            expires=60,
            countdown=0.1,
        )
    assert (seen["id"], seen["task"], seen["args"], seen["kwargs"]) == ("an-id", "ours.look", [1], {"y": 2})
    assert (seen["root_id"], seen["parent_id"]) == ("a-root", "a-parent")
    assert seen["group"] == seen["taskset"] == "a-group"
    assert seen["properties"]["app_id"] == "an-app"
    assert seen["properties"]["correlation_id"] == seen["correlation_id"] == "an-id"
    assert seen["delivery_info"]["priority"] == 7
    assert seen["priority"] == 2  # 0 is the most urgent here, 9 there
    assert seen["delivery_info"]["redelivered"] is False
    assert (seen["retries"], seen["shadow"], seen["timelimit"]) == (0, "other", (60, 45))
    assert seen["headers"] == {"x-mine": "v"}
    assert seen["origin"].startswith("gen")
    assert seen["reply_to"] == await in_celery(lambda: celery_app.thread_oid)
    assert now < seen["eta"] < now + timedelta(seconds=30)
    assert now + timedelta(seconds=30) < seen["expires"] < now + timedelta(seconds=90)
    for name in ("chord", "chain", "callbacks", "errbacks", "called_directly", "is_eager"):
        assert not seen[name]
    assert seen["utc"] is True


async def test_error_reaches_celery_with_its_name_module_and_traceback(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.fail")
    async def fail() -> None:
        raise LookupError("gone", 7)

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.fail"))
        with pytest.raises(LookupError) as raised:
            await in_celery(lambda: result.get(timeout=PATIENCE_S))
        assert raised.value.args == ("gone", 7)
        traceback = await in_celery(lambda: result.traceback)
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("LookupError: ('gone', 7)\n")


async def test_error_that_celery_can_t_import_keeps_its_name(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    """Its client makes a class of that name then; with the module, see the results in Redis."""
    away = ModuleType("far.away.errors")
    exec("class Distant(Exception): pass", vars(away))

    @app.task(name="ours.fail")
    async def fail() -> None:
        raise away.Distant("too far")

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.fail"))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    assert (type(found).__name__, found.args) == ("Distant", ("too far",))


@pytest.mark.parametrize("how", ["countdown", "eta"])
async def test_delayed_task_of_celery_runs_when_it_is_due(app: AioTask, call: Callable[..., Any], how: str) -> None:
    @app.task(name="ours.now")
    async def now() -> float:
        return time.time()

    async with app.worker():
        due = time.time() + 1.0
        options = {"countdown": 1.0} if how == "countdown" else {"eta": datetime.now(UTC) + timedelta(seconds=1)}
        assert await call("ours.now", **options) >= due


async def test_expired_task_of_celery_is_not_run(app: AioTask, celery_app: Celery, in_celery: InCelery[Any]) -> None:
    ran: list[int] = []

    @app.task(name="ours.late")
    async def late() -> None:
        ran.append(1)

    past = (datetime.now(UTC) - timedelta(seconds=5)).isoformat()
    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.late", expires=past))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
    assert (type(found), found.args, ran) == (TaskRevokedError, ("expired",), [])


async def test_task_of_celery_that_rabbitmq_lets_expire_is_gone(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any]
) -> None:
    """Celery's client says in a property when; nobody is told."""
    ran: list[int] = []

    @app.task(name="ours.late")
    async def late(number: int) -> None:
        ran.append(number)

    def waiting() -> int:
        with celery_app.connection() as connection:
            return int(connection.default_channel.queue_declare(QUEUE, passive=True).message_count)

    dropped = await in_celery(lambda: celery_app.send_task("ours.late", (1,), expires=0.2))
    async with asyncio.timeout(PATIENCE_S):
        while await in_celery(waiting):
            pass
    async with app.worker():
        await call("ours.late", 2, expires=60)
        assert await in_celery(lambda: dropped.state) == "PENDING"
        assert await dead_letters_now(app) == []
    assert ran == [2]


async def test_limits_of_celery_s_client_are_known_and_not_enforced(app: AioTask, call: Callable[..., Any]) -> None:
    @app.task(name="ours.slow")
    async def slow() -> list[Any]:
        await asyncio.sleep(0.3)
        return list(current_request().timelimit)

    async with app.worker():
        assert await call("ours.slow", time_limit=0.1, soft_time_limit=0.1) == [0.1, 0.1]


async def test_task_that_nobody_has_registered_is_celery_s_own_error(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.missing"))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        [letter] = await dead_letters(app)
    assert type(found) is CelerysNotRegistered
    assert (letter.id, letter.reason) == (result.id, "NotRegistered")


async def test_task_of_celery_is_retried_here(app: AioTask, call: Callable[..., Any]) -> None:
    @app.task(bind=True, name="ours.again", max_retries=5)
    async def again(self: Task, until: int) -> Any:
        if self.request.retries < until:
            raise self.retry(countdown=0)
        return [self.request.retries, self.request.headers, self.request.properties["app_id"]]

    async with app.worker():
        assert await call("ours.again", 2, headers={"x-mine": "v"}, app_id="a", priority=3) == [2, {"x-mine": "v"}, "a"]


async def test_retry_of_ours_is_seen_by_celery_s_client(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(bind=True, name="ours.later")
    async def later(self: Task) -> None:
        raise self.retry(exc=ConnectionError("not yet"), countdown=3600)

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.later"))
        async with asyncio.timeout(PATIENCE_S):
            while await in_celery(lambda: result.state) != "RETRY":
                await asyncio.sleep(0.02)
        found = await in_celery(lambda: result.info)
    assert (type(found), found.args) == (ConnectionError, ("not yet",))


@pytest.mark.parametrize(
    ("asked", "declared", "stored"),
    [(None, True, False), (None, False, True), (True, False, False), (False, True, True)],
)
async def test_results_are_ignored_as_the_call_says_or_else_the_task(
    app: AioTask,
    celery_app: Celery,
    in_celery: InCelery[Any],
    call: Callable[..., Any],
    asked: bool | None,
    declared: bool,
    stored: bool,
) -> None:
    @app.task(name="ours.t", ignore_result=declared)
    async def task() -> str:
        return "value"

    @app.task(name="ours.behind")
    async def behind() -> None: ...

    options = {} if asked is None else {"ignore_result": asked}
    async with app.worker(concurrency=1):
        result = await in_celery(lambda: celery_app.send_task("ours.t", **options))
        await call("ours.behind")
        state = await in_celery(lambda: celery_app.AsyncResult(result.id).state)
    assert state == ("SUCCESS" if stored else "PENDING")


@pytest.mark.parametrize("requeue", [False, True])
async def test_rejected_task_of_celery(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], requeue: bool
) -> None:
    @app.task(name="ours.reject", acks_late=True)
    async def reject() -> bool:
        redelivered: bool = current_request().delivery_info["redelivered"]
        if not redelivered or not requeue:
            raise Reject("no good", requeue=requeue)
        return redelivered

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.reject"))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        if requeue:
            assert found is True
        else:
            assert (type(found), found.args[0]) == (CelerysReject, "no good")
            [letter] = await dead_letters(app)
            assert (letter.id, letter.reason) == (result.id, "Reject")


async def test_group_of_celery_runs_here(app: AioTask, celery_app: Celery, in_celery: InCelery[Any]) -> None:
    """Its parts know that they belong together, and embed nothing."""
    seen: set[str | None] = set()

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        seen.add(current_request().group)
        return x + y

    async with app.worker():
        result = await in_celery(
            lambda: group([celery_app.signature("ours.add", (n, n)) for n in range(5)], app=celery_app).apply_async()
        )
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == [0, 2, 4, 6, 8]
        metas = await in_celery(lambda: [member._get_task_meta() for member in result.results])
        if app.backend_url.startswith("redis"):  # what others have sent can be asked for there
            metas += [msgspec.structs.asdict(await app.result(member.id).meta()) for member in result.results]
    assert seen == {result.id} == {meta["group_id"] for meta in metas}


@pytest.mark.priorities
async def test_urgent_tasks_of_celery_run_first_here(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    """9 is the most urgent of Celery's over RabbitMQ, 0 of ours on every broker."""
    ran: list[tuple[int, int, int]] = []

    @app.task(bind=True, name="ours.look", max_retries=1)
    async def look(self: Task) -> None:
        request = self.request
        ran.append((request.delivery_info["priority"], request.priority, request.retries))
        if not request.retries:
            raise self.retry(countdown=0)

    sent = await in_celery(lambda: [celery_app.send_task("ours.look", priority=number) for number in (0, 5, 9)])
    async with app.worker(concurrency=1):
        for result in sent:
            await in_celery(lambda: result.get(timeout=PATIENCE_S))  # noqa: B023
    firsts = [(theirs, ours) for theirs, ours, retries in ran if not retries]
    assert firsts == [(9, 0), (5, 4), (0, 9)]
    assert sorted(ran) == sorted([(*pair, retries) for pair in firsts for retries in (0, 1)])


async def test_queue_that_we_make_is_one_for_celery_when_it_is_classic(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    def send(queue: str) -> AsyncResult:
        return celery_app.send_task("ours.add", (1, 2), queue=queue)

    async with app.worker(queues=["quorum"]):
        with pytest.raises(PreconditionFailed, match="x-queue-type"):
            await in_celery(lambda: send("quorum"))
    other = AioTask("ours", broker=app.broker_url, backend=app.backend_url, task_protocol=2)
    other.conf.broker_transport_options = {"queue_type": "classic"}
    other.task(name="ours.add")(add.run)
    async with other.worker(queues=["classic"]):
        result = await in_celery(lambda: send("classic"))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 3
