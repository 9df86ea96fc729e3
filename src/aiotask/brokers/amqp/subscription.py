"""One consumer of a RabbitMQ broker: takes, starts and settles messages."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Final

import msgspec

from aiotask.brokers.amqp.errors import ERRORS, LINK_ERRORS, settling
from aiotask.brokers.amqp.holding import Holding
from aiotask.brokers.amqp.intake import Intake
from aiotask.brokers.amqp.keeper import AmqpLeaseKeeper
from aiotask.brokers.amqp.ladder import UNIT_S
from aiotask.brokers.amqp.moving import Mover
from aiotask.brokers.amqp.names import Kind, server_name
from aiotask.brokers.amqp.packing import SUSPECT_LOSSES, Receipt, due_after_the_ladder
from aiotask.brokers.amqp.parked import Parked
from aiotask.brokers.amqp.revokes import Revokes
from aiotask.brokers.amqp.sender import Sender, Unconfirmed
from aiotask.brokers.amqp.starting import Starter
from aiotask.connections.amqp import AmqpChannel, AmqpLink, Message
from aiotask.exceptions import BrokerConnectionError
from aiotask.message import Delivery, Settlement, Start, Verdict

_LINGER_S: Final = 0.05
"""Who does not receive for so long takes nothing from others any more."""
_FLOW: Final = 3
_GATHER_S: Final = 0.001
_LOOK_S: Final = 0.02
_MOST_LOOKS: Final = 50
_MOST_LOOKS_AGAIN: Final = 25
"""What the server gives back comes at once, to whoever consumes; until it is known to whom, nothing new is taken. By
looks, not by time: a process that stood still meanwhile has not looked."""
_COMES_AGAIN_S: Final = 5.0
"""For so long it is waited for when nobody consumes here, so that it can't come."""

_log = logging.getLogger(__name__)


