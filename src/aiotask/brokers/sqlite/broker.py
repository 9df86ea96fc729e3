"""Opens, publishes to and subscribes to the queues of a SQLite file."""

from collections.abc import Sequence
from functools import partial

from aiotask.brokers.sqlite import messages
from aiotask.brokers.sqlite.admin import SqliteQueueAdmin
from aiotask.brokers.sqlite.subscription import ERRORS, SqliteSubscription
from aiotask.connections.sqlite.link import SqliteLink, Translation
from aiotask.exceptions import BrokerConnectionError, BrokerFull, PublishError
from aiotask.message import Envelope


class SqliteBroker(SqliteQueueAdmin):
    """A `Broker` and `QueueAdmin` on a `SqliteLink`; its subscriptions are `FusedFinish`."""

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

    def _must_be_open(self) -> None:
        if not self._open:
            raise BrokerConnectionError(f"The SQLite file {self.link.path} is not open. Open the app first.")
