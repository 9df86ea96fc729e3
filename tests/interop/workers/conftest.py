"""Apps of both sides that use one queue of one RabbitMQ, with results over `rpc://` and in Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.celery_process import CeleryWorker
from tests.interop.workers.shared_queue import QUEUE

from aiotask import AioTask


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
