"""Celery's messages: a worker takes them from the same queue as ours, and `task_protocol` 2 sends them."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from aiotask import (
    AioTask,
    AsyncResult,
    ContentDisallowed,
    DecodeError,
    ImproperlyConfigured,
    NotRegistered,
    Reject,
    current_request,
    states,
)
from aiotask.message import DeadLetter, Delivery, Envelope, QueueDepth
from aiotask.tasks import Task

NOTHING = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
PICKLED = b"cbuiltins\nexec\n(S'raise SystemExit'\ntR."

Post = Callable[..., Awaitable[AsyncResult[Any]]]


@pytest.fixture
async def app() -> AsyncIterator[AioTask]:
    made = AioTask("proj", broker="memory://")
    yield made
    await made.close()


@pytest.fixture
def add(app: AioTask) -> Any:
    @app.task(name="proj.add")
    async def add(x: int, y: int = 0) -> int:
        return x + y

    return add


@pytest.fixture
def post_celery(app: AioTask) -> Post:
    """Put a message into the queue as a client of Celery does; its headers can be overridden."""

    async def post(
        task: str,
        *args: Any,
        body: Any = None,
        content_type: str = "application/json",
        properties: dict[str, Any] | None = None,
        embed: dict[str, Any] | None = None,
        **headers: Any,
    ) -> AsyncResult[Any]:
        await app.connect()
        task_id = headers.get("id", "from-celery")
        raw = body if isinstance(body, bytes) else json.dumps(body or [args, {}, NOTHING | (embed or {})]).encode()
        envelope = Envelope(
            task_id,
            "default",
            raw,
            content_type,
            headers={"lang": "py", "task": task, "id": task_id, "retries": 0, "ignore_result": None, **headers},
            properties={"content_encoding": "utf-8", "correlation_id": task_id, **(properties or {})},
        )
        await app.broker.publish([envelope])
        return app.result(task_id)

    return post


async def queued(app: AioTask) -> Delivery:
    """Return what lies in the queue, as a consumer gets it."""
    await app.connect()
    subscription = await app.broker.subscribe(["default"], consumer="looking", lease=60, max_losses=3)
    [delivery] = await subscription.receive(1, 5)
    await subscription.close()
    return delivery


# ---- a worker understands both, without being told ----


async def test_messages_of_both_protocols_run_from_one_queue(app: AioTask, add: Any, post_celery: Post) -> None:
    async with app.worker():
        ours = await add.delay(1, 2)
        theirs = await post_celery("proj.add", 3, 4)
        assert (await ours.get(timeout=10), await theirs.get(timeout=10)) == (3, 7)


async def test_request_says_what_the_message_says(app: AioTask, post_celery: Post) -> None:
    seen: dict[str, Any] = {}

    @app.task(name="proj.look")
    async def look() -> None:
        request = current_request()
        for name in (
            *("id", "root_id", "parent_id", "group", "taskset", "retries", "origin", "timelimit", "time_limit"),
            *("soft_time_limit", "headers", "reply_to", "correlation_id", "expires", "ignore_result", "shadow"),
            *("chain", "chord", "callbacks", "errbacks", "properties", "delivery_info"),
        ):
            seen[name] = getattr(request, name)

    async with app.worker():
        result = await post_celery(
            "proj.look",
            root_id="root",
            parent_id="parent",
            group="a-group",
            retries=2,
            origin="gen1@there",
            timelimit=[60, 45],
            shadow="other",
            expires="2999-01-01T00:00:00+00:00",
            properties={"reply_to": "their-queue", "priority": 7, "app_id": "an-app"},
            **{"x-mine": "v"},
        )
        await result.get(timeout=10)
    assert seen.pop("properties") == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "correlation_id": "from-celery",
        "reply_to": "their-queue",
        "priority": 7,
        "app_id": "an-app",
    }
    delivery_info = seen.pop("delivery_info")
    assert (delivery_info["priority"], delivery_info["redelivered"]) == (7, False)
    assert seen == {
        "id": "from-celery",
        "root_id": "root",
        "parent_id": "parent",
        "group": "a-group",
        "taskset": "a-group",
        "retries": 2,
        "origin": "gen1@there",
        "timelimit": (60, 45),
        "time_limit": 60,
        "soft_time_limit": 45,
        "headers": {"x-mine": "v"},
        "reply_to": "their-queue",
        "correlation_id": "from-celery",
        "expires": datetime(2999, 1, 1, tzinfo=UTC),
        "ignore_result": None,
        "shadow": "other",
        "chain": None,
        "chord": None,
        "callbacks": None,
        "errbacks": None,
    }


@pytest.mark.parametrize(
    ("asked", "declared", "stored"), [(None, True, False), (None, False, True), (False, True, True)]
)
async def test_null_means_that_results_are_ignored_as_the_task_says(
    app: AioTask, add: Any, post_celery: Post, asked: bool | None, declared: bool, stored: bool
) -> None:
    @app.task(name="proj.t", ignore_result=declared)
    async def task() -> str:
        return "value"

    async with app.worker(concurrency=1):
        result = await post_celery("proj.t", ignore_result=asked)
        await (await add.delay(1)).get(timeout=10)  # behind it in the queue
        assert await result.state() == (states.SUCCESS if stored else states.PENDING)


# ---- time ----


async def test_eta_is_kept_by_the_broker_and_not_by_the_worker(
    app: AioTask, add: Any, post_celery: Post, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    async with app.worker():
        due = time.time() + 0.4
        result = await post_celery("proj.add", 1, eta=datetime.fromtimestamp(due, UTC).isoformat())
        async with asyncio.timeout(10):
            while (await depth()).delayed == 0:
                assert time.time() < due, "it was held, or run, before it was due"
                await asyncio.sleep(0.005)
        assert await result.get(timeout=10) == 1
        assert time.time() >= due


async def test_eta_that_has_passed_waits_for_nothing(app: AioTask, add: Any, post_celery: Post) -> None:
    async with app.worker():
        assert await (await post_celery("proj.add", 1, eta="2020-01-01T00:00:00+00:00")).get(timeout=10) == 1


async def test_expired_message_is_revoked(app: AioTask, add: Any, post_celery: Post) -> None:
    async with app.worker():
        result = await post_celery("proj.add", 1, expires="2020-01-01T00:00:00+00:00")
        with pytest.raises(Exception, match="expired"):
            await result.get(timeout=10)
    assert await result.state() == states.REVOKED


# ---- retries and rejections ----


async def test_retry_is_a_message_of_the_same_protocol_with_all_that_it_said(app: AioTask, post_celery: Post) -> None:
    @app.task(bind=True, name="proj.again")
    async def again(self: Task, number: int) -> None:
        raise self.retry(countdown=0, args=(number + 1,))

    async with app.worker(max_tasks=1):
        await post_celery(
            "proj.again",
            1,
            group="g",
            stamped_headers=["tenant"],
            stamps={"tenant": "acme"},
            properties={"reply_to": "their-queue", "priority": 7, "expiration": "60000"},
            **{"x-mine": "v"},
        )
        async with asyncio.timeout(10):
            while await app.result("from-celery").state() != states.RETRY:
                await asyncio.sleep(0.005)
    found = await queued(app)
    assert found.headers is not None
    assert found.properties is not None
    assert json.loads(found.body) == [[2], {}, NOTHING]
    assert {name: found.headers[name] for name in ("retries", "group", "stamps", "stamped_headers", "x-mine")} == {
        "retries": 1,
        "group": "g",
        "stamps": {"tenant": "acme"},
        "stamped_headers": ["tenant"],
        "x-mine": "v",
    }
    assert (found.properties["reply_to"], found.properties["priority"]) == ("their-queue", 7)
    assert "expiration" not in found.properties, "RabbitMQ would drop it without a word"


async def test_retried_task_succeeds_in_the_end(app: AioTask, post_celery: Post) -> None:
    @app.task(bind=True, name="proj.flaky", max_retries=5)
    async def flaky(self: Task) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return self.request.retries

    async with app.worker():
        assert await (await post_celery("proj.flaky")).get(timeout=10) == 2


async def test_rejected_message_is_dead_and_a_failure(
    app: AioTask, post_celery: Post, dead_letters: Callable[[], Awaitable[list[DeadLetter]]]
) -> None:
    @app.task(name="proj.reject", acks_late=True)
    async def reject() -> None:
        raise Reject("no good", requeue=False)

    async with app.worker():
        result = await post_celery("proj.reject")
        with pytest.raises(Reject, match="no good"):
            await result.get(timeout=10)
    [letter] = await dead_letters()
    assert (letter.id, letter.reason) == ("from-celery", "Reject")


# ---- what is not run ----


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"task": "proj.add", "body": PICKLED, "content_type": "application/x-python-serialize"}, ContentDisallowed),
        ({"task": "proj.add", "body": b"- 1", "content_type": "application/x-yaml"}, ContentDisallowed),
        ({"task": "proj.add", "body": [[1], {}]}, DecodeError),
        ({"task": "proj.add", "body": 42}, DecodeError),
        ({"task": "proj.add", "body": b"\xff\xff"}, DecodeError),
        ({"task": "proj.add", "body": b"[" * 100_000}, DecodeError),
        ({"task": "proj.add", "retries": "x"}, DecodeError),
        ({"task": "proj.add", "properties": {"content_encoding": "utf-7"}}, DecodeError),
        ({"task": "proj.add", "compression": "application/x-gzip"}, DecodeError),
        ({"task": "proj.add", "embed": {"chain": [{"task": "proj.add"}]}}, DecodeError),
        ({"task": "proj.unknown"}, NotRegistered),
    ],
    ids=[
        "pickle",
        "yaml",
        "short",
        "number",
        "bytes",
        "deep",
        "headers",
        "encoding",
        "compression",
        "chain",
        "unknown",
    ],
)
async def test_what_can_t_be_run_is_dead_lettered_and_the_worker_goes_on(
    app: AioTask,
    add: Any,
    post_celery: Post,
    dead_letters: Callable[[], Awaitable[list[DeadLetter]]],
    message: dict[str, Any],
    error: type[Exception],
) -> None:
    async with app.worker():
        result = await post_celery(**message)
        with pytest.raises(error):
            await result.get(timeout=10)
        assert await (await add.delay(1, 1)).get(timeout=10) == 2
    [letter] = await dead_letters()
    assert (letter.id, letter.reason) == ("from-celery", error.__name__)


async def test_dead_letter_is_whole_and_can_be_replayed(app: AioTask, post_celery: Post) -> None:
    async with app.worker():
        result = await post_celery("proj.add", 1, **{"x-mine": "v"})
        with pytest.raises(NotRegistered):
            await result.get(timeout=10)

    @app.task(name="proj.add")
    async def add(x: int) -> Any:
        return current_request().headers

    async with app.worker():
        broker: Any = app.broker
        await app.backend.forget(["from-celery"])
        assert await broker.replay_dead(["from-celery"]) == ["from-celery"]
        assert await app.result("from-celery").get(timeout=10) == {"x-mine": "v"}


# ---- sending ----


async def test_task_protocol_2_sends_what_celery_reads(app: AioTask, add: Any) -> None:
    app.conf.task_protocol = 2
    result = await add.apply_async((1,), {"y": 2}, headers={"x-mine": "v"}, shadow="other")
    found = await queued(app)
    assert found.headers is not None
    assert found.content_type == "application/json"
    assert json.loads(found.body) == [[1], {"y": 2}, NOTHING]
    assert found.headers == {
        "lang": "py",
        "task": "proj.add",
        "id": result.id,
        "root_id": result.id,
        "parent_id": None,
        "group": None,
        "group_index": None,
        "shadow": "other",
        "eta": None,
        "expires": None,
        "retries": 0,
        "timelimit": [None, None],
        "argsrepr": "(1,)",
        "kwargsrepr": "{'y': 2}",
        "origin": app.origin,
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
        "x-mine": "v",
    }
    assert found.properties == {"content_encoding": "utf-8", "correlation_id": result.id, "reply_to": ""}


@pytest.mark.parametrize("options", [{}, {"countdown": 0.1}, {"expires": 60}, {"compression": "gzip"}], ids=str)
async def test_task_protocol_2_is_run_by_our_workers_too(app: AioTask, add: Any, options: dict[str, Any]) -> None:
    app.conf.task_protocol = 2
    async with app.worker():
        result = await add.apply_async((1, 2), **options)
        assert await result.get(timeout=10) == 3


async def test_task_protocol_2_needs_a_broker_with_headers(tmp_path: Path) -> None:
    async with AioTask("proj", broker=f"sqlite:///{tmp_path}/tasks.db", task_protocol=2) as app:
        with pytest.raises(
            ImproperlyConfigured, match=r"needs a broker whose messages have headers: amqp://.*'aiotask'"
        ):
            await app.send_task("proj.add", (1, 2))


@pytest.mark.parametrize("text", ["2", "aiotask"])
def test_task_protocol_can_be_set_by_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("AIOTASK_TASK_PROTOCOL", text)
    assert str(AioTask("proj", broker="memory://").conf.task_protocol) == text


@pytest.mark.parametrize("wrong", [1, 3, True, "2.0", "celery"])
def test_task_protocol_is_one_of_two(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="task_protocol' must be 'aiotask' or 2"):
        AioTask("proj", broker="memory://", task_protocol=wrong)
