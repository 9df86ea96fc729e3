"""Opens, publishes to and subscribes to the queues on a Redis server."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from aiotask.brokers.redis.admin import RedisQueueAdmin
from aiotask.brokers.redis.calls import ERRORS, LINK_ERRORS, Calls
from aiotask.brokers.redis.packing import pack_envelopes
from aiotask.brokers.redis.remote import Asker, Remote
from aiotask.brokers.redis.scripts import ENQUEUE, REVOKE
from aiotask.brokers.redis.subscription import RedisSubscription
from aiotask.connections.redis import RedisLink, Translation, Word
from aiotask.exceptions import BrokerConnectionError, BrokerFull, PublishError
from aiotask.message import REVOKED_KEPT, Envelope
from aiotask.protocols import Answering

_REVOKED_AT_ONCE: Final = 1000
"""More would let everybody else wait for too long: a script is alone on the server."""


class RedisBroker(RedisQueueAdmin):
    """A `Broker`, `QueueAdmin`, `Examinable`, `Revoking` and `RemoteControlled` on a `RedisLink`.

    Its subscriptions are `FusedStart`, `FusedFinish` and `Pipelined`.
    """

    def __init__(self, link: RedisLink, *, publish_timeout: float = 10.0) -> None:
        """Take a link; nothing is opened.

        Args:
            link: To the server.
            publish_timeout: Seconds after which a message that the server has not confirmed counts as not sent.
        """
        super().__init__(Calls(link))
        self.link = link
        self._publish_timeout_s = publish_timeout
        self._asker = Asker(link)
        self._open = False
        self._subscriptions: set[RedisSubscription] = set()

    @property
    def connected(self) -> bool:
        """False from the moment the connection is known to be down until it is up again."""
        return self._open and self.link.connected

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerConnectionError: The server can't be used; says why, and what to do.
        """
        if self._open:
            return
        self._open = True
        try:
            with self.link.translating(ERRORS):
                await self.link.open()
        except BaseException:
            self._open = False
            raise
        self._calls.forget_names()
        self.link.observe(self._calls.forget_names)

    async def close(self) -> None:
        """Close the subscriptions that are still open, and the connection unless a backend still uses it."""
        if not self._open:
            return
        self._open = False
        self.link.unobserve(self._calls.forget_names)
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.close()
        finally:
            await self.link.close()

    async def publish(self, batch: Sequence[Envelope]) -> None:
        """Store `batch`, all or nothing. Repeated while the connection is down; a repeat stores nothing twice.

        Raises:
            PublishError: The server has not confirmed it in time; says whether it may be stored all the same.
            BrokerFull: The server has no memory left, or can't write to its disk; nothing was stored.
            BrokerConnectionError: The broker is not open.

        Cost: one round trip; one more the first time that a queue is used.
        """
        self._must_be_open()
        parcel = pack_envelopes(self._calls.keys, batch)
        deadline = asyncio.get_running_loop().time() + self._publish_timeout_s

        def unsent(text: str) -> PublishError:
            return PublishError(text, [envelope.id for envelope in batch])

        try:
            new_lines = await self._calls.once(ENQUEUE, parcel, deadline)
        except LINK_ERRORS as error:
            await self._calls.fail(error, parcel.queues, Translation(unsent, unsent, BrokerFull))
        if new_lines:
            self._calls.forget_names()  # the server has lost what it had, it may be

    async def revoke(self, ids: Sequence[str]) -> None:
        """See `Revoking`. Repeated while the connection is down, for as long as a `publish`.

        Raises:
            BrokerFull: The server has no memory left, or can't write to its disk.
            BrokerError: Nothing is known to be kept; try again.

        Cost: a round trip for each thousand ids, which keeps the server busy for some 4 ms.
        """
        self._must_be_open()
        deadline = asyncio.get_running_loop().time() + self._publish_timeout_s
        try:
            for at in range(0, len(ids), _REVOKED_AT_ONCE):
                args: list[Word] = [REVOKED_KEPT, *ids[at : at + _REVOKED_AT_ONCE]]
                await self._calls.repeat(REVOKE, [self._calls.keys.revoked], args, deadline)
        except LINK_ERRORS as error:
            await self._calls.fail(error, [])

    def answering(self, node: str, commands: Mapping[str, Answering]) -> AbstractAsyncContextManager[None]:
        """See `RemoteControlled`. It listens when it is entered, if the server can be reached and allows it.

        Cost: a connection of its own, over which nothing is sent while nobody asks.
        """
        return Remote(self.link, node, commands).listening()

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """See `RemoteControlled`. It is known who listens: it returns when they have answered.

        Raises:
            BrokerConnectionError: The broker is not open, the server can't be reached, or the connection was lost.
            BrokerError: The user may not listen or publish.

        Cost: two round trips and waiting; before that a handshake, where no other question waits for its answers.
        """
        self._must_be_open()
        with self.link.translating(ERRORS):
            return await self._asker.ask(command, arguments, destination, timeout)

    async def examine(self, queues: Sequence[str]) -> None:
        """See `Examinable`.

        Cost: two round trips.
        """
        self._must_be_open()
        await self._calls.examine(queues)

    async def subscribe(
        self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int
    ) -> RedisSubscription:
        """See `Broker`. A queue is made by its first message.

        Raises:
            BrokerConnectionError: The broker is not open.
            BrokerError: A key of a queue belongs to another program, or the user may not do all that it takes.

        Cost: three round trips.
        """
        self._must_be_open()
        await self._calls.examine(queues)
        subscription = RedisSubscription(
            self._calls,
            queues,
            consumer=consumer,
            lease=lease,
            max_losses=max_losses,
            forget=self._subscriptions.discard,
        )
        self._subscriptions.add(subscription)
        await subscription.start()
        return subscription

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerConnectionError(f"The Redis broker {self.link.place} is not open. Open the app first.")
