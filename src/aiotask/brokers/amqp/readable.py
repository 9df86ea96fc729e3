"""Finds out before a worker begins whether it will be able to consume a queue, and takes nothing from it."""

import os
from typing import Any, Final

from aiotask.brokers.amqp.steps import OTHERWISE
from aiotask.connections.amqp import AmqpLink, ChannelError
from aiotask.exceptions import BrokerError

_ONLY_FOR_STREAMS: Final = "x-stream-offset"


async def see_readable(link: AmqpLink, name: str) -> None:
    """Ask to consume in a way that is refused where all is well: an argument that only a stream takes.

    The server looks first at whether the user may read, then at the arguments, and at the queue itself last.

    Raises:
        ChannelError: The user may not read it.
        BrokerError: It is a stream.
        LinkDown: There is no connection.

    Cost: three round trips.
    """
    channel = await link.channel()
    try:
        tag = f"aiotask.{os.urandom(6).hex()}"
        await channel.consume(name, _nothing, tag, prefetch=1, arguments={_ONLY_FOR_STREAMS: "next"})
    except ChannelError as error:
        if error.code != OTHERWISE or _ONLY_FOR_STREAMS not in str(error):
            raise
    else:
        raise BrokerError(
            f"The queue {name!r} in RabbitMQ {link.place} is a stream (x-queue-type=stream): what is read there stays "
            "there, so that tasks can't be taken from it. Use another name, or delete it, and it is made anew."
        )
    finally:
        await channel.close()


def _nothing(_: Any) -> None:
    """Nothing comes: a stream is read from its end."""
