"""Answers commands, in the format of Celery's remote control: a queue of this worker's own that hears every one."""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiotask.brokers.amqp.names import server_name
from aiotask.connections.amqp import (
    NOT_ENABLED,
    AmqpChannel,
    AmqpLink,
    ChannelError,
    LinkClosed,
    LinkDown,
    Message,
)
from aiotask.connections.backoff import Backoff
from aiotask.protocols import Answering
from aiotask.wire.pidbox import CONTENT_TYPE, EXCHANGE, PROPERTIES, REPLY_EXCHANGE, make_answer, read_command

_ARGUMENTS: Final = {"x-expires": 10_000, "x-message-ttl": 300_000}
_ANSWER_WITHIN_S: Final = 5.0
LISTENING: Final = f"aiotask.{EXCHANGE}"
"""A queue that is always empty: its consumers are the nodes of ours that hear it, whatever their `key_prefix` is."""

_log = logging.getLogger(__name__)


class Remote:
    """One node's ear. A context manager; whatever goes wrong with it, the worker goes on without."""

    def __init__(self, link: AmqpLink, node: str, commands: Mapping[str, Answering]) -> None:
        """Take what is answered; nothing is opened.

        Args:
            link: Open for as long as this is.
            node: The worker's name; several workers may have one.
            commands: By their names.
        """
        self._link = link
        self._node = node
        self._commands = commands
        self._queue = server_name(f"{node}.{os.urandom(4).hex()}.{EXCHANGE}")
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        """Begin to listen, by and by."""
        self._keeper = asyncio.create_task(self._keep(), name="aiotask remote control")

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    async def _keep(self) -> None:
        backoff = Backoff()
        while True:
            channel: AmqpChannel | None = None
            try:
                await self._link.wait_connected(3600.0)
                channel = await self._link.channel(confirms=True)
                await self._listen(channel)
                backoff.reset()
                await asyncio.wait([channel.lost])
            except ChannelError as error:
                if error.code == NOT_ENABLED:  # somebody else has asked for it over this connection
                    continue
                _log.warning("Celery's remote control gets no answer here, nor does app.control: %s", error)
                return
            except (LinkDown, LinkClosed):
                pass
            finally:
                if channel is not None:
                    await channel.close()
            await backoff.pause()

    async def _listen(self, channel: AmqpChannel) -> None:
        await channel.declare_exchange(EXCHANGE, "fanout", durable=False)
        await channel.declare_exchange(REPLY_EXCHANGE, "direct", durable=False)
        await channel.declare_queue(self._queue, _ARGUMENTS, transient=True)
        await channel.bind_queue(self._queue, EXCHANGE, "")
        await channel.consume(self._queue, partial(self._hear, channel), self._queue, prefetch=100)
        await channel.declare_queue(LISTENING)
        await channel.consume(LISTENING, _nothing, "present", prefetch=100)

    async def _hear(self, channel: AmqpChannel, message: Any) -> None:
        channel.acknowledge([(message.tag, False)])
        headers = message.properties.headers or {}
        command = read_command(message.body, headers, self._node, time.time())
        if command is None:
            return
        answering = self._commands.get(command.method)
        try:
            if answering is None:
                raise KeyError(command.method)  # noqa: TRY301 - what Celery's worker says
            reply = answering(command.arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, who has asked is told
            reply = {"error": repr(error)}
        answer = make_answer(command, self._node, reply)
        if answer is not None:
            sent = Message(
                answer.routing_key,
                answer.body,
                os.urandom(8).hex(),
                CONTENT_TYPE,
                answer.exchange,
                headers=answer.headers,
                persistent=False,
                mandatory=False,
                properties=PROPERTIES,
            )
            with suppress(ValueError):  # a name that is too long for AMQP: nobody can wait there
                await channel.publish([sent], _ANSWER_WITHIN_S)


def _nothing(_: Any) -> None:
    """Nobody sends anything there."""
