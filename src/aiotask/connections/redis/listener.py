"""A connection of its own for published messages: subscribed again after each loss, and never trusted to hear all."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiotask.connections.backoff import Backoff
from aiotask.connections.redis.commands import Command, pack_command
from aiotask.connections.redis.errors import LinkClosed, LinkDown, ReplyError, ServerRefused
from aiotask.connections.redis.link import RedisLink
from aiotask.connections.redis.wire import Wire
from aiotask.connections.signals import Signal

_LONG_S: Final = 3600.0

_log = logging.getLogger(__name__)


class Listener:
    """Hears what is published to some channels.

    What is published is a hint: while the connection is down some is missed. Then, once everything is subscribed again,
    `on_gap` is called to read what it would have told.
    """

    def __init__(
        self,
        link: RedisLink,
        on_message: Callable[[str, bytes], None],
        on_gap: Callable[[], None],
        *,
        ping: bool = True,
    ) -> None:
        """Take an open link. No I/O; the first `subscribe` connects.

        Args:
            link: Goes down with it, and comes up with it.
            on_message: Gets channel and payload of what is published, in order, as it comes in; what takes time is to
                be done elsewhere. What it raises is logged.
            on_gap: Called between two messages: what was published before may have been missed. What it raises is
                logged.
            ping: As in `Wire`. Without, an idle connection costs nothing, and that it alone is dead is noticed only by
                the system's own means (TCP keepalive); that the server is gone, by the link's.
        """
        self._link = link
        self._ping = ping
        self._on_message = on_message
        self._on_gap = on_gap
        self._wanted: Counter[str] = Counter()
        self._wire: Wire | None = None
        self._up = Signal()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def connected(self) -> bool:
        """True while it hears."""
        return self._wire is not None and self._wire.usable

    async def subscribe(self, *channels: str, then: Command = (), wait: float = 5.0) -> Any:
        """Listen to `channels`; what is published after this returns is heard.

        A channel that is subscribed twice is left when it is unsubscribed twice.

        Args:
            *channels: Names.
            then: A command that the server carries out once it has subscribed them: what it finds is older than what
                is heard, and between the two is nothing.
            wait: Seconds to wait for a connection while there is none, the first one included.

        Returns:
            The reply to `then`; None where it has to be asked elsewhere: the server or the parser can't have it on this
            connection (`Wire.mixes`), or that was lost meanwhile.

        Raises:
            LinkDown: They are not subscribed.
            ReplyError: The user may not listen to one of them, or `then` has failed; none is subscribed.
            LinkClosed: The link, or this listener, is closed.

        Cost: one round trip; the first time a handshake.
        """
        self._start()
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        self._wanted.update(channels)
        try:
            while True:
                wire = await self._connected(deadline - now())
                try:
                    return await _subscribe(wire, channels, then)
                except LinkDown:
                    if now() >= deadline:
                        raise
                    then = ()  # a reply that is too long for what listens may have been the reason
        except BaseException:
            self._leave(channels)
            raise

    async def unsubscribe(self, *channels: str) -> None:
        """Listen to `channels` no more, unless they are subscribed once more. Does not wait for the server."""
        self._leave(channels)

    async def close(self) -> None:
        """Close the connection. Idempotent; not to be called by `on_message` or `on_gap`."""
        self._closed = True
        self._link.unobserve(self._follow)
        wire = self._wire
        self._drop("the listener was closed")
        self._up.fire()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if wire is not None:
            await wire.closed

    def _start(self) -> None:
        if self._closed:
            raise LinkClosed(f"This listener to Redis {self._link.place} is closed.")
        if self._keeper is None:
            self._link.observe(self._follow)
            self._keeper = asyncio.create_task(self._keep(), name="aiotask redis listener")

    async def _connected(self, wait: float) -> Wire:
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        while True:
            if self._closed or self._keeper is None or self._keeper.done():
                raise LinkClosed(f"The link to Redis {self._link.place} is not open. Open the app first.")
            if self._wire is not None and self._wire.usable:
                return self._wire
            left = deadline - now()
            if left <= 0:
                raise LinkDown(f"There is no connection to Redis {self._link.place} to listen on.", sent=False)
            await self._up.wait(left)  # and it may be lost again by then

    def _leave(self, channels: Sequence[str]) -> None:
        self._wanted.subtract(channels)
        left = [channel for channel in dict.fromkeys(channels) if self._wanted[channel] <= 0]
        for channel in left:
            del self._wanted[channel]
        if left and self._wire is not None:
            self._wire.submit(_packed("UNSUBSCRIBE", left), len(left))

    # ---- the connection ----

    async def _keep(self) -> None:
        """Hold a connection on which all that is wanted is subscribed, until cancelled or the link is closed."""
        backoff = Backoff()
        again = False
        try:
            while True:
                try:
                    wire = await self._connect(again=again)
                except LinkClosed:
                    return
                except (ServerRefused, LinkDown, ReplyError) as error:
                    _log.warning("Can't listen to Redis %s, trying again: %s", self._link.place, error)
                    await backoff.pause()
                    continue
                backoff.reset()
                self._wire = wire
                self._up.fire()
                if again:
                    self._miss()
                again = True
                await asyncio.wait([wire.down])
        finally:
            self._drop("the listener was closed")
            self._up.fire()

    async def _connect(self, *, again: bool) -> Wire:
        await self._link.wait_connected(_LONG_S)
        wire = await self._link.dial_wire(ping=self._ping, on_push=self._hear)
        try:
            await wire.speak_3()
            # At first those who want the channels still wait for them here, and are to be told why one can't be had.
            channels = list(self._wanted) if again else []
            await _subscribe(wire, channels)
            left = [channel for channel in channels if channel not in self._wanted]
            if left:
                wire.submit(_packed("UNSUBSCRIBE", left), len(left))
            await self._link.wait_connected(0)  # it may have gone down meanwhile, and this be the wrong server
        except BaseException:
            wire.close("it could not be subscribed")
            raise
        return wire

    def _follow(self, up: bool) -> None:
        if not up:
            self._drop("the link went down")

    def _drop(self, why: str) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close(why)

    # ---- the messages ----

    def _hear(self, channel: bytes, payload: bytes) -> None:
        name = channel.decode()
        if name in self._wanted:
            try:
                self._on_message(name, payload)
            except Exception:  # noqa: BLE001 - what listens goes on listening
                _log.exception("What a message from Redis %s led to has failed.", self._link.place)

    def _miss(self) -> None:
        try:
            self._on_gap()
        except Exception:  # noqa: BLE001 - what listens goes on listening
            _log.exception("What followed a lost connection to Redis %s has failed.", self._link.place)


def _packed(verb: str, channels: Sequence[str]) -> bytes:
    """Return a command for each channel: one for all would be refused as a whole, with one reply."""
    return b"".join([pack_command((verb, channel)) for channel in channels])


async def _subscribe(wire: Wire, channels: Sequence[str], then: Command = ()) -> Any:
    """Subscribe; return the reply to `then`, None where it was not sent."""
    if not channels:
        return None
    packed, wanted = _packed("SUBSCRIBE", channels), len(channels)
    if mixed := bool(then) and wire.mixes:
        packed, wanted = packed + pack_command(then), wanted + 1
    replies = await wire.submit(packed, wanted)
    if wanted == 1:
        replies = [replies]
    for reply in replies:
        if type(reply) is ReplyError:
            raise reply
    return replies[-1] if mixed else None
