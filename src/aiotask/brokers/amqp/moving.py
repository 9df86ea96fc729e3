"""Hands on messages that are not to be handed out here: a copy to where each belongs, confirmed, then acknowledged."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from aiotask.brokers.amqp.errors import LINK_ERRORS
from aiotask.brokers.amqp.names import Kind, Source
from aiotask.brokers.amqp.packing import SUSPECT_LOSSES, Facts, Receipt
from aiotask.brokers.amqp.sender import Sender, Unconfirmed
from aiotask.connections.amqp import AmqpChannel, Message

_AGAIN_S: Final = 0.5

_log = logging.getLogger(__name__)


class Mover:
    """A subscription's. What it can't move it tries again, until the channel is gone that has delivered it."""

    def __init__(self, sender: Sender, acknowledge: Callable[[Sequence[Receipt]], None], patience: float) -> None:
        """Take what it works with.

        Args:
            sender: Sends the copies.
            acknowledge: Called with what was moved.
            patience: Seconds that a copy may take until it is confirmed.
        """
        self._sender = sender
        self._acknowledge = acknowledge
        self._patience_s = patience
        self._moving: list[tuple[Receipt, Facts]] = []
        self._task: asyncio.Task[None] | None = None

    def move(self, receipts: Sequence[Receipt]) -> None:
        """Move them, by and by."""
        self._moving += [(receipt, receipt.facts) for receipt in receipts]
        if self._moving and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._move_all(), name="aiotask AMQP hand-backs")

    def lose(self, channel: AmqpChannel) -> None:
        """Note that a channel is gone: what it has delivered is the server's to give."""
        self._moving = [(receipt, facts) for receipt, facts in self._moving if receipt.channel is not channel]

    async def wait(self, seconds: float) -> None:
        """Return when all is moved, or after so many seconds."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    def copy_ahead(self, receipt: Receipt, facts: Facts) -> Message:
        """Return a copy that goes ahead of what waits; of what was lost more often, where it is taken alone."""
        kind = Kind.SUSPECTS if facts.losses >= SUSPECT_LOSSES else Kind.RETURNED
        return self._sender.packer.copy(receipt, Source(receipt.source.queue, kind).name, facts)

    async def _move_all(self) -> None:
        try:
            while self._moving:
                batch, self._moving = self._moving, []
                copies = [self.copy_ahead(receipt, facts) for receipt, facts in batch]
                try:
                    await self._sender.send(copies, asyncio.get_running_loop().time() + self._patience_s)
                except Unconfirmed as error:
                    _log.warning("Could not hand on %d messages, trying again: %s", len(error.positions), error.why)
                    again = set(error.positions)
                    self._acknowledge([one for at, (one, _) in enumerate(batch) if at not in again])
                    self._moving += [batch[at] for at in error.positions if batch[at][0].channel.usable]
                    await asyncio.sleep(_AGAIN_S)
                except LINK_ERRORS as error:
                    _log.warning("Could not hand on %d messages, trying again: %s", len(batch), error)
                    self._moving += [entry for entry in batch if entry[0].channel.usable]
                    await asyncio.sleep(_AGAIN_S)
                else:
                    self._acknowledge([receipt for receipt, _ in batch])
        finally:
            self._task = None
