"""The link to one RabbitMQ that a broker and a result backend share. Importing it imports the driver."""

import logging

from aiotask.connections.amqp.channel import AmqpChannel, NotRouted, NotTaken, QueueState
from aiotask.connections.amqp.errors import (
    NOT_ENABLED,
    ChannelError,
    LinkClosed,
    LinkDown,
    ServerBlocked,
    ServerRefused,
)
from aiotask.connections.amqp.frames import Message
from aiotask.connections.amqp.link import AmqpLink
from aiotask.connections.amqp.received import Received
from aiotask.connections.translating import Translation

__all__ = [
    "NOT_ENABLED",
    "AmqpChannel",
    "AmqpLink",
    "ChannelError",
    "LinkClosed",
    "LinkDown",
    "Message",
    "NotRouted",
    "NotTaken",
    "QueueState",
    "Received",
    "ServerBlocked",
    "ServerRefused",
    "Translation",
]

for _driver in ("aiormq", "aio_pika"):
    # What they say, often with a traceback, is what the link says in one line. Whoever wants it sets a level.
    if logging.getLogger(_driver).level == logging.NOTSET:
        logging.getLogger(_driver).setLevel(logging.CRITICAL)
