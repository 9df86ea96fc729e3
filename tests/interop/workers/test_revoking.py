"""Tasks revoked by either side, with workers of both."""

import asyncio
import socket
from typing import Any

import pytest
from celery import Celery
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.celery_process import CeleryWorker

from aiotask import AioTask, TaskRevokedError
from aiotask.states import REVOKED

CELERYS = f"celery@{socket.gethostname()}"


async def listening(app: AioTask, *nodes: str) -> None:
    """Wait until they answer: they listen by and by."""
    async with asyncio.timeout(4 * PATIENCE_S):
        while not await app.control.revoke("nobody's", destination=nodes, timeout=0.2):
            pass


async def test_revoke_of_celery_ends_what_runs_here_and_what_waits_never_starts(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    started = asyncio.Event()
    ran: list[str] = []

    @app.task(name="ours.hang", bind=True)
    async def hang(self: Any) -> None:
        ran.append(self.request.id)
        started.set()
        await asyncio.Event().wait()

    async with app.worker(name="ours", concurrency=1) as worker:
        await listening(app, worker.hostname)
        running = await in_celery(lambda: celery_app.send_task("ours.hang"))
        await started.wait()
        waiting = await in_celery(lambda: celery_app.send_task("ours.hang"))

        def revoke(id_: str, **options: Any) -> Any:
            return celery_app.control.revoke(id_, reply=True, timeout=1.0, **options)

        assert await in_celery(lambda: revoke(waiting.id)) == [
            {worker.hostname: {"ok": f"tasks {{{waiting.id!r}}} flagged as revoked"}}
        ]
        [answer] = await in_celery(lambda: revoke(running.id, terminate=True))
        assert running.id in answer[worker.hostname]["ok"]
        for theirs, reason in ((running, "terminated"), (waiting, "revoked")):
            meta = await in_celery(lambda theirs=theirs: theirs.get(timeout=PATIENCE_S, propagate=False))
            assert type(meta).__name__ == "TaskRevokedError"
            assert meta.args == (reason,)
            assert await in_celery(lambda theirs=theirs: theirs.state) == REVOKED
        assert ran == [running.id]


async def test_revoke_of_ours_reaches_the_worker_of_celery_that_stands_beside(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], celery_worker: CeleryWorker
) -> None:
    async with app.worker(queues=["ours"], name="ours") as worker:
        await listening(app, worker.hostname, CELERYS)
        answers = await app.control.revoke("an-id", destination=[CELERYS, worker.hostname], timeout=PATIENCE_S)
        said = {"ok": "tasks {'an-id'} flagged as revoked"}
        assert answers == {worker.hostname: said, CELERYS: said}
        theirs = await in_celery(lambda: celery_app.send_task("celery.side.add", [1, 2], task_id="an-id"))
        error = await in_celery(lambda: theirs.get(timeout=PATIENCE_S, propagate=False))
        assert type(error).__name__ == "TaskRevokedError"
        assert await in_celery(lambda: theirs.state) == REVOKED


async def test_revoke_of_ours_outlives_the_message_of_celery_it_is_meant_for(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    """No worker is there to be told: one that comes later knows it all the same."""
    ran = []

    @app.task(name="ours.run")
    async def run() -> None:
        ran.append(1)

    theirs = await in_celery(lambda: celery_app.send_task("ours.run"))
    assert await app.control.revoke(theirs.id, timeout=0.1) == {}
    ours = await run.delay()
    await ours.revoke()
    async with app.worker():
        error = await in_celery(lambda: theirs.get(timeout=PATIENCE_S, propagate=False))
        assert type(error).__name__ == "TaskRevokedError"
        with pytest.raises(TaskRevokedError, match="revoked"):
            await ours.get(timeout=PATIENCE_S)
    assert not ran
