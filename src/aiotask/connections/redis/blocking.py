"""A connection of its own for reads that block, so that nothing else waits behind them."""

import asyncio
import math
from typing import Any

from aiotask.connections.backoff import Backoff
from aiotask.connections.redis.commands import Word, pack_command
from aiotask.connections.redis.errors import LinkDown, ReplyError, ServerRefused
from aiotask.connections.redis.link import RedisLink
from aiotask.connections.redis.wire import Wire


class BlockingReader:
    """Sends one blocking command at a time, on a connection that is made when it is needed.

    It follows its link: when that goes down, so does this one, and with it what is blocked on it, since a blocked read
    alone may hear nothing of a server's end for long.
    """

    def __init__(self, link: RedisLink) -> None:
        """Take an open link. No I/O."""
        self._link = link
        self._wire: Wire | None = None
        self._busy = False
        self._interrupted = False
        self._backoff = Backoff()

    async def call(self, *words: Word, block: float) -> Any:
        """Send a command that blocks, and return its reply.

        Cancelling is safe: the connection is dropped, and the server forgets that it was asked. What it had just popped
        is gone with it, so pop nothing but hints.

        Args:
            words: The command, with its own time limit: `("BLPOP", key, 5)`.
            block: That time limit in seconds, more than 0. It waits for a connection so long, too.

        Raises:
            LinkDown: There was no connection for so long, or it was lost.
            ReplyError: The server's answer.
            LinkClosed: The link is not open.

        Cost: one round trip; the first time a handshake.
        """
        if not 0 < block < math.inf:
            raise ValueError(f"block is more than 0 s and finite, or a half-open link would hang for ever, not {block}")
        if self._busy:
            raise RuntimeError("a BlockingReader sends one command at a time")
        self._busy = True
        self._interrupted = False
        try:
            wire = await self._connected(block)
            if self._interrupted:  # while it was connecting
                self._drop("it was interrupted")
            reply = await wire.submit(pack_command(words), allowance=block)
        except asyncio.CancelledError:
            self._drop("the caller has left")
            raise
        finally:
            self._busy = False
        if type(reply) is ReplyError:
            raise reply
        return reply

    def interrupt(self) -> None:
        """Let a `call` that is blocked, or about to be, raise `LinkDown`. The next one makes another connection."""
        self._interrupted = True
        self._drop("it was interrupted")

    async def close(self) -> None:
        """Close the connection. Idempotent; another `call` makes a new one."""
        wire = self._wire
        self._drop("it was closed")
        if wire is not None:
            await wire.closed

    async def _connected(self, wait: float) -> Wire:
        if self._wire is not None and self._wire.usable:
            return self._wire
        await self._link.wait_connected(wait)
        try:
            wire = await self._link.dial_wire(ping=False)
        except ServerRefused as error:
            await asyncio.sleep(min(self._backoff.next(), wait))  # whoever calls again at once does no harm
            raise LinkDown(str(error), sent=False) from error
        self._backoff.reset()
        self._wire = wire
        self._link.observe(self._follow)
        if not self._link.connected:  # it has gone down meanwhile, and this may be the wrong server
            self._drop("the link went down")
        return wire

    def _follow(self, up: bool) -> None:
        if not up:
            self._drop("the link went down")

    def _drop(self, why: str) -> None:
        self._link.unobserve(self._follow)
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close(why)
