"""Takes what is parked out of the waiting lines, which are queues of the server that nobody consumes."""

from collections.abc import Callable, Mapping, Sequence

from aiotask.brokers.amqp.names import Kind, Source
from aiotask.brokers.amqp.packing import Receipt
from aiotask.brokers.amqp.topology import Topology
from aiotask.connections.amqp import AmqpChannel, AmqpLink


class Parked:
    """A channel of its own, so that what it delivers is in the order of its numbers."""

    def __init__(self, link: AmqpLink, topology: Topology, lost: Callable[[AmqpChannel], None]) -> None:
        """Wire it; nothing is opened. `lost` is told of a channel that is gone, with all that it has delivered."""
        self._link = link
        self._topology = topology
        self._lost = lost
        self._channel: AmqpChannel | None = None

    async def take(self, queues: Sequence[str], lines: Mapping[str, int], arrived: Callable[[Receipt], bool]) -> None:
        """Take so many of each line; over several queues, one of each in turn.

        Args:
            queues: Whose lines they are.
            lines: Their names, and how many of each.
            arrived: Gets each message; tells whether it counts.

        Raises:
            ChannelError, LinkDown, LinkClosed: It can't go on.
        """
        for line, limit in lines.items():
            open_ones = list(queues)
            left = limit
            while left > 0 and open_ones:
                for queue in tuple(open_ones):
                    if left <= 0:
                        break
                    name = await self._topology.ensure_line(queue, line)
                    channel = await self._opened()
                    message = await channel.get(name)
                    if message is None:
                        open_ones.remove(queue)
                        continue
                    left -= arrived(Receipt(channel, Source(queue, Kind.MAIN), message, None, line))

    async def _opened(self) -> AmqpChannel:
        if self._channel is None or not self._channel.usable:
            channel = self._channel = await self._link.channel()
            channel.lost.add_done_callback(lambda _: self._lost(channel))
        return self._channel

    async def close(self) -> None:
        """End; what was delivered and not acknowledged goes back to its line."""
        if self._channel is not None:
            await self._channel.close_in_order()
