"""The link to one RabbitMQ: a connection that a broker or a result backend opens, takes channels from, and closes."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeAlias

import aio_pika
from aiormq.exceptions import AMQPError
from yarl import URL

from aiotask.connections.amqp.address import read_url
from aiotask.connections.amqp.channel import AmqpChannel, is_cancelled
from aiotask.connections.amqp.errors import LinkClosed, LinkDown, ServerRefused, translated
from aiotask.connections.amqp.refusals import check_server, refused
from aiotask.connections.amqp.wire import Wire, WireFactory
from aiotask.connections.backoff import Backoff
from aiotask.connections.signals import Signal
from aiotask.connections.translating import Translating, Translation
from aiotask.exceptions import ImproperlyConfigured
from aiotask.showing import shown

Observer: TypeAlias = Callable[[bool], None]
"""Told in the event loop: True when the link is up again, False when it has gone down or is closed."""

PROBE_S: Final = 5.0
"""A server that says nothing is asked so often whether it is there: heartbeats take minutes to miss it."""
_TURNS: Final = 20
_HEARD_BYTES: Final = 64 * 1024
_PREFIX: Final = re.compile(r"(?!amq(\.|$))[a-zA-Z0-9\-_.:@#,/+ ]{1,200}")
"""255 bytes is the longest name, and no letters but these does the driver take (`brokers.amqp.names`)."""

_log = logging.getLogger(__name__)


class _Hearing(WireFactory):
    """Keeps what a server says during the handshake, which the driver drops when it did not expect it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = bytearray()

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `WireFactory`."""
        made = await super().create(url, **kwargs)
        wire: Any = self.wire
        self.heard += getattr(wire, "_buffer", b"")  # whoever speaks first may have done so by now
        feed = wire.feed_data

        def feed_data(data: bytes) -> None:
            if len(self.heard) < _HEARD_BYTES:
                self.heard += data
            feed(data)

        wire.feed_data = feed_data
        return made

    def end(self) -> None:
        """Keep nothing of what comes from now on."""
        if self.wire is not None:
            with suppress(AttributeError):
                del self.wire.feed_data
        self.heard.clear()


class AmqpLink:
    """One connection for all that open it, remade for ever once it was there.

    Counts its users, and is bound to the event loop that it is open on.
    """

    def __init__(
        self,
        url: str,
        *,
        connection_timeout: float = 5.0,
        command_timeout: float = 5.0,
        heartbeat: float = 60.0,
        key_prefix: str = "aiotask",
    ) -> None:
        """Read the URL. No I/O.

        Args:
            url: See `address`.
            connection_timeout: Seconds that connecting may take.
            command_timeout: Seconds that the server may take to answer.
            heartbeat: Seconds between the signs of life that both sides send; 0 for none.
            key_prefix: What the names of our own queues and exchanges begin with, where they are not made of others.

        Raises:
            ImproperlyConfigured: The URL can't be read, or no name of AMQP's can begin so; the message says what to
                write.
        """
        if not _PREFIX.fullmatch(key_prefix):
            raise ImproperlyConfigured(
                f"The key_prefix {shown(key_prefix)!r} can't begin names on RabbitMQ: it takes 1 to 200 of the letters "
                "a to z and A to Z, digits, spaces and - _ . : @ # , / +, and does not begin with 'amq.', as the "
                "server's own do."
            )
        self.address = read_url(url, heartbeat=heartbeat)
        self.place = self.address.masked
        """The URL with its password masked, for messages."""
        self.heartbeat_s = float(self.address.url.query["heartbeat"])
        """A server that has heard nothing for two or three of them gives to others what it had given us."""
        self.key_prefix = key_prefix
        self.connection_timeout_s = connection_timeout
        self.command_timeout_s = command_timeout
        self._again = (url, connection_timeout, command_timeout, heartbeat, key_prefix)
        self._users = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._forget_loop()

    def __repr__(self) -> str:
        return f"AmqpLink({self.place!r})"

    def another(self) -> "AmqpLink":
        """Return a link of its own to the same place: a server that takes no messages stops reading a connection."""
        url, connection_timeout, command_timeout, heartbeat, key_prefix = self._again
        return AmqpLink(
            url,
            connection_timeout=connection_timeout,
            command_timeout=command_timeout,
            heartbeat=heartbeat,
            key_prefix=key_prefix,
        )

    def _forget_loop(self) -> None:
        """Be as new; whatever there was belongs to a loop that is gone."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._connection: aio_pika.abc.AbstractConnection | None = None
        self._gone: asyncio.Future[str] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._changed = Signal()
        self.answered_mono = 0.0
        """When the server is known to have been there last."""
        self._observers: list[Observer] = []

    def _leave_loop(self) -> None:
        """Leave a loop that is closed. The server would go on giving messages to whoever was there."""
        if self._connection is not None:
            self._wire(self._connection).hang_up()
        self._forget_loop()

    @property
    def connected(self) -> bool:
        """False from the moment the connection is known to be down until it is up again."""
        return self._gone is not None and not self._gone.done()

    # ---- opening and closing ----

    async def open(self) -> None:
        """Connect, or share the connection when there is one.

        Raises:
            ServerRefused: There is no RabbitMQ that can be used; the message says why and what to do. Later losses
                raise nothing here: the connection is made again, for ever.

        Cost: the handshake, the first time.
        """
        running = asyncio.get_running_loop()
        if self._loop is not running:
            if self._loop is not None and self._users and not self._loop.is_closed():
                raise LinkClosed(
                    f"The link to RabbitMQ {self.place} is open on another event loop. Close it there first."
                )
            self._users = 0
            self._leave_loop()
            self._loop = running
        self._users += 1
        try:
            async with self._opening:
                if self._keeper is None:
                    await self._connect()
                    self._keeper = running.create_task(self._keep(), name=f"aiotask link to {self.place}")
        except BaseException:
            self._users -= 1
            raise

    async def close(self) -> None:
        """Give up one opening; the last one closes the connection."""
        self._users = max(0, self._users - 1)
        if self._users:
            return
        if self._loop is not asyncio.get_running_loop():  # that loop is gone, and all that was on it
            self._leave_loop()
            return
        closing = self._loop.create_task(self._close(), name=f"aiotask link to {self.place} closes")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        await asyncio.shield(closing)  # whoever is cancelled here leaves no connection behind

    async def _close(self) -> None:
        async with self._opening:
            if self._users:
                return  # opened again meanwhile
            keeper, self._keeper = self._keeper, None
            if keeper is None:
                return
            keeper.cancel()
            await asyncio.wait([keeper])
            connection, self._connection = self._connection, None
            if self._gone is not None and not self._gone.done():
                self._gone.set_result("it was closed")
            self._changed.fire()
            if connection is not None:
                await self._drop(connection)
                await _let_the_driver_end()

    # ---- channels ----

    async def channel(self, *, confirms: bool = False, wait: float = 0.0) -> AmqpChannel:
        """Return a new channel.

        Args:
            confirms: Whether it is to publish.
            wait: Seconds to wait for the connection while there is none; 0 fails at once.

        Raises:
            LinkDown: There is no connection.
            LinkClosed: The link is not open.

        Cost: one round trip, two with `confirms`.
        """
        connection: Any = await self._wait_up(wait)
        try:
            async with asyncio.timeout(self.command_timeout_s):
                # Not an aio-pika one: each leaves a callback with the connection, and a task where a loop ends.
                under = await connection.transport.connection.channel(publisher_confirms=confirms)
        except (AMQPError, OSError, RuntimeError, TimeoutError, aio_pika.exceptions.AMQPException) as error:
            raise LinkDown(f"RabbitMQ {self.place} opens no channel ({error!r}).", sent=False) from error
        except asyncio.CancelledError as error:
            if is_cancelled():
                raise
            # The driver ends what waits on a connection that is lost by cancelling it.
            raise LinkDown(f"The connection to RabbitMQ {self.place} was lost.", sent=False) from error
        return AmqpChannel(
            under, self._wire(connection), lambda: self.blocked, timeout=self.command_timeout_s, place=self.place
        )

    @staticmethod
    def _wire(connection: Any) -> Wire:
        wire: Wire = connection.kwargs["transport_factory"].wire
        return wire

    def translating(self, translation: Translation) -> Translating:
        """Raise the adapter's errors for those of the link."""
        return Translating(self.place, translation, translated)

    @property
    def blocked(self) -> bool:
        """True while the server takes no messages, having too little memory or disk."""
        transport = None if self._connection is None else getattr(self._connection, "transport", None)
        if transport is None:
            return False
        ready = transport.connection.ready()
        try:
            ready.send(None)  # it returns at once unless the server has said that it is blocked
        except StopIteration:
            return False
        else:
            return True
        finally:
            ready.close()

    async def wait_unblocked(self, seconds: float) -> bool:
        """Wait until the server takes messages, at most so long; tell whether it does."""
        deadline = asyncio.get_running_loop().time() + seconds
        while self.blocked:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(0.05)
        return True

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
        await self._wait_up(wait)

    def cut(self) -> None:
        """Drop the connection as a fault of the network would; it is made again."""
        if self._connection is not None:
            self._abort(self._connection)

    async def _connect(self) -> None:
        connecting = asyncio.get_running_loop().create_task(self._handshake(), name=f"aiotask connects to {self.place}")
        try:
            connection = await asyncio.shield(connecting)
        except asyncio.CancelledError:  # the driver would leave behind what is half connected
            connecting.add_done_callback(self._drop_unused)
            raise
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def closed(closing: "asyncio.Future[Any]") -> None:
            error = None if closing.cancelled() else closing.exception()
            if not gone.done():
                gone.set_result(str(error or "it was closed"))
            self._tell(up=False)

        connection.transport.connection.closing.add_done_callback(closed)
        self._connection, self._gone = connection, gone
        self.answered_mono = time.monotonic()
        self._changed.fire()
        self._tell(up=True)

    def _drop_unused(self, connecting: "asyncio.Task[Any]") -> None:
        if not connecting.cancelled() and connecting.exception() is None:
            dropping = connecting.get_loop().create_task(self._drop(connecting.result()))
            self._closing.add(dropping)
            dropping.add_done_callback(self._closing.discard)

    async def _handshake(self) -> Any:
        connection: Any = aio_pika.Connection(self.address.url)
        connection.kwargs["transport_factory"] = hearing = _Hearing()
        try:
            async with asyncio.timeout(self.connection_timeout_s):
                await connection.connect()
            check_server(self.place, connection.transport.connection.server_properties)
        except BaseException as error:
            await self._drop(connection)
            if isinstance(error, (AMQPError, OSError, TimeoutError, ValueError, asyncio.IncompleteReadError)):
                raise refused(self.address, error, self.connection_timeout_s, bytes(hearing.heard)) from error
            raise
        hearing.end()
        return connection

    async def _keep(self) -> None:
        """See to it that there is a connection, until cancelled."""
        try:
            await self._keep_connected()
        finally:  # a loop that ends cancels the driver's tasks too
            await _let_the_driver_end()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while (gone := self._gone) is not None:
            await self._watch(gone)
            since = loop.time()
            _log.warning("Lost the connection to RabbitMQ %s (%s). Connecting again.", self.place, gone.result())
            connection, self._connection = self._connection, None
            if connection is not None:
                await self._drop(connection)
            await self._reconnect()
            _log.warning("Connected to RabbitMQ %s again after %.1f s.", self.place, loop.time() - since)

    async def _watch(self, gone: "asyncio.Future[str]") -> None:
        """Return once the connection is gone, be it that the server says nothing any more."""
        channel: AmqpChannel | None = None
        while not gone.done():
            await asyncio.wait([gone], timeout=PROBE_S)
            if gone.done() or self.blocked:
                continue
            try:
                if channel is None or not channel.usable:
                    channel = await self.channel()
                await channel.ask()
                self.answered_mono = time.monotonic()
            except (LinkDown, LinkClosed) as error:
                if not gone.done() and not self.blocked:
                    gone.set_result(str(error).rstrip("."))
                    self._tell(up=False)

    async def _reconnect(self) -> None:
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
                _log.exception("Connecting to RabbitMQ %s has failed in a way that nobody foresaw.", self.place)

    async def _drop(self, connection: aio_pika.abc.AbstractConnection) -> None:
        """Close a connection, without waiting long for a server that says nothing."""
        try:
            async with asyncio.timeout(1.0):
                await connection.close()
        except (AMQPError, OSError, TimeoutError, RuntimeError):
            self._abort(connection)

    @staticmethod
    def _abort(connection: Any) -> None:
        transport = getattr(connection, "transport", None)
        reader = None if transport is None else getattr(transport.connection, "_reader_task", None)
        if reader is not None:
            with suppress(RuntimeError):  # its loop is closed
                reader.cancel()

    def _tell(self, *, up: bool) -> None:
        for observer in tuple(self._observers):
            observer(up)

    async def _wait_up(self, wait: float) -> aio_pika.abc.AbstractConnection:
        now = asyncio.get_running_loop().time
        deadline = now() + wait
        while self._keeper is not None or self._opening.locked():
            if self.connected and self._connection is not None:
                return self._connection
            if now() >= deadline:
                raise LinkDown(
                    f"There is no connection to RabbitMQ {self.place} now; it is being made again. Nothing was sent.",
                    sent=False,
                )
            await self._changed.wait(max(0.001, deadline - now()))
        raise LinkClosed(f"The link to RabbitMQ {self.place} is not open. Open the app first.")


async def _let_the_driver_end() -> None:
    """Let the driver's tasks end that a connection's end has started: nothing is to be left running."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
