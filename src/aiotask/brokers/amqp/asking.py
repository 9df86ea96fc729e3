"""Asks the workers of a server something, ours and Celery's: a command to all, and a queue for their answers."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiotask.brokers.amqp.remote import LISTENING
from aiotask.brokers.amqp.sender import Sender
from aiotask.connections.amqp import Message, Received
from aiotask.wire.pidbox import CONTENT_TYPE, EXCHANGE, OURS, PROPERTIES, REPLY_EXCHANGE, make_command, read_answer

_QUEUE: Final = {"x-expires": 60_000}


async def ask(
    sender: Sender, command: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, timeout: float
) -> dict[str, Any]:
    """Return the answers by the names of the nodes.

    How many nodes of ours listen is known, of Celery's it is not: once all of ours have answered, theirs are not waited
    for, unless they are named. Where none of ours listens, they are.

    Raises:
        ChannelError, LinkDown, ServerBlocked, Unconfirmed: It could not be asked, or the connection was lost.

    Cost: a channel, five round trips, and waiting.
    """
    link, loop = sender.link, asyncio.get_running_loop()
    ticket = os.urandom(8).hex()
    queue = f"{ticket}.{REPLY_EXCHANGE}"
    answers: dict[str, Any] = {}
    ours = expected = 0
    done = loop.create_future()

    def look() -> None:
        complete = 0 < expected <= ours if destination is None else answers.keys() >= set(destination)
        if complete and not done.done():
            done.set_result(None)

    def hear(message: Received) -> None:
        nonlocal ours
        headers = message.properties.headers or {}
        answer = read_answer(message.body, headers, ticket)
        answers.update(answer)
        ours += bool(answer) and OURS in headers
        look()

    channel = await link.channel(wait=link.command_timeout_s)
    try:
        await channel.declare_exchange(EXCHANGE, "fanout", durable=False)
        await channel.declare_queue(queue, _QUEUE, transient=True)
        await channel.consume(queue, hear, ticket, prefetch=0)
        if destination is None:
            expected = (await channel.declare_queue(LISTENING)).consumers
        body, headers = make_command(command, arguments, destination, ticket, queue)
        sent = Message(
            "",
            body,
            ticket,
            CONTENT_TYPE,
            EXCHANGE,
            headers=headers,
            persistent=False,
            mandatory=False,
            properties=PROPERTIES,
        )
        await sender.send([sent], loop.time() + link.command_timeout_s)
        look()
        await asyncio.wait([done, channel.lost], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not done.done() and channel.lost.done():
            raise channel.lost.result()
    finally:
        await channel.close()
    return answers
