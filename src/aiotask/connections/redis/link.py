"""The link to one Redis: what a broker and a result backend open, send their commands and scripts over, and close."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeGuard, TypeVar

from aiotask.connections.backoff import Backoff
from aiotask.connections.redis.address import read_url
from aiotask.connections.redis.commands import Command, Script, ScriptCall, Word, pack_command
from aiotask.connections.redis.dial import Dialer
from aiotask.connections.redis.errors import (
    LinkClosed,
    LinkDown,
    ReplyError,
    ServerRefused,
    translated,
)
from aiotask.connections.redis.server import QUESTIONS, QUESTIONS_REPLIES, Server, check_server, read_answers
from aiotask.connections.redis.wire import Wire
from aiotask.connections.signals import Signal
from aiotask.connections.translating import Translating, Translation

Observer: TypeAlias = Callable[[bool], None]
"""Told in the event loop: True when the link is up again, False when it has gone down or is closed."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class RedisLink:
    """One connection for the commands of all that open it, remade for ever once it was there.

    Counts its users, and is bound to the event loop that it is open on. What blocks, listens or is used in another
    thread has a connection of its own: `BlockingReader`, `Listener`, `ThreadConnection`.
    """

    def __init__(
        self,
        url: str,
        *,
        connection_timeout: float = 5.0,
        command_timeout: float = 5.0,
        key_prefix: str = "aiotask",
    ) -> None:
        """Read the URL. No I/O.

        Args:
            url: See `address`.
            connection_timeout: Seconds that connecting may take.
            command_timeout: Seconds that the server may take to answer.
            key_prefix: What the names of all keys and channels begin with.

        Raises:
            ImproperlyConfigured: The URL can't be read; the message says what to write.
        """
        self.address = read_url(url)
        self.place = self.address.masked
        """The URL with its passwords masked, for messages."""
        self.key_prefix = key_prefix
        self.command_timeout_s = command_timeout
        self.connection_timeout_s = connection_timeout
        self._dialer = Dialer(self.address, timeout=connection_timeout)
        self.server: Server | None = None
        """What the server has said of itself when it was connected to last; None before `open`."""
        self.holds_results = False
        """Whether a result backend is made on it."""
        self._users = 0
        self._forget_loop()

    def __repr__(self) -> str:
        return f"RedisLink({self.place!r})"

    def _forget_loop(self) -> None:
        """Be as new; whatever there was belongs to a loop that is gone."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._wire: Wire | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._changed = Signal()
        self._observers: list[Observer] = []
        self._told_up = False

    @property
    def connected(self) -> bool:
        """False from the moment the connection is known to be down until it is up again."""
        wire = self._wire
        return wire is not None and wire.usable

    # ---- opening and closing ----

    async def open(self) -> None:
        """Connect, or share the connection when there is one.

        Raises:
            ServerRefused: There is no Redis that can be used; the message says why and what to do. Later losses raise
                nothing here: the connection is made again, for ever.

        Cost: the handshake and one round trip more, the first time.
        """
        running = asyncio.get_running_loop()
        if self._loop is not running:
            if self._loop is not None and self._users and not self._loop.is_closed():
                raise LinkClosed(f"The link to Redis {self.place} is open on another event loop. Close it there first.")
            self._forget_loop()
            self._loop = running
        self._users += 1
        try:
            async with self._opening:
                if self._keeper is None:
                    self._came_up(await self._connect())
                    self._keeper = running.create_task(self._keep(), name=f"aiotask link to {self.place}")
        except BaseException:
            self._users -= 1
            raise

    async def close(self) -> None:
        """Give up one opening; the last one closes the connection. What has no reply by then fails."""
        self._users -= 1
        if self._users:
            return
        if self._loop is not asyncio.get_running_loop():  # that loop is gone, and all that was on it
            self._forget_loop()
            return
        async with self._opening:
            keeper, self._keeper = self._keeper, None
            if keeper is None:
                return
            keeper.cancel()
            wire = self._let_go()
            self._changed.fire()  # who waits for the connection finds the link closed
            await asyncio.wait([keeper])
            if wire is not None:
                await wire.closed

    # ---- commands ----

    async def run(
        self, script: Script, keys: Sequence[str | bytes] = (), args: Sequence[Word] = (), *, wait: float = 0.0
    ) -> Any:
        """Run a Lua script and return its reply: bytes, int, list or None.

        Args:
            script: Sent whole where the server does not have it, by its hash elsewhere.
            keys: KEYS.
            args: ARGV.
            wait: Seconds to wait for the connection while there is none; 0 fails at once. What has left is never sent
                a second time: what may be repeated is for the caller to know.

        Raises:
            ReplyError: The server's answer.
            LinkDown: No connection, or lost before the reply; `sent` says which.
            LinkClosed: The link is not open.

        Cost: one round trip, shared by all who call in the same iteration of the loop.
        """
        reply = await self._ask(self._one, ScriptCall(script, keys, args), _is_stale, wait)
        if type(reply) is ReplyError:
            raise reply
        return reply

    async def command(self, *words: Word, wait: float = 0.0) -> Any:
        """Run one command, as `run` does a script."""
        reply = await self._ask(self._one, words, _is_stale, wait)
        if type(reply) is ReplyError:
            raise reply
        return reply

    async def pipeline(self, commands: Sequence[Command | ScriptCall], *, wait: float = 0.0) -> list[Any]:
        """Run commands and scripts one after the other, not as one step: others' may run in between.

        A script that the server has lost since it was first sent (`SCRIPT FLUSH`) runs after the others; nothing else
        changes their order.

        Args:
            commands: Tuples of words, or calls of scripts, `script(keys, args)`.
            wait: As in `run`.

        Returns:
            A reply for each, in order; errors are `ReplyError` values.

        Raises:
            LinkDown: No connection, or lost before the last reply; `sent` says which.
            LinkClosed: The link is not open.

        Cost: one round trip.
        """
        if not commands:
            return []
        return await self._ask(self._all, commands, _all_stale, wait)

    async def _ask(
        self,
        send: Callable[[Wire, Asked], Awaitable[Answer]],
        asked: Asked,
        is_stale: Callable[[Answer], bool],
        wait: float,
    ) -> Answer:
        """Return what `send` returns; while nothing was carried out, call it again for `wait` seconds."""
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        wire = self._wire
        if wire is None or not wire.usable:
            wire = await self._wait_up(wait)
        while True:
            try:
                answer = await send(wire, asked)
            except LinkDown as error:
                if error.sent or now() >= deadline:
                    raise
            else:
                if not is_stale(answer) or now() >= deadline:
                    return answer
            wire = await self._wait_up(deadline - now())

    async def _one(self, wire: Wire, command: Command | ScriptCall) -> Any:
        reply = await wire.submit(_packed(wire, command))
        if _was_not_run(command, reply):
            reply = await wire.submit(command.packed(whole=True))
        return reply

    async def _all(self, wire: Wire, commands: Sequence[Command | ScriptCall]) -> list[Any]:
        packed = [_packed(wire, command) for command in commands]
        answer = await wire.submit(b"".join(packed), len(packed))
        replies: list[Any] = [answer] if len(packed) == 1 else answer
        again = {
            at: wire.submit(command.packed(whole=True))
            for at, (command, reply) in enumerate(zip(commands, replies, strict=True))
            if _was_not_run(command, reply)
        }
        for at, reply in again.items():
            replies[at] = await reply
        return replies

    def translating(self, translation: Translation) -> Translating:
        """Raise the adapter's errors for those of the link."""
        return Translating(self.place, translation, translated)

    # ---- the connection's coming and going ----

    def observe(self, observer: Observer) -> None:
        """Tell `observer` when the link goes down and when it is up again, until `unobserve`. It must not raise."""
        self._observers.append(observer)

    def unobserve(self, observer: Observer) -> None:
        """Tell `observer` no more. Idempotent."""
        if observer in self._observers:
            self._observers.remove(observer)

    async def wait_connected(self, wait: float) -> None:
        """Return once there is a connection.

        Raises:
            LinkDown: There is none after `wait` seconds.
            LinkClosed: The link is not open.
        """
        if not self.connected:
            await self._wait_up(wait)

    async def dial_wire(self, *, ping: bool, on_push: Callable[[bytes, bytes], None] | None = None) -> Wire:
        """Return a connection of the caller's own to the same server; see `Wire`.

        Raises:
            ServerRefused: It can't be had.
        """
        stream = await self._dialer.dial()
        return Wire(stream, self.place, timeout=self.command_timeout_s, ping=ping, on_push=on_push)

    async def _connect(self) -> Wire:
        wire = await self.dial_wire(ping=True)
        try:
            server = read_answers(self.place, await wire.submit(QUESTIONS, QUESTIONS_REPLIES))
            check_server(self.place, server)
        except BaseException as error:
            wire.close("it can't be used")
            if isinstance(error, LinkDown):
                raise ServerRefused(str(error)) from error
            raise
        before, self.server = self.server, server
        if server.evicts and (before is None or before.eviction != server.eviction):
            _log.warning(
                "Redis %s has maxmemory-policy %s: when its memory is full it throws away messages and results without "
                "a word. Set it to noeviction.",
                self.place,
                server.eviction,
            )
        return wire

    async def _keep(self) -> None:
        """See to it that there is a connection, until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while (wire := self._wire) is not None:
                await asyncio.wait([wire.down])
                since = loop.time()
                _log.warning("Lost the connection to Redis %s (%s). Connecting again.", self.place, wire.down.result())
                self._tell(up=False)
                self._came_up(await self._reconnect())
                _log.warning("Connected to Redis %s again after %.1f s.", self.place, loop.time() - since)
        finally:
            self._let_go()  # its event loop may be ending without a `close`

    def _let_go(self) -> Wire | None:
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close("the link was closed")
        self._tell(up=False)
        return wire

    async def _reconnect(self) -> Wire:
        backoff = Backoff()
        said = ""
        while True:
            await backoff.pause()
            try:
                return await self._connect()
            except ServerRefused as error:
                if str(error) != said:
                    said = str(error)
                    _log.warning("Trying again and again: %s", said)
            except Exception:  # noqa: BLE001 - for ever means whatever happens
                _log.exception("Connecting to Redis %s has failed in a way that nobody foresaw.", self.place)

    def _came_up(self, wire: Wire) -> None:
        self._wire = wire
        self._changed.fire()
        self._tell(up=True)

    def _tell(self, *, up: bool) -> None:
        if self._told_up is up:
            return
        self._told_up = up
        for observer in tuple(self._observers):
            observer(up)

    async def _wait_up(self, wait: float) -> Wire:
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        while (wire := self._opened()) is None:
            if now() >= deadline:
                raise LinkDown(
                    f"There is no connection to Redis {self.place} now; it is being made again. Nothing was sent.",
                    sent=False,
                )
            await self._changed.wait(deadline - now())
        return wire

    def _opened(self) -> Wire | None:
        """Return the connection, None while there is none."""
        if self._keeper is None:
            raise LinkClosed(f"The link to Redis {self.place} is not open. Open the app first.")
        wire = self._wire
        return wire if wire is not None and wire.usable else None


def _packed(wire: Wire, command: Command | ScriptCall) -> bytes:
    """Return a command as it goes over `wire`: the text of a script the first time, then its hash."""
    if not isinstance(command, ScriptCall):
        return pack_command(command)
    sha = command.script.sha
    if sha in wire.scripts:
        return command.packed(whole=False)
    packed = command.packed(whole=True)
    wire.scripts.add(sha)
    return packed


def _was_not_run(command: Command | ScriptCall, reply: Any) -> TypeGuard[ScriptCall]:
    """Tell whether a script was not run, since the server does not have it any more."""
    return type(reply) is ReplyError and reply.code == "NOSCRIPT" and isinstance(command, ScriptCall)


def _is_stale(reply: Any) -> bool:
    """Tell whether another server should be asked: this one has not carried it out."""
    return type(reply) is ReplyError and reply.is_stale


def _all_stale(replies: list[Any]) -> bool:
    return all(map(_is_stale, replies))
