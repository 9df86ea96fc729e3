"""A Celery beside aiotask: its own client in threads of the test, on the same servers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from celery import Celery
from celery.result import AsyncResult
from tests.servers.fixtures import rabbit_url, redis_server, redis_url, shared_rabbit, shared_redis, vhost

import aiotask
from aiotask import AioTask

__all__ = ["rabbit_url", "redis_server", "redis_url", "shared_rabbit", "shared_redis", "vhost"]

T = TypeVar("T")
InCelery = Callable[[Callable[[], T]], Coroutine[Any, Any, T]]

Theirs = Callable[[aiotask.AsyncResult[Any]], Coroutine[Any, Any, AsyncResult]]

PATIENCE_S = 20.0


@pytest.fixture
def celery_app(redis_url: str) -> Iterator[Celery]:
    """A Celery app as another program has it: it reads results from Redis, and knows no task of ours."""
    app = Celery("theirs", broker="memory://", backend=redis_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def in_celery(celery_app: Celery) -> Iterator[InCelery[Any]]:
    """Calls what blocks, which is all of Celery's, in the one thread that Celery's connections belong to."""
    with ThreadPoolExecutor(1) as thread:

        async def call(what: Callable[[], Any]) -> Any:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.get_running_loop().run_in_executor(thread, what)

        yield call
        thread.submit(disconnect, celery_app).result(PATIENCE_S)


@pytest.fixture
def theirs(celery_app: Celery, in_celery: InCelery[Any]) -> Theirs:
    """Makes Celery's own result of one of ours; what it is asked goes through `in_celery`."""

    async def make(ours: aiotask.AsyncResult[Any]) -> AsyncResult:
        return await in_celery(lambda: AsyncResult(ours.id, app=celery_app))

    return make


def disconnect(celery_app: Celery) -> None:
    backend: Any = celery_app.backend
    consumer = backend.result_consumer
    if getattr(consumer, "_consumer", True) is not None:
        consumer.stop()
    if hasattr(backend, "client"):
        backend.client.connection_pool.disconnect()
    celery_app.close()
    backend.remove_pending_result = lambda result: result  # a result that is collected later would connect again


@pytest.fixture
async def app(redis_url: str) -> AsyncIterator[AioTask]:
    """An app of ours whose results lie in that Redis."""
    made = AioTask("ours", broker="memory://", backend=redis_url)
    yield made
    await made.close()


@pytest.fixture
def add(app: AioTask) -> Any:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add