class AmqpSubscription:
    """A `Subscription` on a link of its own.

    A message is ours for as long as the channel lives that delivered it. What the server then gives to somebody else
    it calls redelivered, and does not say whether it had started. Quorum queues count how often; in a classic one it is
    replaced by a copy that says so. What was lost twice is copied to where it is taken one at a time. Everything that
    is given back is such a copy, too: confirmed, and only then acknowledged, so that a crash in between doubles it and
    loses nothing.
    """

    def __init__(
        self,
        link: AmqpLink,
        sender: Sender,
        *,
        consumer: str,
        lease: float,
        max_losses: int,
        forget: Callable[["AmqpSubscription"], None],
    ) -> None:
        self.consumer = consumer
        self.link = link
        self.lease = lease
        self._sender = sender
        self._topology = sender.topology
        self._packer = sender.packer
        self._forget = forget
        self._holding = Holding()
        self._revokes = Revokes(link, sender)
        self._intake = Intake(link, sender.topology, self._arrived, self._lost, self._revokes.caught_up)
        self._parked = Parked(link, sender.topology, self._lost)
        self._mover = Mover(sender, self._acknowledge, lease)
        self._starter = Starter(
            link,
            self._holding,
            self._intake,
            self._mover,
            self._revokes.ids,
            self._is_ours,
            is_receiving=lambda: self._receiving > 0,
            max_losses=max_losses,
        )
        self._receiving = 0
        self._flows = False
        """True while messages come faster than one by one."""
        self._linger: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._pausing: set[asyncio.Task[None]] = set()
        self._unparking: set[asyncio.Task[None]] = set()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, queues: Sequence[str]) -> None:
        """Connect, and consume from now on; raises as the link does."""
        self._loop = asyncio.get_running_loop()
        await self.link.open()
        self._revokes.open()
        try:
            await self._intake.open(queues)
        except BaseException:
            await self._revokes.close()
            await self.link.close()
            raise

    # ---- taking ----

    async def receive(self, max_items: int, wait: float) -> list[Delivery]:
        """See `Subscription`; `[]` at once when it is closed.

        Raises:
            BrokerError: The server refuses: the user may not do this, or a queue is not as it should be.

        Cost: none when messages have been pushed; to begin, a few round trips for each queue.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        looks, waited = 0, False
        self._receiving += 1
        try:
            while not self._closed:
                if self._flows:
                    await asyncio.sleep(_GATHER_S)  # a larger batch costs less for each
                taken = self._intake.take(max_items)
                self._flows = len(taken) >= _FLOW
                if not taken:
                    with self.link.translating(ERRORS):
                        await self._consume(max_items, insist=waited)
                    taken = self._intake.take(max_items)
                    self._flows = len(taken) >= _FLOW
                if taken:
                    return self._hand_out(taken)
                left = deadline - loop.time()
                if left <= 0:
                    looks += 1
                    if wait > 0 or looks > _MOST_LOOKS or (looks > 1 and not await self._anything()):
                        return []
                    left = _LOOK_S
                await self._intake.changed.wait(left if waited else min(left, _LOOK_S))
                waited = True
        except asyncio.CancelledError:
            self._pause()
            raise
        finally:
            self._receiving -= 1
            self._pause_soon()
        return []

    async def _consume(self, room: int, *, insist: bool) -> None:
        try:
            # What comes again to who runs it takes no room, but counts for the server.
            await self._intake.consume(room + len(self._holding.void), insist=insist)
        except LINK_ERRORS:
            if self._intake.trouble is not None:
                raise

    async def _anything(self) -> bool:
        try:
            return await self._intake.anything()
        except LINK_ERRORS:
            return False

    def _hand_out(self, receipts: Sequence[Receipt]) -> list[Delivery]:
        self._holding.hand_out(receipts)
        return [receipt.delivery() for receipt in receipts]

    def _arrived(self, receipt: Receipt) -> bool:
        """Look at what has come; tell whether it is to be handed out."""
        if not receipt.redelivered:
            self._holding.deliver(receipt)
        elif not self._came_again(receipt):
            return False
        if receipt.facts.losses >= SUSPECT_LOSSES and receipt.source.kind is not Kind.SUSPECTS:
            self._mover.move([receipt], stays=True)
            return False
        if receipt.facts.due_at is not None and receipt.facts.due_at - time.time() > UNIT_S:
            self._mover.move([receipt])  # the ladder is too short for its delay: once more
            return False
        return True

    def _came_again(self, receipt: Receipt) -> bool:
        """Look at what was delivered before; tell whether anybody is still to see to it."""
        holding = self._holding
        if holding.attach(receipt, time.monotonic(), self.lease) is not None:
            return False  # it still runs here
        holding.deliver(receipt)
        if holding.was_settled(receipt.message_id):
            self._acknowledge([receipt])  # it was before, but the server has not heard of it
            return False
        if receipt.identity in holding.unstarted:
            holding.unstarted.discard(receipt.identity)
            if receipt.counted:
                receipt.lost_again(-1)
        elif not receipt.counted:  # by a copy, since a classic queue does not count
            receipt.lost_again(1)
            self._mover.move([receipt], stays=True)
            return False
        return True

    def _lost(self, channel: AmqpChannel) -> None:
        self._holding.lose(channel, time.monotonic())
        self._mover.lose(channel)

    # ---- giving back ----

    def _pause_soon(self) -> None:
        """Pause unless somebody receives again soon. One timer looks: one for each message would cost it 10 us."""
        if not self._receiving and not self._closed:
            loop = asyncio.get_running_loop()
            self._idle_since = loop.time()
            if self._linger is None:
                self._linger = loop.call_later(_LINGER_S, self._look)

    def _look(self) -> None:
        self._linger = None
        if self._receiving or self._closed:
            return
        loop = asyncio.get_running_loop()
        left = self._idle_since + _LINGER_S - loop.time()
        if left > 0:
            self._linger = loop.call_later(left, self._look)
        else:
            self._pause()

    def _pause(self) -> None:
        """Give back what has come and nobody has asked for, unless somebody does now."""
        task = asyncio.get_running_loop().create_task(self._pause_now())
        self._pausing.add(task)
        task.add_done_callback(self._pausing.discard)

    async def _pause_now(self) -> None:
        if self._receiving:
            return
        await self._intake.pause()
        if self._receiving:
            self._intake.changed.fire()
            return
        if self._sender.link.blocked:  # it takes nothing back either: whoever receives next gets it
            return
        self._mover.move(self._intake.take_all())

    def _acknowledge(self, receipts: Sequence[Receipt]) -> None:
        for receipt in receipts:
            receipt.held = False
        for channel, acks in self._holding.acknowledge(receipts):
            channel.acknowledge(acks)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.lease

    # ---- starting ----

    async def begin(self, batch: Sequence[Start]) -> list[Verdict]:
        """See `Subscription`, and `Starter.begin`."""
        return await self._starter.begin(batch)

    def _is_ours(self, receipt: Hashable, now: float | None = None) -> bool:
        return self._holding.ours(receipt, time.monotonic() if now is None else now, self.lease)

    def lease_keeper(self) -> AmqpLeaseKeeper:
        """See `Subscription`."""
        return AmqpLeaseKeeper(self._is_ours)

    # ---- ending ----

    async def settle(self, batch: Sequence[Settlement]) -> list[Delivery]:
        """See `Subscription`. What is to be stored is confirmed before anything is acknowledged.

        While the connection is down that delivered a message, its settlement waits for the message to come again, here
        or to another, for as long as a lease, and for half a second once it consumes over a new one.

        Raises:
            BrokerError: Something could not be stored; nothing that is not stored was acknowledged. Try again.

        Cost: one round trip where something is to be stored, else a write.
        """
        refused: list[Delivery] = []
        ended: list[Receipt] = []
        copies: list[tuple[Receipt, Message]] = []
        seen: set[Receipt] = set()
        with settling(self.link):
            await self._come_again([settlement.delivery.receipt for settlement in batch])
            for settlement in batch:
                receipt = settlement.delivery.receipt
                if not self._is_attached(receipt) or receipt in seen:
                    refused.append(settlement.delivery)
                    if isinstance(receipt, Receipt) and settlement.action == "ack":
                        self._holding.remember(receipt.message_id)  # should it come again here, it is done
                    continue
                seen.add(receipt)
                ended.append(receipt)
                if settlement.action != "ack" and not receipt.copied:
                    copies.append((receipt, await self._outcome(receipt, settlement)))
            if copies:
                await self._store(copies)
        for receipt in ended:
            self._holding.leave(receipt)
        self._acknowledge([receipt for receipt in ended if not receipt.early])
        return refused

    async def _come_again(self, receipts: Sequence[Hashable]) -> None:
        """Wait for messages to come again whose connection was lost, until others have them, for all that is known.

        What has not come soon after something is consumed again is somebody else's, and all other outcomes wait.
        """
        if not self._holding.void:
            return
        intake, looks = self._intake, 0
        self._receiving += 1
        try:
            while any(self._is_ours(receipt) and not self._is_attached(receipt) for receipt in receipts):
                if intake.channel is None:
                    looks = 0
                elif looks >= _MOST_LOOKS_AGAIN or time.monotonic() - intake.built_mono > _COMES_AGAIN_S:
                    break
                elif intake.has_consumed:
                    looks += 1
                elif self._receiving == 1:  # who would receive waits for this to end, maybe
                    await self._consume(0, insist=False)
                await asyncio.sleep(_LOOK_S)
        finally:
            self._receiving -= 1
            self._pause_soon()
        for receipt in receipts:
            if isinstance(receipt, Receipt) and not self._is_attached(receipt):
                self._holding.leave(receipt)

    def _is_attached(self, receipt: Hashable) -> bool:
        """Tell whether a receipt is ours for certain; where it is not known its message may come again."""
        return isinstance(receipt, Receipt) and self._is_ours(receipt) and (receipt.early or receipt.void_at is None)

    async def _outcome(self, receipt: Receipt, settlement: Settlement) -> Message:
        facts, queue = receipt.facts, receipt.source.queue
        if settlement.action == "replace":
            assert settlement.envelope is not None  # noqa: S101 - a replacement has one
            [message] = await self._sender.envelopes([settlement.envelope], again=True)
            return message
        if settlement.action == "park":
            name = await self._topology.ensure_line(queue, settlement.line)
            return self._packer.copy(receipt, name, msgspec.structs.replace(facts, at=time.time()))
        if settlement.action == "dead":
            name = await self._topology.ensure_dead(queue)
            return self._packer.letter(receipt, name, settlement.reason, settlement.detail)
        more = msgspec.structs.replace(facts, count=facts.count + 1, sure=facts.sure + settlement.lost)
        if settlement.delay_s <= 0:
            return self._mover.copy_ahead(receipt, more)
        more.due_at = due_after_the_ladder(settlement.delay_s)
        copy = self._packer.copy(receipt, server_name(queue), more)
        await self._sender.delay(copy, queue, settlement.delay_s)
        return copy

    async def _store(self, copies: Sequence[tuple[Receipt, Message]]) -> None:
        try:
            await self._mover.send(copies, self._deadline(), patient=True)
        except Unconfirmed as error:
            left = set(error.positions)
            for at, (receipt, _) in enumerate(copies):
                receipt.copied = at not in left  # or a repeat would store it twice
            raise

    async def unpark(self, lines: Mapping[str, int]) -> list[Delivery]:
        """See `Subscription`; over several queues their lines take turns.

        What was taken before by one who was lost is in its line again: it is moved ahead, and comes by `receive`. It
        does not count among what is asked for, and where it was met, this returns when it is moved.

        Cost: a round trip for each message, and one more for each line and queue; one for what is moved.
        """
        if self._closed:
            return []
        taken: list[Receipt] = []
        taking = asyncio.get_running_loop().create_task(self._unpark(lines, taken))
        self._unparking.add(taking)
        taking.add_done_callback(self._unparking.discard)
        try:
            with settling(self.link):
                await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(partial(self._unparked_for_nobody, taken))
            raise
        except BrokerConnectionError:
            self._mover.move(taken)
            return []
        taken.sort(key=lambda receipt: (receipt.priority, receipt.facts.at))
        return self._hand_out(taken)

    def _unparked_for_nobody(self, taken: list[Receipt], taking: "asyncio.Task[None]") -> None:
        if not taking.cancelled():
            taking.exception()  # seen: what a lost link has delivered is the server's to give
        self._mover.move(taken)

    async def _unpark(self, lines: Mapping[str, int], taken: list[Receipt]) -> None:
        came_again = False

        def arrived(receipt: Receipt) -> bool:
            nonlocal came_again
            if not receipt.redelivered:
                self._holding.deliver(receipt)
            else:
                came_again = True
                if not self._came_again(receipt):
                    return False
                if receipt.facts.losses:
                    self._mover.move([receipt])
                    return False
            taken.append(receipt)
            return True

        await self._parked.take(self._intake.queues, lines, arrived)
        if came_again:  # who finds a line empty looks into the queue next, and is to find there what was moved
            await self._mover.wait(self.link.command_timeout_s)

    # ---- coming and going ----

    async def set_queues(self, queues: Sequence[str]) -> None:
        """See `Subscription`."""
        with settling(self.link):
            self._mover.move(await self._intake.set_queues(queues))

    async def close(self) -> None:
        """See `Subscription`; a waiting `receive` returns `[]`.

        What can't be handed back is left to the server, which gives it to others as soon as the connection ends.
        """
        if self._closed:
            return
        self._closed = True
        self._forget(self)
        if self._loop is not asyncio.get_running_loop():  # that loop is gone, and all that was on it
            await self.link.close()
            return
        if self._linger is not None:
            self._linger.cancel()
        self._intake.changed.fire()
        try:
            await self._hand_back()
        except (*LINK_ERRORS, Unconfirmed) as error:
            _log.warning("Could not hand back what was taken from RabbitMQ %s: %s", self.link.place, error)
        finally:
            try:
                await self._intake.close()
                await self._parked.close()
                await self._revokes.close()
            finally:  # whoever is cancelled here leaves no connection behind
                await self.link.close()

    async def _hand_back(self) -> None:
        await self._intake.pause()
        if self._unparking:  # cut off: what it takes is to be moved, or it would count as lost
            await asyncio.wait(self._unparking, timeout=self.link.command_timeout_s)
        self._mover.move(self._intake.take_all())
        await self._mover.wait(self.link.command_timeout_s)
        now = time.monotonic()
        held = [one for one in self._holding.out if self._holding.ours(one, now, self.lease) and one.void_at is None]
        copies = []
        for receipt in held:
            facts = receipt.facts
            more = msgspec.structs.replace(facts, count=facts.count + 1, sure=facts.sure + receipt.begun)
            copies.append((receipt, self._mover.copy_ahead(receipt, more)))
        if copies:
            deadline = asyncio.get_running_loop().time() + self.link.command_timeout_s
            await self._mover.send(copies, deadline)
            self._acknowledge(held)
            await self._intake.flush()
