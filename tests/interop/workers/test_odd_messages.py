"""What Celery's client may say that is out of the ordinary: it arrives, goes out again as it came, and ends nobody."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from kombu import Exchange
from kombu import Queue as CelerysQueue
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.celery_process import CeleryWorker
from tests.interop.workers.shared_queue import QUEUE, dead_letters, send_raw

from aiotask import AioTask, Task, current_request
from aiotask.exceptions import PublishError

ODD: dict[str, Any] = {
    "no text": b"caf\xe9",
    "in a list": [b"\xff\x00", {"deep": b"\xfe"}],
    "float": 1.1,
    "huge": 1e300,
    "moment": datetime(2026, 1, 1, tzinfo=UTC),
}


async def test_headers_of_all_kinds_are_the_same_after_a_retry_and_a_delay(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    seen: list[dict[str, Any]] = []

    @app.task(name="ours.look", bind=True, max_retries=2)
    async def look(self: Task) -> int:
        seen.append({name: self.request.headers[name] for name in ODD})
        if self.request.retries < 2:
            raise self.retry(countdown=0.1 * self.request.retries)
        return self.request.retries

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.look", headers=ODD, countdown=0.2))
        assert await in_celery(lambda: result.get(timeout=PATIENCE_S)) == 2
    assert seen == [ODD] * 3


async def test_unknown_task_with_such_headers_is_dead_lettered(
    app: AioTask, add: Any, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any]
) -> None:
    async with app.worker():
        await in_celery(lambda: celery_app.send_task("nobody.s", (os.fsdecode(b"caf\xe9.txt"),), headers=ODD))
        [letter] = await dead_letters(app)
        assert (letter.reason, letter.headers["no text"]) == ("NotRegistered", ODD["no text"])  # type: ignore[index]
        assert await call("ours.add", 1, 2) == 3


@pytest.mark.parametrize(
    ("task", "headers"),
    [
        pytest.param("ours.again", {"eta": "9999-12-31T23:59:59+00:00"}, id="due in thousands of years"),
        pytest.param("ours.again", {"id": "i" * 300}, id="an id that is no short string"),
        pytest.param("t" * 70_000, {}, id="a name as long as a frame may be"),
    ],
)
async def test_message_that_says_too_much_ends_nothing(
    app: AioTask,
    add: Any,
    celery_app: Celery,
    in_celery: InCelery[Any],
    call: Callable[..., Any],
    task: str,
    headers: dict[str, str],
) -> None:
    tried: list[int] = []

    @app.task(name="ours.again", bind=True, max_retries=1)
    async def again(self: Task) -> None:
        tried.append(self.request.retries)
        if not self.request.retries:
            raise self.retry(countdown=0.1)

    async with app.worker():
        await in_celery(lambda: send_raw(celery_app, task, **headers))
        assert await call("ours.add", 1, 2) == 3
        if task != "ours.again":
            [letter] = await dead_letters(app)
            assert (letter.reason, letter.body) == ("NotRegistered", b"[[], {}, null]")
        elif "id" in headers:
            async with asyncio.timeout(PATIENCE_S):
                while tried != [0, 1]:
                    await asyncio.sleep(0.02)


async def test_retry_in_some_years_ends_nothing(
    app: AioTask, add: Any, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any]
) -> None:
    @app.task(name="ours.later", bind=True)
    async def later(self: Task) -> None:
        raise self.retry(countdown=1e9)

    async with app.worker():
        for countdown in (0, 1e8):
            sent = await in_celery(lambda: celery_app.send_task("ours.later", countdown=countdown))  # noqa: B023
        ours = await later.apply_async(countdown=1e9)
        async with asyncio.timeout(PATIENCE_S):
            while await in_celery(lambda: celery_app.AsyncResult(sent.id).state) == "RETRY":
                await asyncio.sleep(0.02)
        assert await call("ours.add", 1, 2) == 3
        assert await ours.state() == "PENDING"


async def test_task_is_known_by_its_id_whatever_its_correlation_id_says(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    started: list[str | None] = []

    @app.task(name="ours.slow")
    async def slow() -> None:
        started.append(current_request().id)
        await asyncio.sleep(60)

    async with app.worker():
        sent = await in_celery(lambda: celery_app.send_task("ours.slow", correlation_id="trace-1"))
        async with asyncio.timeout(PATIENCE_S):
            while not started:
                await asyncio.sleep(0.02)
        assert started == [sent.id]
        [said] = (await app.control.revoke(sent.id, terminate=True)).values()
        assert "unknown" not in str(said)
        found = await in_celery(lambda: sent.get(timeout=PATIENCE_S, propagate=False))
        assert type(found) is TaskRevokedError


async def test_request_says_by_which_exchange_it_came(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.way")
    async def way() -> list[Any]:
        info = current_request().delivery_info
        return [info["exchange"], info["routing_key"], info["queue"]]

    def send() -> Any:
        exchange = Exchange("theirs", "topic")
        with celery_app.connection() as connection:
            CelerysQueue(QUEUE, exchange, "a.#")(connection.default_channel).declare()
        return celery_app.send_task("ours.way", exchange="theirs", routing_key="a.b")

    async with app.worker():
        sent = await in_celery(send)
        assert await in_celery(lambda: sent.get(timeout=PATIENCE_S)) == ["theirs", "a.b", QUEUE]


async def test_header_that_amqp_has_not_is_its_own_caller_s_error(app: AioTask, add: Any) -> None:
    odd: list[dict[str, Any]] = [{}, {"b": b"abc"}, {"odd": 2**70}, {}, {"long": "x" * 140_000}]
    async with app.worker():
        sent = await asyncio.gather(
            *(add.apply_async((1, 2), headers=headers) for headers in odd), return_exceptions=True
        )
        assert [type(each) is PublishError for each in sent] == [False, False, True, False, True]
        assert "'odd'" in str(sent[2])
        good: list[Any] = [each for each in sent if type(each) is not PublishError]
        assert [await each.get(PATIENCE_S) for each in good] == [3, 3, 3]


async def test_celery_s_worker_goes_on_where_ours_was_stopped(
    app: AioTask, rabbit_url: str, backend_url: str, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    """What ours had in hand goes back to where Celery's workers take from, begun or not."""
    begun = asyncio.Event()

    @app.task(name="celery.side.add", acks_late=True)
    async def add(x: int, y: int) -> int:
        begun.set()
        await asyncio.sleep(60)
        return 0

    app.conf.worker_shutdown_timeout = 0.2
    async with app.worker(concurrency=4):
        sent = await in_celery(lambda: [celery_app.send_task("celery.side.add", (n, 1)) for n in range(20)])
        await begun.wait()
    worker = CeleryWorker(rabbit_url, backend_url)
    try:
        for number, each in enumerate(sent):
            assert await in_celery(lambda: each.get(timeout=PATIENCE_S)) == number + 1  # noqa: B023
    finally:
        worker.end()
