"""Opens, publishes to and subscribes to the queues on a RabbitMQ server."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from aiotask.brokers.amqp.admin import AmqpQueueAdmin
from aiotask.brokers.amqp.asking import ask
from aiotask.brokers.amqp.errors import ERRORS, settling, why_unconfirmed
from aiotask.brokers.amqp.names import Make, check_binding
from aiotask.brokers.amqp.packing import Packer
from aiotask.brokers.amqp.remote import Remote
from aiotask.brokers.amqp.revokes import write_revokes
from aiotask.brokers.amqp.sender import Sender, Unconfirmed, Unsendable
from aiotask.brokers.amqp.subscription import AmqpSubscription
from aiotask.brokers.amqp.topology import Topology
from aiotask.connections.amqp import AmqpLink, LinkDown, Message, ServerBlocked, Translation
from aiotask.exceptions import BrokerConnectionError, BrokerFull, PublishError
from aiotask.message import Envelope
from aiotask.protocols import Answering
from aiotask.routing import Binding

_AGAIN_S: Final = 0.05
_SOONER: Final = 0.9
"""Part of the timeout after which we tell why: whoever waits for us knows only that it is over."""


class AmqpBroker(AmqpQueueAdmin):
    """A `Broker`, `QueueAdmin`, `HeaderCarrier`, `Examinable`, `Revoking` and `RemoteControlled` on an `AmqpLink`.

    Each of its subscriptions has a link of its own.
    """

    carries_headers: Literal[True] = True

    def __init__(
        self,
        link: AmqpLink,
        *,
        publish_timeout: float = 10.0,
        queue_type: str = "quorum",
        max_priority: int | None = None,
        bindings: Iterable[Binding] = (),
    ) -> None:
        """Take a link; nothing is opened.

        Args:
            link: To the server.
            publish_timeout: Seconds after which a message that the server has not confirmed counts as not sent.
            queue_type: "quorum" or "classic"; of the queues that are made.
            max_priority: How many priorities they have, which makes them classic ones; None for none.
            bindings: What the queues are bound to.

        Raises:
            ImproperlyConfigured: AMQP can't carry a name of a binding.
        """
        bindings = tuple(bindings)
        for binding in bindings:
            check_binding(binding)
        topology = Topology(link, Make(queue_type, max_priority), bindings)
        super().__init__(link, Sender(link, topology, Packer(Make(queue_type, max_priority))), publish_timeout)
        self.link = link
        self._open = False
        self._subscriptions: set[AmqpSubscription] = set()
        self._examined: set[str] = set()
        """The queues that could be used to the full when this was looked at."""

    @property
    def connected(self) -> bool:
        """False from the moment a connection is known to be down until it is up again, that of a subscription, too."""
        links = (self.link, *(subscription.link for subscription in self._subscriptions))
        return self._open and all(link.connected for link in links)

    async def open(self) -> None:
        """Connect.

        Raises:
            BrokerConnectionError: The server can't be used; says why, and what to do.
        """
        if self._open:
            return
        with self.link.translating(ERRORS):
            await self.link.open()
        self._open = True
        self._examined.clear()
        self._sender.forget()
        self._topology.forget()
        self.link.observe(self._topology.forget)

    async def close(self) -> None:
        """Close the subscriptions that are still open, and the connection unless a backend still uses it."""
        if not self._open:
            return
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.close()
        finally:
            self._open = False
            self.link.unobserve(self._topology.forget)
            await self.link.close()

    async def examine(self, queues: Sequence[str]) -> None:
        """See `Examinable`.

        Raises:
            BrokerError: The server has no quorum queues, the user may not do what a worker has to, or a queue was made
                otherwise than `max_priority` says.

        Cost: some round trips for each queue.
        """
        self._must_be_open()
        with self.link.translating(ERRORS):
            await self._topology.examine(queues)

    async def publish(self, batch: Sequence[Envelope]) -> None:
        """Store `batch`; what a lost connection leaves unknown is sent again, at most once too often.

        Raises:
            PublishError: Some were not confirmed in time; names them.
            BrokerFull: The server takes no messages, having too little memory or disk; nothing was stored.
            BrokerConnectionError: The broker is not open.
            BrokerError: The server refuses.
            ImproperlyConfigured: A message has a priority, and queues are made without.

        Cost: one round trip; some more the first time that a queue is used, or a delay.
        """
        self._must_be_open()
        deadline = asyncio.get_running_loop().time() + _SOONER * self._publish_timeout_s

        def unsent(text: str) -> PublishError:
            return PublishError(text, [envelope.id for envelope in batch])

        with self.link.translating(Translation(unsent, unsent, BrokerFull)):
            try:
                messages = await self._prepared(batch, deadline)
                await self._sender.send(messages, deadline)
            except Unsendable as error:
                ids = [batch[at].id for at in error.errors]
                raise PublishError(f"RabbitMQ does not carry this: {error}. Nothing of it was sent.", ids) from error
            except Unconfirmed as error:
                ids = [batch[at].id for at in error.positions]
                blocked = f" {error.why}" if isinstance(error.why, ServerBlocked) else ""
                raise PublishError(
                    f"RabbitMQ {self.link.place} has not confirmed {why_unconfirmed(error)} They may be stored all the "
                    f"same, or be so later.{blocked}",
                    ids,
                ) from error

    async def subscribe(
        self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int
    ) -> AmqpSubscription:
        """See `Broker`. While the connection is there nothing lapses.

        A lease is how long something that runs waits for its message to come again when the connection was lost.

        Raises:
            BrokerConnectionError: The broker is not open, or the server can't be reached.
            BrokerError: The server refuses: a queue is not as it should be, or the user may not do this.

        Cost: a connection, and some round trips for each queue.
        """
        self._must_be_open()
        subscription = AmqpSubscription(
            self.link.another(),
            self._sender,
            consumer=consumer,
            lease=lease,
            max_losses=max_losses,
            forget=self._subscriptions.discard,
        )
        with self.link.translating(ERRORS):
            if not self._examined.issuperset(queues):
                # What would be refused halfway, at the first dead letter, say, is told now.
                await self._topology.examine(queues)
                self._examined.update(queues)
            await subscription.open(queues)
        self._subscriptions.add(subscription)
        return subscription

    async def revoke(self, ids: Sequence[str]) -> None:
        """See `Revoking`. A subscription that is there learns of it when the server has told it.

        Raises:
            BrokerError: The user may not write to the stream, or the server has none; nothing was kept. Or it was not
                confirmed in time: it may be kept all the same, or be so later.

        Cost: one round trip; some more the first time.
        """
        self._must_be_open()
        deadline = asyncio.get_running_loop().time() + _SOONER * self._publish_timeout_s
        with settling(self.link):
            await write_revokes(self._sender, ids, deadline)

    def answering(self, node: str, commands: Mapping[str, Answering]) -> Remote:
        """See `RemoteControlled`: Celery's remote control, such as `celery inspect ping`."""
        return Remote(self.link, node, commands)

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """See `RemoteControlled`. Celery's workers are asked, too.

        How many of ours listen is known: their answers are all that is waited for, unless Celery's are named, or there
        are none of ours.

        Raises:
            BrokerError: The server refuses, or the connection was lost while the answers came.

        Cost: a channel, some round trips, and waiting.
        """
        self._must_be_open()
        with settling(self.link):
            return await ask(self._sender, command, arguments, destination, timeout)

    async def _prepared(self, batch: Sequence[Envelope], deadline: float) -> list[Message]:
        now = asyncio.get_running_loop().time
        while True:
            try:
                return await self._sender.envelopes(batch)
            except LinkDown:
                if now() >= deadline:
                    raise
            await asyncio.sleep(_AGAIN_S)

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerConnectionError(f"The RabbitMQ broker {self.link.place} is not open. Open the app first.")
