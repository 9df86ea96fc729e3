"""Workers of ours and of Celery's beside each other on one RabbitMQ: either side calls the other."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from amqp.exceptions import PreconditionFailed
from celery import Celery, group
from celery.exceptions import NotRegistered as CelerysNotRegistered
from celery.exceptions import Reject as CelerysReject
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from kombu.exceptions import ContentDisallowed as CelerysContentDisallowed
from kombu.exceptions import DecodeError as CelerysDecodeError
from kombu.utils.uuid import uuid
from tests.interop.conftest import PATIENCE_S, InCelery

from aiotask import AioTask, Reject, RemoteError, current_request
from aiotask import TaskRevokedError as OurRevoked
from aiotask.message import DeadLetter
from aiotask.tasks import Task

QUEUE = "shared"
HERE = Path(__file__).parent


@pytest.fixture(params=["rpc", "redis"])
def backend_url(request: pytest.FixtureRequest) -> str:
    return "rpc://" if request.param == "rpc" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def max_priority(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """What the queue is made with, and all programs are set to, in tests that are marked so."""
    if not request.node.get_closest_marker("priorities"):
        return None
    monkeypatch.setenv("MAX_PRIORITY", "9")
    return 9


@pytest.fixture
def celery_app(rabbit_url: str, backend_url: str, max_priority: int | None) -> Celery:
    """Celery's client. It makes the queue, as it does where Celery was there first."""
    app = Celery("theirs", broker=rabbit_url, backend=backend_url, set_as_current=False)
    app.conf.task_default_queue = QUEUE
    app.conf.task_queue_max_priority = max_priority
    app.conf.broker_connection_retry = False
    with app.connection() as connection:
        app.amqp.queues[QUEUE](connection.default_channel).declare()
    return app


@pytest.fixture
async def app(
    rabbit_url: str, backend_url: str, celery_app: Celery, max_priority: int | None
) -> AsyncIterator[AioTask]:
    made = AioTask("ours", broker=rabbit_url, backend=backend_url, task_protocol=2, task_default_queue=QUEUE)
    made.conf.task_queue_max_priority = max_priority
    yield made
    await made.close()


class CeleryWorker:
    """A worker process of Celery's, gone with the test."""

    def __init__(self, broker: str, backend: str) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_side", "worker", "-Q", QUEUE),
                *("--pool", "threads", "-c", "4", "--without-gossip", "--without-mingle", "-l", "INFO"),
            ],
            cwd=HERE,
            env={**os.environ, "BROKER": broker, "BACKEND": backend},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()

    def wait_for(self, text: str) -> None:
        with self._news:
            found = self._news.wait_for(lambda: any(text in line for line in self.lines), timeout=60)
            assert found, f"no {text!r}; it said:\n{''.join(self.lines)}"

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait(10)
        self._reader.join(10)


@pytest.fixture
def celery_worker(rabbit_url: str, backend_url: str, celery_app: Celery) -> Iterator[CeleryWorker]:
    worker = CeleryWorker(rabbit_url, backend_url)
    try:
        worker.wait_for(" ready.")
        yield worker
    finally:
        worker.end()


@pytest.fixture
def call(celery_app: Celery, in_celery: InCelery[Any]) -> Callable[..., Any]:
    """Sends by Celery's client, and returns what its `get` returns."""

    async def call(name: str, *args: Any, kwargs: dict[str, Any] | None = None, **options: Any) -> Any:
        result = await in_celery(lambda: celery_app.send_task(name, args, kwargs, **options))
        return await in_celery(lambda: result.get(timeout=PATIENCE_S))

    return call


def send_raw(
    celery_app: Celery,
    task: str,
    body: bytes = b"[[], {}, null]",
    content_type: str = "application/json",
    **headers: Any,
) -> AsyncResult:
    """Send what Celery's client would not: a body of its own, or headers that contradict the properties."""
    task_id = uuid()
    backend: Any = celery_app.backend
    made = celery_app.amqp.as_task_v2(task_id, task, reply_to=celery_app.thread_oid)
    with celery_app.producer_pool.acquire() as producer:
        backend.on_task_call(producer, task_id)
        producer.publish(
            body,
            routing_key=QUEUE,
            headers=made.headers | headers,
            content_type=content_type,
            content_encoding="utf-8",
            **made.properties,
        )
    return AsyncResult(task_id, app=celery_app)


async def dead_letters_now(app: AioTask) -> list[DeadLetter]:
    broker: Any = app.broker
    return list(await broker.dead_letters([QUEUE]))


async def dead_letters(app: AioTask) -> list[DeadLetter]:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await dead_letters_now(app)):
            await asyncio.sleep(0.02)
    return found


# ---- Celery calls, ours runs ----


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


# ---- we call, Celery runs ----


