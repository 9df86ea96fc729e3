"""What the queues on a RabbitMQ server hold, and acting on it. For the command line and control."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from aiotask.brokers.amqp.errors import settling
from aiotask.brokers.amqp.names import Kind, Source, line_name
from aiotask.brokers.amqp.packing import Receipt, read_letter
from aiotask.brokers.amqp.sender import Sender
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError
from aiotask.message import DEFAULT_PRIORITY, DeadLetter, Envelope, QueueDepth

_READY: Final = (Kind.MAIN, Kind.RETURNED, Kind.SUSPECTS)

Found = tuple[DeadLetter, Receipt]


class AmqpQueueAdmin:
    """The part of a RabbitMQ broker that is a `QueueAdmin`.

    AMQP tells of a queue how much waits in it and who consumes it, no more: what is handed out and what is delayed is
    not counted, and not purged.
    """

    def __init__(self, link: AmqpLink, sender: Sender, publish_timeout: float) -> None:
        self.link = link
        self._sender = sender
        self._topology = sender.topology
        self._publish_timeout_s = publish_timeout

    async def queues(self) -> list[str]:
        """See `QueueAdmin`; not those of which all messages are handed out or delayed.

        Cost: a few round trips for each queue that there has been.
        """
        with settling(self.link):
            names = sorted({queue for queue, _ in await self._topology.directory.read()})
        return [depth.queue for depth in await self.depths(names) if depth.ready or depth.parked or depth.dead]

    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        """See `QueueAdmin`; `reserved` and `delayed` are 0, since AMQP does not tell them."""
        with settling(self.link):
            lines = await self._lines()
            depths = []
            for queue in queues:
                names = [Source(queue, kind).name for kind in _READY]
                parked = [line_name(queue, line) for line in lines.get(queue, ())]
                counts = await self._topology.ready([*names, *parked, Source(queue, Kind.DEAD).name])
                waiting = [ready for ready, _ in counts]
                split = len(names)
                depths.append(
                    QueueDepth(queue, ready=sum(waiting[:split]), parked=sum(waiting[split:-1]), dead=waiting[-1])
                )
        return depths

    async def consumers(self, queues: Sequence[str]) -> list[int]:
        """See `QueueAdmin`. Of a queue that no worker of ours consumes, the consumers that it has."""
        with settling(self.link):
            ours = await self._topology.ready([Source(queue, Kind.WORKERS).name for queue in queues])
            others = await self._topology.ready([Source(queue, Kind.MAIN).name for queue in queues])
        return [mine or theirs for (_, mine), (_, theirs) in zip(ours, others, strict=True)]

    async def purge(self, queues: Sequence[str]) -> int:
        """See `QueueAdmin`; what is delayed stays, since one ladder has the delays of all queues."""
        purged = 0
        with settling(self.link):
            lines = await self._lines()
            for queue in queues:
                names = [Source(queue, kind).name for kind in _READY]
                for name in [*names, *(line_name(queue, line) for line in lines.get(queue, ()))]:
                    purged += await self._purge(name)
        return purged

    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `QueueAdmin`. While they are read, another reader does not find them.

        Cost: all dead letters of the queues are sent.
        """
        letters: list[DeadLetter] = []
        for queue in await self._named() if queues is None else queues:
            letters += [letter for letter, _ in await self._visit(queue)]
        letters.sort(key=_died_at)
        return letters[::-1][:limit]

    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        wanted = set(ids)
        letters = await self.dead_letters(limit=1 << 40)
        return [letter for letter in letters if letter.id in wanted]

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        """See `QueueAdmin`; several letters of one id are put back in the order in which they died."""
        wanted = set(ids)
        back: set[str] = set()
        for queue in await self._named():

            async def put_back(found: list[Found]) -> list[Receipt]:
                whole = [
                    (letter, receipt)
                    for letter, receipt in sorted(found, key=lambda entry: entry[0].died_at)
                    if letter.id in wanted and letter.body_bytes == len(letter.body)
                ]
                if whole:
                    again = await self._sender.envelopes([_again(letter) for letter, _ in whole])
                    await self._sender.send(again, asyncio.get_running_loop().time() + self._publish_timeout_s)
                back.update(letter.id for letter, _ in whole)
                return [receipt for _, receipt in whole]

            await self._visit(queue, put_back)
        return [id_ for id_ in dict.fromkeys(ids) if id_ in back]

    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        """See `QueueAdmin`."""
        names = await self._named() if queues is None else queues
        with settling(self.link):
            return sum([await self._purge(Source(queue, Kind.DEAD).name) for queue in names])

    # ---- inside ----

    async def _named(self) -> list[str]:
        with settling(self.link):
            return sorted({queue for queue, _ in await self._topology.directory.read()})

    async def _lines(self) -> dict[str, list[str]]:
        lines: dict[str, list[str]] = {}
        for queue, line in await self._topology.directory.read():
            if line:
                lines.setdefault(queue, []).append(line)
        return lines

    async def _purge(self, name: str) -> int:
        channel = await self.link.channel(wait=self.link.command_timeout_s)
        try:
            return await channel.purge(name)
        except ChannelError as error:
            if error.code != 404:
                raise
            return 0
        finally:
            await channel.close()

    async def _visit(
        self, queue: str, take: Callable[[list[Found]], Awaitable[list[Receipt]]] | None = None
    ) -> list[Found]:
        """Read the dead letters of a queue; those that `take` returns are gone, the others go back as they were."""
        name = Source(queue, Kind.DEAD).name
        with settling(self.link):
            channel = await self.link.channel(wait=self.link.command_timeout_s)
            try:
                try:
                    waiting = (await channel.declare_queue(name, passive=True)).ready
                except ChannelError as error:
                    if error.code == 404:
                        return []
                    raise
                messages = await _read(channel, name, waiting, self.link.command_timeout_s)
                source = Source(queue, Kind.DEAD)
                found = []
                for message in messages:
                    receipt = Receipt(channel, source, message, None, None)
                    found.append((read_letter(queue, message, receipt), receipt))
                if take is not None and found:
                    channel.acknowledge([(receipt.tag, False) for receipt in await take(found)])
                    await channel.flush()
                return found
            finally:
                await channel.close()


async def _read(channel: AmqpChannel, queue: str, count: int, timeout: float) -> list[Any]:
    messages: list[Any] = []
    if not count:
        return messages
    full = asyncio.get_running_loop().create_future()

    async def collect(message: Any) -> None:
        messages.append(message)
        if len(messages) >= count and not full.done():
            full.set_result(None)

    await channel.consume(queue, collect, "letters", prefetch=0)
    await asyncio.wait([full, channel.lost], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    await channel.cancel("letters")
    return messages


def _again(letter: DeadLetter) -> Envelope:
    return Envelope(
        letter.id,
        letter.queue,
        letter.body,
        letter.content_type,
        # One of Celery's has it among its properties, and had it whether the queue knows priorities or not.
        DEFAULT_PRIORITY if "priority" in (letter.properties or {}) else letter.priority,
        headers=letter.headers,
        properties=letter.properties,
    )


def _died_at(letter: DeadLetter) -> float:
    return letter.died_at
