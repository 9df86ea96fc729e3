"""Commands to workers and their answers, as published messages: heard at once or not at all, and kept by nobody.

A question goes to the channel of all nodes, or to those of some; the server's reply says how many hear it. It names, by
a ticket, the channel under the same prefix to which each of them publishes its answer: no message of anybody's makes a
worker publish elsewhere.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, TypeVar

import msgspec

from aiotask.brokers.redis.calls import LINK_ERRORS, tell
from aiotask.connections.redis import LinkClosed, LinkDown, Listener, RedisLink, ReplyError
from aiotask.exceptions import BrokerError
from aiotask.protocols import Answering
from aiotask.showing import shown
from aiotask.wire.commands import carry_out, pack

T = TypeVar("T")

_MOST_BYTES: Final = 8 << 20
"""What is longer is not sent, and not read. Servers cut a connection that listens and has 32 MB to read."""
_LONG_S: Final = 3600.0

_log = logging.getLogger(__name__)


class _Question(msgspec.Struct):
    command: str
    arguments: msgspec.Raw
    ticket: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


class _Answer(msgspec.Struct):
    node: str
    answer: Any


_encode: Final = msgspec.json.Encoder().encode
_QUESTIONS: Final = msgspec.json.Decoder(_Question)
_ANSWERS: Final = msgspec.json.Decoder(_Answer)


class _Channels:
    """The names of the channels. The databases of a server share them all, but for what is in the name."""

    def __init__(self, link: RedisLink) -> None:
        self._prefix = f"{link.key_prefix}:{link.address.options.get('db', 0)}"
        self.nodes = f"{self._prefix}:nodes"
        """Every node listens there."""

    def node(self, name: str) -> str:
        """Return where the nodes of one name listen."""
        return f"{self._prefix}:node:{name}"

    def answers(self, ticket: str) -> str:
        """Return where the answers to a question go."""
        return f"{self._prefix}:answers:{ticket}"


class Remote:
    """One node's ear. Whatever goes wrong with it, the worker goes on without."""

    def __init__(self, link: RedisLink, node: str, commands: Mapping[str, Answering]) -> None:
        """Take what is answered; nothing is opened.

        Args:
            link: Open for as long as this listens.
            node: The worker's name; several workers may have one.
            commands: By their names.
        """
        self._link = link
        self._channels = _Channels(link)
        self._node = node
        self._commands = commands
        self._listener = Listener(link, self._hear, _ignore, ping=False)
        self._answers: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listen while this is open; where it takes long to begin, by and by."""
        subscribing = asyncio.create_task(self._subscribe(), name="aiotask remote control")
        try:
            await asyncio.wait([subscribing], timeout=self._link.command_timeout_s)
            yield
        finally:
            subscribing.cancel()
            await asyncio.wait([subscribing])
            await self._listener.close()
            if self._answers:
                await asyncio.wait(self._answers)

    async def _subscribe(self) -> None:
        while True:
            try:
                await self._listener.subscribe(self._channels.nodes, self._channels.node(self._node), wait=_LONG_S)
            except LinkDown:
                continue
            except ReplyError as error:
                _log.warning("This worker can't be asked anything over Redis %s: %s", self._link.place, error)
            except LinkClosed:
                pass
            return

    def _hear(self, channel: str, payload: bytes) -> None:
        question = _read(_QUESTIONS, channel, payload)
        if question is not None:
            answer = carry_out(self._commands, question.command, bytes(question.arguments))
            if len(answer) > _MOST_BYTES // 2:  # so that it fits with the node's name
                answer = pack({"error": f"The answer has {len(answer):,} bytes, which is too much to send."})
            task = asyncio.create_task(self._answer(question.ticket, answer))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

    async def _answer(self, ticket: str, answer: bytes) -> None:
        packed = _encode(_Answer(self._node, msgspec.Raw(answer)))  # as it is: it is packed already
        try:
            await self._link.command("PUBLISH", self._channels.answers(ticket), packed)
        except LINK_ERRORS as error:
            tell(f"An answer could not be sent over Redis {self._link.place}", error)


class Asker:
    """Asks nodes. While it waits for answers, and only then, it has a connection to hear them."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._channels = _Channels(link)
        self._listener: Listener | None = None
        self._heard: dict[str, asyncio.Queue[bytes]] = {}
        """By channel what is published there; one for each question."""

    async def ask(
        self, command: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        """See `RemoteControlled`.

        Raises:
            LinkDown: It could not be asked, or nobody knows.
            ReplyError: The user may not listen, or may not publish.
            LinkClosed: The link is not open.
            BrokerError: The arguments are too long.
        """
        ticket = os.urandom(16).hex()
        question = _encode(_Question(command, msgspec.Raw(pack(arguments)), ticket))
        if len(question) > _MOST_BYTES:
            raise BrokerError(f"The command {command!r} has {len(question):,} bytes; workers read {_MOST_BYTES:,}.")
        nodes = [self._channels.nodes] if destination is None else map(self._channels.node, set(destination))
        answers_to = self._channels.answers(ticket)
        answers: dict[str, Any] = {}
        async with self._listening(answers_to, timeout) as heard:
            asked = 0
            for reply in await self._link.pipeline([("PUBLISH", node, question) for node in nodes]):
                if isinstance(reply, ReplyError):
                    raise reply
                asked += reply
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while asked:
                        answer = _read(_ANSWERS, answers_to, await heard.get())
                        if answer is not None:
                            answers[answer.node] = answer.answer
                            asked -= 1
        return answers

    @asynccontextmanager
    async def _listening(self, channel: str, wait: float) -> AsyncIterator[asyncio.Queue[bytes]]:
        """Give what is published to a channel, on one connection for all that listen now."""
        if self._listener is None:
            self._listener = Listener(self._link, self._hear, _ignore)
        listener, self._heard[channel] = self._listener, asyncio.Queue()
        try:
            await listener.subscribe(channel, wait=wait)
            try:
                yield self._heard[channel]
            finally:
                await listener.unsubscribe(channel)
        finally:
            del self._heard[channel]
            if not self._heard:
                self._listener = None
                await listener.close()

    def _hear(self, channel: str, payload: bytes) -> None:
        heard = self._heard.get(channel)
        if heard is not None:
            heard.put_nowait(payload)


def _read(decoder: msgspec.json.Decoder[T], channel: str, payload: bytes) -> T | None:
    """Return what was published; None, and a warning, where it can't be read."""
    try:
        if len(payload) <= _MOST_BYTES:
            return decoder.decode(payload)
        why = f"{len(payload):,} bytes are more than {_MOST_BYTES:,}"
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        why = str(error)
    _log.warning("Ignored what was published to %s: %s", shown(channel), shown(why))
    return None


def _ignore() -> None:
    """Do nothing about what was published while nobody could hear it: who has asked does not wait for long."""
