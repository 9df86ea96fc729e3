"""Opens, publishes to and subscribes to the queues of a SQLite file."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aiotask.brokers.sqlite import messages, revoked
from aiotask.brokers.sqlite.admin import SqliteQueueAdmin
from aiotask.brokers.sqlite.remote import Listener, ask
from aiotask.brokers.sqlite.subscription import ERRORS, SqliteSubscription
from aiotask.connections.sqlite.link import SqliteLink
from aiotask.connections.translating import Translation
from aiotask.exceptions import BrokerConnectionError, BrokerFull, PublishError
from aiotask.message import Envelope
from aiotask.protocols import Answering


class SqliteBroker(SqliteQueueAdmin):
    """A `Broker`, `QueueAdmin`, `Revoking` and `RemoteControlled` on a `SqliteLink`.

    Its subscriptions are `FusedFinish`.
    """

    def __init__(self, link: SqliteLink) -> None:
        super().__init__(link)
        self._open = False
        self._subscriptions: set[SqliteSubscription] = set()

    @property
    def connected(self) -> bool:
        """True while it is open and the file can be used."""
        return self._open and self.link.connected

    async def open(self) -> None:
        """Open the link.

        Raises:
            BrokerConnectionError: The file can't be used; says which, why, and what to do.
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

    async def close(self) -> None:
        """Close the subscriptions that are still open, and the link unless a backend still uses it."""
        if not self._open:
            return
        self._open = False
        try:
            for subscription in tuple(self._subscriptions):
                await subscription.close()
        finally:
            await self.link.close()

    async def publish(self, batch: Sequence[Envelope]) -> None:
        """Store `batch`, all or nothing; other processes see it when this returns.

        Raises:
            PublishError: The file is locked for 5 s, or can't be written; nothing of the batch was stored.
            BrokerFull: The disk is full; nothing of the batch was stored.
            BrokerConnectionError: The broker is not open.

        Cost: one commit, shared with all that is written at the same time.
        """
        self._must_be_open()
        parcel = messages.pack_envelopes(batch)

        def unsent(text: str) -> PublishError:
            return PublishError(text, [envelope.id for envelope in batch])

        with self.link.translating(Translation(unsent, unsent, BrokerFull)):
            await self.link.run(partial(messages.publish, parcel=parcel))

    async def subscribe(
        self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int
    ) -> SqliteSubscription:
        """See `Broker`. A queue is its name in the rows; nothing is made.

        Raises:
            BrokerConnectionError: The broker is not open.

        Cost: one commit that does not wait for the disk.
        """
        self._must_be_open()
        subscription = SqliteSubscription(
            self.link,
            queues,
            consumer=consumer,
            lease=lease,
            max_losses=max_losses,
            forget=self._subscriptions.discard,
        )
        self._subscriptions.add(subscription)
        await subscription.announce()
        return subscription

    async def revoke(self, ids: Sequence[str]) -> None:
        """See `Revoking`. Raises what `subscribe` and a failing file raise.

        Cost: one commit.
        """
        self._must_be_open()
        with self.link.translating(ERRORS):
            await self.link.run(partial(revoked.revoke, ids=ids))

    def answering(self, node: str, commands: Mapping[str, Answering]) -> Listener:
        """See `RemoteControlled`. A command is heard within half a second, however busy the node's event loop is not.

        Cost: one commit that does not wait for the disk, at both ends and about once a minute.
        """
        return Listener(self.link, node, commands)

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """See `RemoteControlled`. Who listens is known; who was killed is for three minutes believed to.

        Raises:
            BrokerConnectionError: The broker is not open.
            BrokerError: The file can't be written.

        Cost: two commits that don't wait for the disk, and one for each node.
        """
        self._must_be_open()
        with self.link.translating(ERRORS):
            return await ask(self.link, command, arguments, destination, timeout)

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerConnectionError(f"The SQLite file {self.link.path} is not open. Open the app first.")
