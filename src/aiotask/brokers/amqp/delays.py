"""Sees to it that the ladder of delays is there, as high as it is needed, and that what comes out of it has a queue."""

import time
from collections.abc import Collection
from typing import Final

from aiotask.brokers.amqp.directory import Directory
from aiotask.brokers.amqp.ladder import RUNGS, Ladder
from aiotask.brokers.amqp.names import server_name
from aiotask.brokers.amqp.nowhere import Nowhere
from aiotask.brokers.amqp.steps import ABSENT, OTHERWISE, is_there, on_a_channel
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError

LOOK_AGAIN_S: Final = 60.0
"""So long it is believed that nobody deletes a rung. Only the first one of a message would be missed at once."""


class Delays:
    """What there is of the ladder on a server, and what is bound to its exit."""

    def __init__(self, link: AmqpLink, directory: Directory, known: set[str]) -> None:
        """Take what it works with.

        Args:
            link: Opened by its user.
            directory: The names of all queues.
            known: What is known to be there; emptied when that is not sure any more.
        """
        self._link = link
        self._directory = directory
        self._known = known
        self.ladder = Ladder(link.key_prefix)
        self._nowhere = Nowhere(link, self.ladder.nowhere)
        self._ours: set[str] = set()
        """Queues that were bound here: not all of them are in the directory."""
        self._looked_mono = time.monotonic()

    async def ensure(self, queue: str, delay_s: float) -> None:
        """See to the ladder, as high as it is needed, and that what is due of `queue`, which is there, comes to it.

        Cost: nothing when it is known; else two round trips for each rung up to the highest that is needed. Once for
            each connection, and after a minute again.
        """
        await self.ensure_rungs(self.ladder.highest(delay_s))
        bound = f"{self.ladder.exit}>{queue}"
        if bound not in self._known:
            await self._bind(queue)
            self._known.add(bound)

    async def ensure_rungs(self, highest: int) -> None:
        """See to all rungs up to one: somebody may have deleted any of them, and what is due would stay above it."""
        rungs = [self.ladder.rung(number) for number in range(highest + 1)]
        if time.monotonic() - self._looked_mono > LOOK_AGAIN_S:
            self._looked_mono = time.monotonic()
            self._known.difference_update(rungs)
        unknown = [rung for rung in rungs if rung not in self._known]
        if unknown:
            if not await self._are_there(unknown):
                await self._build(highest)
            self._known.update(rungs)

    async def ensure_exchange(self, name: str) -> None:
        """See to the rung whose exchange has this name, and to those below it; nothing when it is no rung's."""
        number = self.ladder.number(name)
        if number is not None:
            await self.ensure_rungs(number)

    async def adopt(self, queues: Collection[str]) -> None:
        """Let queues that are there have what is due of them, and what was so before; nothing where there is no ladder.

        Cost: a few round trips for each queue; see `Nowhere.give_back`.
        """
        if await is_there(self._link, exchange=self.ladder.exit):
            for queue in queues:
                await self._bind(queue)
            await self._nowhere.give_back(queues)

    async def _are_there(self, rungs: Collection[str]) -> bool:
        async def look(channel: AmqpChannel) -> None:
            for exchange in (self.ladder.exit, self.ladder.nowhere, *rungs):
                await channel.declare_exchange(exchange, "topic", passive=True)
            for queue in (self.ladder.nowhere, *rungs):
                await channel.declare_queue(queue, passive=True)

        try:
            await on_a_channel(self._link, look)
        except ChannelError as error:
            if error.code != ABSENT:
                raise
            return False
        return True

    async def _build(self, highest: int) -> None:
        """Make what is missing; with an exchange its bindings are gone, those from the rung above it, too."""
        top = highest
        while top + 1 < RUNGS and await is_there(self._link, exchange=self.ladder.rung(top + 1)):
            top += 1
        made = not await is_there(self._link, exchange=self.ladder.exit)
        await self._nowhere.build()
        await self._make_exit()
        await on_a_channel(self._link, lambda channel: self.ladder.build(channel, top))
        if made:
            await self._bind_all()

    async def _make_exit(self) -> None:
        try:
            await on_a_channel(self._link, self.ladder.build_exit)
        except ChannelError as error:
            # One without alternate exchange, which an earlier version has made, does as well as it did then.
            if error.code != OTHERWISE or "alternate-exchange" not in str(error):
                raise

    async def _bind_all(self) -> None:
        """Bind all queues that are known of again: whoever delays for them does not look while it is connected."""
        bound = []
        for queue in sorted({queue for queue, _ in await self._directory.read()} | self._ours):
            try:
                await self._bind(queue)
            except ChannelError as error:
                if error.code != ABSENT:
                    raise
            else:
                bound.append(queue)
        await self._nowhere.give_back(bound)

    async def _bind(self, queue: str) -> None:
        name, ladder = server_name(queue), self.ladder
        self._ours.add(queue)
        await on_a_channel(self._link, lambda channel: channel.bind_queue(name, ladder.exit, ladder.key(queue)))
