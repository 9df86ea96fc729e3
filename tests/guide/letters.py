"""Reads dead letters, which on RabbitMQ come a moment after the result: there the two are not one step."""

import time
from typing import Any

from aiotask import AioTask
from aiotask.brokers.amqp import AmqpBroker
from aiotask.message import DeadLetter

LATE_S = 3.0


async def read_letters(app: AioTask, queues: list[str] | None = None) -> list[DeadLetter]:
    """Return the dead letters, the newest first; on RabbitMQ once there are some, or after a second."""
    broker: Any = app.broker
    deadline = time.monotonic() + (LATE_S if isinstance(broker, AmqpBroker) else 0.0)
    while not (found := list(await broker.dead_letters(queues))) and time.monotonic() < deadline:
        pass
    return found
