"""Our client calls tasks that Celery's worker runs, and either worker takes the other's retries."""

import asyncio
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.celery_process import CeleryWorker

from aiotask import AioTask, Reject, RemoteError, current_request
from aiotask import TaskRevokedError as OurRevoked
from aiotask.tasks import Task


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
        raise self.retry(countdown=0.2, args=("other",))

    options = {"headers": {"x-mine": "v"}, "argsrepr": "(...)", "kwargsrepr": "{...}"}
    async with app.worker():
        theirs = await in_celery(lambda: celery_app.send_task("celery.side.hand_over", ("unused",), **options))
        async with asyncio.timeout(PATIENCE_S):
            while await in_celery(lambda: theirs.state) != "RETRY":
                await asyncio.sleep(0.02)
    other = CeleryWorker(rabbit_url, backend_url)
    try:
        found = await in_celery(lambda: theirs.get(timeout=PATIENCE_S))
    finally:
        other.end()
    assert (found["retries"], found["mine"], found["root_id"]) == (1, "v", theirs.id)
    assert (found["args"], found["argsrepr"], found["kwargsrepr"]) == (["other"], "('other',)", "{...}")


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


async def test_floats_that_json_lacks_survive_the_way_there_and_back(app: AioTask, celery_worker: CeleryWorker) -> None:
    async with app:
        for options in ({}, {"compression": "gzip"}):
            result = await app.send_task("celery.side.echo", ([math.nan, math.inf, {"deep": -math.inf}],), **options)
            found = await result.get(timeout=PATIENCE_S)
            assert math.isnan(found[0])
            assert found[1:] == [math.inf, {"deep": -math.inf}]


async def test_text_of_half_a_character_that_celery_s_worker_returns_arrives(
    app: AioTask, celery_worker: CeleryWorker
) -> None:
    async with app:
        result = await app.send_task("celery.side.file_name", (b"caf\xe9",))
        assert await result.get(timeout=PATIENCE_S) == os.fsdecode(b"caf\xe9")


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