async def test_task_of_celery_s_worker_is_called_and_its_result_comes(
    app: AioTask, celery_worker: CeleryWorker
) -> None:
    async with app:
        result = await app.send_task("celery.side.add", (2, 3))
        assert await result.get(timeout=PATIENCE_S) == 5
        results = [await app.send_task("celery.side.add", (number, number)) for number in range(20)]
        assert [await each.get(timeout=PATIENCE_S) for each in results] == [2 * number for number in range(20)]


async def test_celery_s_worker_sees_all_that_we_say(app: AioTask, celery_worker: CeleryWorker) -> None:
    before = time.time()
    async with app:
        result = await app.send_task(
            "celery.side.look", headers={"x-mine": "v"}, countdown=0.5, expires=60, argsrepr="(...)"
        )
        seen = await result.get(timeout=PATIENCE_S)
        assert time.time() >= before + 0.5
    assert (seen["id"], seen["root_id"], seen["parent_id"], seen["retries"]) == (result.id, result.id, None, 0)
    assert seen["mine"] == "v"
    assert seen["argsrepr"] == "(...)"
    assert seen["origin"] == app.origin
    assert datetime.fromisoformat(seen["eta"]).timestamp() == pytest.approx(before + 0.5, abs=5)
    assert datetime.fromisoformat(seen["expires"]).timestamp() == pytest.approx(before + 60, abs=5)


async def test_celery_s_worker_waits_until_our_eta(app: AioTask, celery_worker: CeleryWorker) -> None:
    due = datetime.now(UTC) + timedelta(seconds=1)
    async with app:
        result = await app.send_task("celery.side.look", eta=due)
        seen = await result.get(timeout=PATIENCE_S)
        assert datetime.now(UTC) >= due
    assert datetime.fromisoformat(seen["eta"]) == due


async def test_celery_s_worker_revokes_what_has_expired(app: AioTask, celery_worker: CeleryWorker) -> None:
    async with app:
        result = await app.send_task("celery.side.add", (1, 2), expires=-5)
        with pytest.raises(OurRevoked, match="expired"):
            await result.get(timeout=PATIENCE_S)
        assert await result.state() == "REVOKED"


async def test_celery_s_worker_ignores_results_as_we_say_or_else_the_task(
    app: AioTask, celery_worker: CeleryWorker
) -> None:
    async with app:
        kept = await app.send_task("celery.side.look", ignore_result=False)
        dropped = await app.send_task("celery.side.add", (1, 2), ignore_result=True)
        declared = await app.send_task("celery.side.ignored")
        overridden = await app.send_task("celery.side.ignored", ignore_result=False)
        assert (await kept.get(timeout=PATIENCE_S))["ignore_result"] is False
        assert await overridden.get(timeout=PATIENCE_S) == "value"
        await (await app.send_task("celery.side.add", (1, 2))).get(timeout=PATIENCE_S)
        celery_worker.wait_for(f"celery.side.add[{dropped.id}] succeeded")
        celery_worker.wait_for(f"celery.side.ignored[{declared.id}] succeeded")
        assert [await dropped.state(), await declared.state()] == ["PENDING", "PENDING"]


async def test_rejection_by_celery_s_worker_is_a_failure_here(app: AioTask, celery_worker: CeleryWorker) -> None:
    async with app:
        result = await app.send_task("celery.side.reject")
        with pytest.raises(Reject, match="no good"):
            await result.get(timeout=PATIENCE_S)


async def test_retry_of_celery_s_worker_is_run_here(
    app: AioTask, celery_worker: CeleryWorker, call: Callable[..., Any]
) -> None:
    app.conf.broker_transport_options = {"queue_type": "classic"}  # as Celery's worker declares what it sends to

    @app.task(name="celery.side.hand_over")
    async def hand_over(queue: str) -> dict[str, Any]:
        request = current_request()
        return {"here": True, "retries": request.retries, "mine": request.headers["x-mine"], "root": request.root_id}

    async with app.worker(queues=["ours.alone"]):
        theirs = await call("celery.side.hand_over", "ours.alone", task_id="theirs", headers={"x-mine": "v"})
        assert theirs == {"here": True, "retries": 1, "mine": "v", "root": "theirs"}
        result = await app.send_task("celery.side.hand_over", ("ours.alone",), headers={"x-mine": "w"})
        found = await result.get(timeout=PATIENCE_S)
        assert found == {"here": True, "retries": 1, "mine": "w", "root": result.id}


