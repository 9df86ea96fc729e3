"""Workers of ours and of Celery's beside each other on one RabbitMQ: either side calls the other."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from celery.exceptions import Reject as CelerysReject
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult
from kombu.exceptions import ContentDisallowed as CelerysContentDisallowed
from kombu.exceptions import DecodeError as CelerysDecodeError
from kombu.utils.uuid import uuid
from tests.interop.conftest import PATIENCE_S, InCelery

from aiotask import AioTask, Reject, RemoteError, current_request
from aiotask.message import DeadLetter
from aiotask.tasks import Task

QUEUE = "shared"
HERE = Path(__file__).parent


@pytest.fixture(params=["rpc", "redis"])
def backend_url(request: pytest.FixtureRequest) -> str:
    return "rpc://" if request.param == "rpc" else str(request.getfixturevalue("redis_url"))


@pytest.fixture
def celery_app(rabbit_url: str, backend_url: str) -> Celery:
    """Celery's client. It makes the queue, as it does where Celery was there first."""
    app = Celery("theirs", broker=rabbit_url, backend=backend_url, set_as_current=False)
    app.conf.task_default_queue = QUEUE
    app.conf.broker_connection_retry = False
    with app.connection() as connection:
        app.amqp.queues[QUEUE](connection.default_channel).declare()
    return app


@pytest.fixture
async def app(rabbit_url: str, backend_url: str, celery_app: Celery) -> AsyncIterator[AioTask]:
    made = AioTask("ours", broker=rabbit_url, backend=backend_url, task_protocol=2, task_default_queue=QUEUE)
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
            found = self._news.wait_for(lambda: any(text in line for line in self.lines), timeout=30)
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

    async def call(name: str, *args: Any, **options: Any) -> Any:
        result = await in_celery(lambda: celery_app.send_task(name, args, **options))
        return await in_celery(lambda: result.get(timeout=PATIENCE_S))

    return call


def send_raw(celery_app: Celery, task: str, body: bytes = b"[[], {}, null]", **headers: Any) -> AsyncResult:
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
            content_type="application/json",
            content_encoding="utf-8",
            **made.properties,
        )
    return AsyncResult(task_id, app=celery_app)


async def dead_letters(app: AioTask) -> list[DeadLetter]:
    broker: Any = app.broker
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await broker.dead_letters([QUEUE])):
            await asyncio.sleep(0.02)
    return list(found)


# ---- Celery calls, ours runs ----


async def test_delay_of_celery_runs_here_and_get_returns(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @celery_app.task(name="ours.add")  # what a client of Celery has of a task that runs elsewhere
    def theirs(x: int, y: int) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: theirs.delay(2, 3))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 5
        results = await in_celery(lambda: [theirs.delay(number, number) for number in range(20)])
        found = await in_celery(lambda: [each.get(timeout=PATIENCE_S) for each in results])
        assert found == [2 * number for number in range(20)]


@pytest.mark.parametrize("compression", [None, "gzip", "bzip2"])
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


async def test_request_has_what_celery_s_client_has_said(app: AioTask, call: Callable[..., Any]) -> None:
    seen: dict[str, Any] = {}

    @app.task(name="ours.look")
    async def look() -> None:
        request = current_request()
        for name in ("id", "root_id", "headers", "timelimit", "retries", "properties", "delivery_info", "shadow"):
            seen[name] = getattr(request, name)

    async with app.worker():
        await call(
            "ours.look",
            task_id="an-id",
            headers={"x-mine": "v"},
            priority=7,
            time_limit=60,
            soft_time_limit=45,
            app_id="an-app",
            shadow="other",
        )
    assert seen["properties"]["app_id"] == "an-app"
    assert seen["properties"]["correlation_id"] == "an-id"
    assert seen["delivery_info"]["priority"] == 7
    assert seen["delivery_info"]["redelivered"] is False
    assert (seen["id"], seen["root_id"], seen["retries"], seen["shadow"]) == ("an-id", "an-id", 0, "other")
    assert seen["headers"] == {"x-mine": "v"}
    assert seen["timelimit"] == (60, 45)


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
        for options in ({}, {"compression": "gzip"}, {"compression": "bzip2"}):
            result = await app.send_task("celery.side.echo", (value,), **options)
            assert await result.get(timeout=PATIENCE_S) == value


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


# ---- remote control ----


async def test_inspect_ping_of_celery_is_answered(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], celery_worker: CeleryWorker
) -> None:
    def ping(*nodes: str) -> Any:
        return celery_app.control.inspect(destination=nodes or None, timeout=2.0).ping()

    async with app.worker(name="ours") as worker:
        async with asyncio.timeout(PATIENCE_S):
            while worker.hostname not in (found := await in_celery(ping) or {}):
                pass  # it listens by and by; each ping takes its time
        assert found[worker.hostname] == {"ok": "pong"}
        assert len(found) == 2, "Celery's own worker answers beside it"
        assert await in_celery(lambda: ping(worker.hostname)) == {worker.hostname: {"ok": "pong"}}
        assert await in_celery(lambda: ping("nobody@nowhere")) is None


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
    async with app.worker(name="ours") as worker:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_side", "inspect", "ping"),
                    cwd=HERE,
                    env={**os.environ, "BROKER": rabbit_url, "BACKEND": backend_url},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                output, _ = await process.communicate()
                if process.returncode == 0:
                    break
    text = output.decode()
    assert f"{worker.hostname}: OK" in text
    assert "pong" in text
