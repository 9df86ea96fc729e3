"""Sees to it that the queues, exchanges and bindings are there that are used. What is there is used as it is."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiotask.brokers.amqp.delays import Delays
from aiotask.brokers.amqp.directory import Directory
from aiotask.brokers.amqp.names import Kind, Make, Source, line_name, server_name
from aiotask.brokers.amqp.steps import ABSENT, LOCKED, OTHERWISE, is_there, on_a_channel
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, Message
from aiotask.exceptions import BrokerError
from aiotask.routing import Binding

_OTHER_VALUE: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' .* current is the value '(?P<value>.*)' of type '(?P<type>\w+)'"
)


class Topology:
    """What is known to be there. Forgotten when the connection is lost: the server may have been emptied."""

    def __init__(self, link: AmqpLink, make: Make, bindings: Iterable[Binding]) -> None:
        """Take the link to look and make things by.

        Args:
            link: Opened by its user.
            make: How queues are made.
            bindings: What queues are bound to, by the settings.
        """
        self._link = link
        self._make = make
        self._bindings: dict[str, list[Binding]] = {}
        for binding in bindings:
            self._bindings.setdefault(binding.queue, []).append(binding)
        self._known: set[str] = set()
        self._made: dict[str, tuple[Mapping[str, Any], tuple[str, str] | None]] = {}
        """What those are made with that go with a queue."""
        self.directory = Directory(link)
        self._delays = Delays(link, self.directory, self._known)
        self.ladder = self._delays.ladder

    def forget(self, *_: object) -> None:
        """Look again before anything is used."""
        self._known.clear()

    def knows(self, queue: str) -> bool:
        """Tell whether a queue has been seen to be there."""
        return queue in self._known

    async def ensure(self, queue: str) -> None:
        """See to a queue that is published to, and to its exchanges and bindings.

        Raises:
            ChannelError, LinkDown: It can't be made.
            BrokerError: It is there and has no priorities, though it should.

        Cost: nothing when it is known.
        """
        await self._source(Source(queue, Kind.MAIN))

    async def ensure_again(self, name: str) -> None:
        """Make one of the server's queues again that was there, and that a message has not reached."""
        remade = self._made.get(name)
        await self._queue(name, *remade) if remade is not None else await self.ensure(name)

    async def ensure_exchange_again(self, name: str) -> None:
        """Make a rung of the ladder again that was there, and that a message has not reached."""
        await self._delays.ensure_exchange(name)

    async def ensure_consumed(self, queue: str) -> None:
        """See to a queue that is consumed, and to those that go with it."""
        await self.ensure(queue)
        adopted = f"{self.ladder.nowhere}>{queue}"
        if adopted not in self._known:  # another program may have made it again
            await self._delays.adopt([queue])
            self._known.add(adopted)
        for kind in (Kind.RETURNED, Kind.SUSPECTS, Kind.WORKERS):
            await self._source(Source(queue, kind))

    async def ensure_dead(self, queue: str) -> str:
        """See to the dead letters of a queue; return the server's name of it."""
        source = Source(queue, Kind.DEAD)
        await self._source(source)
        return source.name

    async def ensure_made(self, name: str, arguments: Mapping[str, Any]) -> bool:
        """See to one of the server's queues that goes with no queue; tell whether it was made."""
        return name not in self._known and await self._queue(name, arguments, None)

    async def ensure_line(self, queue: str, line: str) -> str:
        """See to a waiting line; return the server's name of it."""
        name = line_name(queue, line)
        if name not in self._known:
            await self._queue(name, self._make.arguments(None), (queue, line))
        return name

    async def examine(self, queues: Sequence[str]) -> None:
        """See that what a worker of `queues` needs is there or could be made, and that messages can be sent; no trace.

        Raises:
            ChannelError, LinkDown: It could not: the user may not do that, or the server has no quorum queues.
            BrokerError: A queue is there and has no priorities, though it should.

        Cost: two or three round trips for each of the server's queues.
        """
        for queue in queues:
            for kind in Kind:
                name = Source(queue, kind).name
                if not await is_there(self._link, queue=name):
                    await self._could_make(name)
                elif kind in {Kind.MAIN, Kind.RETURNED}:
                    await self._agree_on_priorities(name, self._make.arguments(kind))
        for name, arguments in (*self.directory.made.items(), (self.ladder.rung(0), self.ladder.arguments(0))):
            if not await is_there(self._link, queue=name):
                await self._could_make(name)
            else:
                await on_a_channel(self._link, partial(AmqpChannel.declare_queue, name=name, arguments=arguments))
        await self._could_send()

    async def _could_make(self, name: str) -> None:
        """Ask for a quorum queue that ends with its connection: whoever may have one of this name is told that."""
        try:
            await on_a_channel(
                self._link, lambda channel: channel.declare_queue(name, {"x-queue-type": "quorum"}, transient=True)
            )
        except ChannelError as error:
            # Who else starts just now may have made it meanwhile. What is another's alone refuses to be looked at, too.
            if error.code != OTHERWISE and not (error.code == LOCKED and await is_there(self._link, queue=name)):
                raise

    async def _could_send(self) -> None:
        """Send a message that reaches nobody."""
        channel = await self._link.channel(confirms=True, wait=self._link.command_timeout_s)
        try:
            nowhere = Message(f"nowhere.{os.urandom(16).hex()}", b"", os.urandom(8).hex())
            await channel.publish([nowhere], self._link.command_timeout_s)
            if channel.lost.done():
                raise channel.lost.result()
        finally:
            await channel.close()

    async def ensure_delays(self, queue: str, delay_s: float) -> None:
        """See to the ladder, as high as it is needed, and that what is due of `queue` comes out of it."""
        await self.ensure(queue)
        await self._delays.ensure(queue, delay_s)

    async def _source(self, source: Source) -> None:
        name = source.name
        if name in self._known:
            return
        noted = (source.queue, "") if source.kind in {Kind.MAIN, Kind.DEAD} else None
        made = await self._queue(name, self._make.arguments(source.kind), noted)
        if source.kind is Kind.MAIN:
            await self._bind(source.queue, made=made)
            self._known.add(name)

    async def _queue(self, name: str, arguments: Mapping[str, Any], noted: tuple[str, str] | None) -> bool:
        """Make a queue where it is not; tell whether it was made."""
        there = await is_there(self._link, queue=name)
        if noted != (name, ""):
            self._made[name] = arguments, noted
        if not there:
            if noted is not None:
                await self.directory.note(*noted)  # before: what is listed and not there does no harm
            await on_a_channel(self._link, lambda channel: channel.declare_queue(name, arguments))
        else:
            await self._agree_on_priorities(name, arguments)
        self._known.add(name)
        return not there

    async def _agree_on_priorities(self, name: str, arguments: Mapping[str, Any]) -> None:
        """See that a queue that is there has the priorities that it should; without any it is taken as it is."""
        asked = dict(arguments)
        while "x-max-priority" in asked:
            try:
                await on_a_channel(self._link, partial(AmqpChannel.declare_queue, name=name, arguments=asked))
            except ChannelError as error:
                if error.code != OTHERWISE:
                    raise
                other = _OTHER_VALUE.search(str(error))
                # Of several that differ the server names one. The other types than classic have no priorities.
                if other is not None and other["name"] not in asked and other["value"] not in {"quorum", "stream"}:
                    asked[other["name"]] = _argument(other["value"], other["type"])
                elif other is not None or "x-max-priority" in str(error):
                    raise BrokerError(
                        f"The queue {name!r} in RabbitMQ {self._link.place} was made otherwise than "
                        f"task_queue_max_priority says ({error}). Delete it when it is empty, use another name, or set "
                        "task_queue_max_priority as it was made."
                    ) from error
                else:
                    return
            else:
                return

    async def _bind(self, queue: str, *, made: bool) -> None:
        if made:  # it may have been there before, and what is delayed for it waits for this
            await self._delays.adopt([queue])
        for binding in self._bindings.get(queue, ()):
            await self._exchange(binding.exchange, binding.type)
            await on_a_channel(
                self._link,
                lambda channel, binding=binding: channel.bind_queue(server_name(queue), binding.exchange, binding.key),  # type: ignore[misc]
            )

    async def _exchange(self, name: str, kind: str) -> None:
        try:
            await on_a_channel(self._link, lambda channel: channel.declare_exchange(name, kind, passive=True))
        except ChannelError as error:
            if error.code != ABSENT:
                raise
            await on_a_channel(self._link, lambda channel: channel.declare_exchange(name, kind))

    async def ready(self, queues: Sequence[str]) -> list[tuple[int, int]]:
        """Return how many messages wait in each of the server's queues, and how many consume it; 0 where it is not.

        Cost: a round trip for each, and some more for each that is not there.
        """
        found: list[tuple[int, int]] = []
        channel = await self._link.channel(wait=self._link.command_timeout_s)
        try:
            for queue in queues:
                try:
                    found.append(await channel.declare_queue(queue, passive=True))
                except ChannelError as error:
                    if error.code != ABSENT:
                        raise
                    found.append((0, 0))
                    channel = await self._link.channel(wait=self._link.command_timeout_s)
        finally:
            await channel.close()
        return found


def _argument(value: str, kind: str) -> str | int | bool:
    """Return an argument's value from what the server says of it."""
    if kind == "bool":
        return value == "true"
    return int(value) if value.lstrip("-").isdecimal() and kind != "longstr" else value
