"""Decides what starts, and acknowledges what is to be acknowledged before it does."""

import asyncio
import logging
import time
from collections.abc import Callable, Container, Hashable, Sequence
from contextlib import suppress
from typing import Final

from aiotask.brokers.amqp.errors import LINK_ERRORS
from aiotask.brokers.amqp.holding import Holding
from aiotask.brokers.amqp.intake import Intake
from aiotask.brokers.amqp.moving import Mover
from aiotask.brokers.amqp.names import Kind
from aiotask.brokers.amqp.packing import SUSPECT_LOSSES, Facts, Receipt
from aiotask.connections.amqp import AmqpLink
from aiotask.message import Start, Verdict
from aiotask.showing import shown

_LOOK_S: Final = 0.02
_SETTLING_LOOKS: Final = 100

_log = logging.getLogger(__name__)


class Starter:
    """A subscription's."""

    def __init__(
        self,
        link: AmqpLink,
        holding: Holding,
        intake: Intake,
        mover: Mover,
        revoked: Container[str],
        is_ours: Callable[[Hashable], bool],
        *,
        is_receiving: Callable[[], bool],
        max_losses: int,
    ) -> None:
        """Take what it works with.

        Args:
            link: The subscription's own.
            holding: What it has in hand.
            intake: Where that comes from.
            mover: Moves suspects; what it has under way comes before anything else that may end the process.
            revoked: The ids that must not start.
            is_ours: Tells whether a receipt is still the subscription's.
            is_receiving: Tells whether somebody waits for more.
            max_losses: Lost so often, a message starts no more.
        """
        self._link = link
        self._holding = holding
        self._intake = intake
        self._mover = mover
        self._revoked = revoked
        self._is_ours = is_ours
        self._is_receiving = is_receiving
        self._max_losses = max_losses
        self._alone: Receipt | None = None
        """What was begun last of what nothing else may start beside."""

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """See `Subscription`. What is acknowledged early is acknowledged before this returns: the server has had it.

        What its consumer has lost, perhaps unstarted, counts against what is acknowledged late alone: an early one that
        had started would not have come again.

        Where the server does not answer, and does not hang up either, early ones are lost: whether they come again is
        not known, and none may start twice. Where it has hung up they run: as a rule it has had what was written.

        Cost: none for late ones; a round trip for early ones; one more for suspects.
        """
        await self._clear_suspects(batch)
        reached = all(start.acks_late for start in batch) or await self._is_reached()
        verdicts = [self._judge(start) for start in batch]
        early = []
        for start, verdict in zip(batch, verdicts, strict=True):
            if verdict is Verdict.RUN:
                receipt: Receipt = start.delivery.receipt
                receipt.begun = True
                if receipt.facts.losses >= max(SUSPECT_LOSSES, self._max_losses - 1):
                    self._alone = receipt
                if not start.acks_late:
                    receipt.early = True
                    early.append(receipt)
        if not early:
            return verdicts
        if not reached or not await self._has_room():
            self._give_up(early)
        else:
            await self._acknowledge_early(early)
        return [
            verdict if verdict is not Verdict.RUN or start.delivery.receipt.held else Verdict.LOST
            for start, verdict in zip(batch, verdicts, strict=True)
        ]

    async def _is_reached(self) -> bool:
        """Ask whether the server still has us, when it was silent for long, since this process was stopped, perhaps.

        What it has given to others meanwhile may lie in our buffers still.
        """
        link = self._link
        channel = self._intake.channel
        if channel is None or not 0 < link.heartbeat_s < time.monotonic() - link.answered_mono:
            return True
        try:
            await channel.ask()
        except LINK_ERRORS:
            return False
        link.answered_mono = time.monotonic()
        return True

    async def _has_room(self) -> bool:
        """See to it that what is acknowledged is not followed by as much again; False where the server is silent."""
        return self._is_receiving() or not self._intake.is_small or await self._intake.pause()

    def _give_up(self, early: Sequence[Receipt]) -> None:
        """Leave what was to begin to the server: it gives it to others, and at once when its channel is gone."""
        for channel in {receipt.channel for receipt in early}:
            channel.abandon("the server does not answer")
        self._leave(early, "Others get them.")

    async def _acknowledge_early(self, early: Sequence[Receipt]) -> None:
        """Acknowledge what begins, and wait until the server has had it.

        In silence nothing tells whether an acknowledgement has arrived: what begins is none of ours then.
        """
        for channel, acks in self._holding.acknowledge(early):
            if not await channel.acknowledge_and_hear(acks):
                silent = [receipt for receipt in early if receipt.channel is channel]
                self._leave(silent, "What it has heard of is lost (acknowledged late it is not); others get the rest.")

    def _leave(self, receipts: Sequence[Receipt], consequence: str) -> None:
        for receipt in receipts:
            self._holding.give_up(receipt)
        _log.error(
            "RabbitMQ %s did not answer: %d messages that were to begin don't start here. %s %s",
            self._link.place,
            len(receipts),
            consequence,
            shown(", ".join(receipt.id for receipt in receipts)),
        )

    async def _clear_suspects(self, batch: Sequence[Start]) -> None:
        """Let nothing start that may end this process as long as the server has not heard what is done already.

        What had its last start alone has ended when something else begins, as a rule, but it may not be settled. And
        what was moved to the suspects, and ends the process at once, would still be where it was, too.
        """
        alone, self._alone = self._alone, None
        if alone is None and not any(start.delivery.receipt.source.kind is Kind.SUSPECTS for start in batch):
            return
        for _ in range(_SETTLING_LOOKS):
            if alone is None or not alone.held:
                break
            await asyncio.sleep(_LOOK_S)
        await self._mover.wait(self._link.command_timeout_s)
        with suppress(*LINK_ERRORS):
            await self._intake.flush()

    def _judge(self, start: Start) -> Verdict:
        receipt = start.delivery.receipt
        if not self._is_ours(receipt) or receipt.void_at is not None or receipt.channel.ended:
            return Verdict.LOST
        if receipt.id in self._revoked:
            return Verdict.REVOKED
        facts: Facts = receipt.facts
        if not start.acks_late and facts.sure:
            return Verdict.STARTED_BEFORE
        if start.acks_late and facts.losses >= self._max_losses:
            return Verdict.TOO_MANY_STARTS
        expires_at = start.delivery.expires_at  # whoever has read the message may know more of it
        if expires_at is not None and expires_at <= time.time():
            return Verdict.EXPIRED
        return Verdict.RUN
