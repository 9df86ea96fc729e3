"""Hands on messages that are not to be handed out here: a copy to where each belongs, confirmed, then acknowledged."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from aiotask.brokers.amqp.errors import LINK_ERRORS
from aiotask.brokers.amqp.names import Kind, Source, server_name
from aiotask.brokers.amqp.packing import SUSPECT_LOSSES, Facts, Receipt
from aiotask.brokers.amqp.sender import Sender, Unconfirmed, Unsendable
from aiotask.connections.amqp import AmqpChannel, Message
from aiotask.showing import shown

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
        self._moving: list[tuple[Receipt, Facts, bool]] = []
        self._task: asyncio.Task[None] | None = None

    def move(self, receipts: Sequence[Receipt], *, stays: bool = False) -> None:
        """Move them, by and by; `stays` as in `copy_ahead`."""
        self._moving += [(receipt, receipt.facts, stays) for receipt in receipts]
        if self._moving and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._move_all(), name="aiotask AMQP hand-backs")

    def lose(self, channel: AmqpChannel) -> None:
        """Note that a channel is gone: what it has delivered is the server's to give."""
        self._moving = [entry for entry in self._moving if entry[0].channel is not channel]

    async def wait(self, seconds: float) -> None:
        """Return when all is moved, or after so many seconds."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)

    def copy_ahead(self, receipt: Receipt, facts: Facts, *, stays: bool = False) -> Message:
        """Return a copy that goes ahead of what waits; of what was lost more often, where it is taken alone.

        What another protocol's workers may run goes back to the queue itself, behind what waits, since they take from
        no other; unless it `stays` with us, who are there to take it at once.
        """
        kind = Kind.RETURNED if stays or receipt.headers is None else Kind.MAIN
        if facts.losses >= SUSPECT_LOSSES:
            kind = Kind.SUSPECTS
        return self._sender.packer.copy(receipt, Source(receipt.source.queue, kind).name, facts)

    async def send(self, copies: Sequence[tuple[Receipt, Message]], deadline: float, *, patient: bool = False) -> None:
        """Send what receipts become. What AMQP can't carry becomes a dead letter, without what it can't carry.

        Args:
            copies: What to send, and of which.
            deadline: By the loop's clock.
            patient: As in `Sender.send`.

        Raises:
            Unconfirmed: By the positions in `copies`; and as `Sender.send` does, where nothing was sent.
        """
        try:
            await self._sender.send([message for _, message in copies], deadline, patient=patient)
        except Unsendable as error:
            positions = list(error.errors)
            try:
                letters = [await self._letter(copies[at][0], error.errors[at]) for at in positions]
                await self._sender.send(letters, deadline, patient=patient)
            except Unconfirmed as unconfirmed:
                raise Unconfirmed([positions[at] for at in unconfirmed.positions], unconfirmed.why) from unconfirmed
            except LINK_ERRORS as lost:
                raise Unconfirmed(positions, lost) from lost

    async def _letter(self, receipt: Receipt, why: ValueError) -> Message:
        _log.error("%s can't be sent on, and is a dead letter: %s", shown(receipt.id), why)
        queue = await self._sender.topology.ensure_dead(receipt.source.queue)
        return self._sender.packer.bare_letter(receipt, queue, why)

    async def _copy(self, receipt: Receipt, facts: Facts, *, stays: bool) -> Message:
        wait_s = 0.0 if facts.due_at is None else facts.due_at - time.time()
        if wait_s <= 0:
            return self.copy_ahead(receipt, facts, stays=stays)
        queue = receipt.source.queue
        copy = self._sender.packer.copy(receipt, server_name(queue), facts)
        await self._sender.delay(copy, queue, wait_s)
        return copy

    async def _move_all(self) -> None:
        try:
            while self._moving:
                batch, self._moving = self._moving, []
                try:
                    copies = [(one, await self._copy(one, facts, stays=stays)) for one, facts, stays in batch]
                    await self.send(copies, asyncio.get_running_loop().time() + self._patience_s, patient=True)
                except Unconfirmed as error:
                    _log.warning("Could not hand on %d messages, trying again: %s", len(error.positions), error.why)
                    again = set(error.positions)
                    self._acknowledge([entry[0] for at, entry in enumerate(batch) if at not in again])
                    self._moving += [batch[at] for at in error.positions if batch[at][0].channel.usable]
                    await asyncio.sleep(_AGAIN_S)
                except LINK_ERRORS as error:
                    _log.warning("Could not hand on %d messages, trying again: %s", len(batch), error)
                    self._moving += [entry for entry in batch if entry[0].channel.usable]
                    await asyncio.sleep(_AGAIN_S)
                else:
                    self._acknowledge([entry[0] for entry in batch])
        finally:
            self._task = None
