"""The queue that both sides use: messages put there as they are, and those that our worker has refused."""

import asyncio
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from kombu.utils.uuid import uuid
from tests.interop.conftest import PATIENCE_S

from aiotask import AioTask
from aiotask.message import DeadLetter

QUEUE = "shared"


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