async def test_retry_of_ours_is_run_by_celery_s_worker(
    app: AioTask, rabbit_url: str, backend_url: str, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(bind=True, name="celery.side.hand_over")
    async def hand_over(self: Task, queue: str) -> None:
        raise self.retry(countdown=0.2)

    async with app.worker():
        theirs = await in_celery(
            lambda: celery_app.send_task("celery.side.hand_over", ("unused",), headers={"x-mine": "v"})
        )
        async with asyncio.timeout(PATIENCE_S):
            while await in_celery(lambda: theirs.state) != "RETRY":
                await asyncio.sleep(0.02)
    other = CeleryWorker(rabbit_url, backend_url)
    try:
        found = await in_celery(lambda: theirs.get(timeout=PATIENCE_S))
    finally:
        other.end()
    assert found == {"retries": 1, "mine": "v", "root_id": theirs.id}


async def test_celery_s_worker_returns_states_errors_and_retries(app: AioTask, celery_worker: CeleryWorker) -> None:
    async with app:
        with pytest.raises(RemoteError) as raised:
            await (await app.send_task("celery.side.fail", ("why", 7))).get(timeout=PATIENCE_S)
        assert (type(raised.value).__name__, raised.value.args) == ("TheirError", ("why", 7))
        assert "in fail" in raised.value.__notes__[-1]
        assert await (await app.send_task("celery.side.again", (2,))).get(timeout=PATIENCE_S) == 2
        progress = await app.send_task("celery.side.progress")
        states = [meta.state async for meta in progress.updates()]
        assert states[-1] == "SUCCESS"


async def test_values_survive_the_way_there_and_back(app: AioTask, celery_worker: CeleryWorker) -> None:
    value = [datetime(2026, 11, 21, tzinfo=UTC), UUID(int=7), Decimal("1.50"), b"\x00\xff", {"deep": [None, 1.5]}]
    async with app:
        for options in ({}, {"compression": "gzip"}, {"compression": "bzip2"}, {"compression": "lzma"}):
            result = await app.send_task("celery.side.echo", (value,), **options)
            assert await result.get(timeout=PATIENCE_S) == value


async def test_message_of_our_own_protocol_is_dropped_by_celery_s_worker(
    app: AioTask, celery_worker: CeleryWorker
) -> None:
    """Why `task_protocol` is to be 2 where one takes from the same queue."""
    app.conf.task_protocol = "aiotask"
    async with app:
        result = await app.send_task("celery.side.add", (1, 2))
        await asyncio.to_thread(celery_worker.wait_for, "Can't decode message body")
        assert await result.state() == "PENDING"
        app.conf.task_protocol = 2
        assert await (await app.send_task("celery.side.add", (1, 2))).get(timeout=PATIENCE_S) == 3


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


# ---- what ends Celery's worker does not end ours ----


@pytest.mark.parametrize("body", [b"[[1], {}]", b"42", b"\xff", b"{}"])
async def test_malformed_body_is_dead_lettered(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any], body: bytes
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.add", body))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        assert type(found) is CelerysDecodeError
        assert await call("ours.add", 1, 2) == 3
        [letter] = await dead_letters(app)
    assert (letter.id, letter.reason, letter.body) == (result.id, "DecodeError", body)


async def test_pickle_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    @app.task(name="ours.add")
    async def add(x: Any) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.add", (Bomb(),), serializer="pickle"))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        [letter] = await dead_letters(app)
    assert type(found) is CelerysContentDisallowed
    assert (letter.id, letter.reason) == (result.id, "ContentDisallowed")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content_type", ["application/x-yaml", "application/x-msgpack", "text/plain"])
async def test_content_that_is_not_accepted_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], content_type: str
) -> None:
    @app.task(name="ours.add")
    async def add(x: Any) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.add", b"[[1], {}, {}]", content_type=content_type))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        [letter] = await dead_letters(app)
    assert type(found) is CelerysContentDisallowed
    assert (letter.id, letter.reason) == (result.id, "ContentDisallowed")
    assert content_type in letter.detail


async def test_message_of_protocol_1_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> None: ...

    celery_app.conf.task_protocol = 1
    async with app.worker():
        sent = await in_celery(lambda: celery_app.send_task("ours.add", (1, 2)))
        [letter] = await dead_letters(app)
        found = await in_celery(lambda: sent.get(timeout=PATIENCE_S, propagate=False))
    assert (letter.id, letter.reason, type(found).__name__) == (sent.id, "DecodeError", "DecodeError")
    assert "protocol 1 is not read" in letter.detail


# ---- canvas: what is embedded in a message is not carried out here, and never dropped ----


def chain(app: Celery) -> Any:
    return (app.signature("ours.add", (1, 2)) | app.signature("ours.add", (3,))).apply_async()


def link(app: Celery) -> Any:
    return app.send_task("ours.add", (1, 2), link=app.signature("ours.add", (3,)))


def link_error(app: Celery) -> Any:
    return app.send_task("ours.add", (1, 2), link_error=app.signature("ours.add", (3,)))


