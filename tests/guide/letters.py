"""Reads dead letters, which on RabbitMQ come a moment after the result: there the two are not one step."""

import asyncio
import time
from typing import Any

from aiotask import AioTask
from aiotask.brokers.amqp import AmqpBroker
from aiotask.message import DeadLetter

LATE_S = 3.0


async def read_letters(app: AioTask, queues: list[str] | None = None) -> list[DeadLetter]:
    """Return the dead letters, the newest first; on RabbitMQ once all that the app's workers had taken is settled."""
    broker: Any = app.broker
    if isinstance(broker, AmqpBroker):
        deadline = time.monotonic() + LATE_S
        while any(one._holding.out for one in broker._subscriptions) and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
    return list(await broker.dead_letters(queues))
