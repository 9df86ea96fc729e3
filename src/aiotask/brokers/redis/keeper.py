"""Keeps the leases of a subscription, in a thread, over a connection of its own."""

from collections.abc import Callable, Container, Hashable, Sequence

from aiotask.brokers.redis.calls import ERRORS
from aiotask.brokers.redis.keys import Line
from aiotask.brokers.redis.scripts import RENEW
from aiotask.connections.redis import RedisLink, ThreadConnection, Word
from aiotask.protocols import Renewal


class RedisLeaseKeeper:
    """A `LeaseKeeper` that the event loop has no part in."""

    def __init__(
        self,
        link: RedisLink,
        consumer: str,
        lease_ms: int,
        prefixes: Callable[[], Sequence[str]],
        ending: Container[Hashable],
    ) -> None:
        """Connect at the first `renew`.

        Args:
            link: Whose server it is.
            consumer: The subscription's name.
            lease_ms: How long its leases last.
            prefixes: Returns those of the queues that it takes from now; called in the thread.
            ending: The receipts that are being settled, which are not lost when they are gone; looked at in the thread.
        """
        self._link = link
        self._connection = ThreadConnection(link)
        self._consumer = consumer
        self._lease_ms = lease_ms
        self._prefixes = prefixes
        self._ending = ending

    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        """See `LeaseKeeper`."""
        by_line: dict[Line, list[tuple[Line, bytes]]] = {}
        for receipt in receipts:
            if isinstance(receipt, tuple):
                by_line.setdefault(receipt[0], []).append(receipt)
        prefixes = self._prefixes()
        args: list[Word] = [self._consumer, self._lease_ms, len(prefixes)]
        for ours in by_line.values():
            args.append(len(ours))
            args += [entry_id for _, entry_id in ours]
        with self._link.translating(ERRORS):
            gone = self._connection.run(RENEW, [*prefixes, *(line.key for line in by_line)], args)
        asked = [receipt for ours in by_line.values() for receipt in ours]
        return Renewal([asked[place] for place in gone if asked[place] not in self._ending])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