def chord(app: Celery) -> Any:
    body = app.signature("ours.add", (3,), app=app)
    app.send_task("ours.add", (1, 2), task_id="in-a-header", group_id="a-group", group_index=0, chord=body)
    return app.AsyncResult("in-a-header")


@pytest.mark.parametrize(
    ("apply", "embedded"),
    [(chain, "chain"), (link, "callbacks"), (link_error, "errbacks"), (chord, "chord")],
    ids=["chain", "link", "link_error", "chord"],
)
async def test_message_that_embeds_what_is_to_follow_is_dead_lettered_and_can_be_replayed_to_celery(
    app: AioTask,
    celery_app: Celery,
    in_celery: InCelery[Any],
    apply: Callable[[Celery], Any],
    embedded: str,
) -> None:
    ran: list[int] = []

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> None:
        ran.append(1)

    async with app.worker():
        last = await in_celery(lambda: apply(celery_app))
        first = last.parent or last
        [letter] = await dead_letters(app)
        if embedded != "chord":  # its client has not asked for the result of a part
            found = await in_celery(lambda: first.get(timeout=PATIENCE_S, propagate=False))
            assert type(found) is CelerysDecodeError
            assert f"The message embeds {embedded}" in str(found)
    assert (letter.id, letter.reason, ran) == (first.id, "DecodeError", [])
    assert "let a worker of Celery take it" in letter.detail
    async with app:
        broker: Any = app.broker
        assert await broker.replay_dead([letter.id]) == [letter.id]

    def raw() -> Any:
        with celery_app.connection() as connection:
            message = connection.default_channel.basic_get(QUEUE, no_ack=True)
            return message.properties["application_headers"]["id"], json.loads(message.body)[2][embedded]

    id_, signatures = await in_celery(raw)
    assert id_ == first.id
    assert signatures


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
    assert seen == {result.id}


# ---- priorities: a queue that is made with them ----


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


@pytest.mark.priorities
async def test_celery_s_worker_is_told_how_urgent_ours_are(app: AioTask, rabbit_url: str, backend_url: str) -> None:
    async with app:
        sent = [await app.send_task("celery.side.look", priority=number) for number in (9, 5, 0)]
        worker = CeleryWorker(rabbit_url, backend_url)
        try:
            seen = [(await result.get(timeout=PATIENCE_S))["priority"] for result in sent]
        finally:
            worker.end()
    assert seen == [0, 4, 9]


# ---- remote control ----


async def test_inspect_ping_of_celery_is_answered(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], celery_worker: CeleryWorker
) -> None:
    def ping(*nodes: str) -> Any:
        return celery_app.control.inspect(destination=nodes or None, timeout=2.0).ping() or {}

    async def until(nodes: set[str], *asked: str) -> dict[str, Any]:
        """Ask until they answer: they listen by and by, and may be slower than the one who asks."""
        async with asyncio.timeout(4 * PATIENCE_S):
            while not nodes <= set(found := await in_celery(lambda: ping(*asked))):
                pass
        return found

    async with app.worker(name="one") as one, app.worker(name="two") as two:
        ours = {one.hostname, two.hostname}
        found = await until({*ours, f"celery@{socket.gethostname()}"})
        assert all(answer == {"ok": "pong"} for answer in found.values())
        assert await until({one.hostname}, one.hostname) == {one.hostname: {"ok": "pong"}}
        assert set(await until(ours, *ours)) == ours
        assert await in_celery(lambda: ping("nobody@nowhere")) == {}
        broker: Any = app.broker
        broker.link.cut()
        assert set(await until(ours, *ours)) == ours, "they listen again"


async def test_command_that_is_unknown_here_is_answered_by_an_error(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    def stats() -> Any:
        return celery_app.control.inspect(timeout=1.0).stats()

    async with app.worker(name="ours") as worker:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await in_celery(stats)):
                pass
        assert found == {worker.hostname: {"error": "KeyError('stats')"}}


async def test_ping_from_the_command_line_of_celery_is_answered(
    app: AioTask, rabbit_url: str, backend_url: str
) -> None:
    async def ping(*options: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_side", "inspect", "ping", *options),
            cwd=HERE,
            env={**os.environ, "BROKER": rabbit_url, "BACKEND": backend_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with app.worker(name="one") as one, app.worker(name="two") as two:
        async with asyncio.timeout(4 * PATIENCE_S):
            while (found := await ping("--timeout", "3"))[0] or "2 nodes online" not in found[1]:
                pass
            for node in (one, two):
                assert f"{node.hostname}: OK" in found[1]
            assert "pong" in found[1]
            while (found := await ping("-d", two.hostname, "--timeout", "3"))[0]:
                pass
        assert f"{two.hostname}: OK" in found[1]
        assert "1 node online" in found[1]
