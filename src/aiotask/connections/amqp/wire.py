"""The bytes of a connection: hands our channels the frames that they take themselves, and the driver all others.

The driver reads and writes through it as through any other stream.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Any, Final

from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from aiotask.connections.amqp.received import Inbox

_FRAME: Final = struct.Struct(">BHI")
_BEGIN_BYTES: Final = 7
_MORE_BYTES: Final = 8
"""What a frame has beside its payload."""
_END: Final = 0xCE
_HEARTBEAT: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
_SIGN_OF_LIFE_S: Final = 1.0
_CONGESTED_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 64 * 1024


class Wire(asyncio.StreamReader):
    """One connection's bytes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the reading end; whoever connects it sets `writer`."""
        super().__init__(loop=loop)
        self.writer: asyncio.StreamWriter
        self.inboxes: dict[int, Inbox] = {}
        """By the numbers of their channels."""
        self.ended = False
        """True once nothing more can come. The driver takes a while to say so."""
        self._clock = loop.time
        self._seen_at = 0.0
        self._held = b""
        """The beginning of a frame of ours, or of whose it is not known."""
        self._passing = 0
        """So many bytes are left of a frame of the driver's."""

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # as everybody calls it
        """Take what has come; called by the event loop."""
        if self._held:
            data, self._held = self._held + data, b""
        others, ours = self._sort(data)
        if others:
            super().feed_data(others[0] if len(others) == 1 else b"".join(others))
        now = self._clock()
        if ours and not self._passing and now - self._seen_at >= _SIGN_OF_LIFE_S:
            # The driver counts frames to see whether the connection lives, and a busy server sends no heartbeats.
            self._seen_at = now
            super().feed_data(_HEARTBEAT)

    def feed_eof(self) -> None:
        """Note that nothing more comes."""
        self.ended = True
        if self._held:
            held, self._held = self._held, b""
            super().feed_data(held)
        super().feed_eof()

    def set_exception(self, exc: Exception) -> None:
        """Note that the connection was lost."""
        self.ended = True
        super().set_exception(exc)

    def _sort(self, data: bytes) -> tuple[list[bytes], bool]:
        """Let our channels have what is theirs; return the rest, and whether there was something of ours."""
        end = len(data)
        at = min(self._passing, end)
        self._passing -= at
        others: list[bytes] = []
        since = 0
        """Where the bytes begin that are not ours."""
        ours = False
        inbox_of = self.inboxes.get
        read = _FRAME.unpack_from
        while end - at >= _BEGIN_BYTES:
            kind, channel, size = read(data, at)
            after = at + size + _MORE_BYTES
            inbox = inbox_of(channel)
            if inbox is None:
                if after > end:
                    self._passing = after - end
                    at = end
                    break
            else:
                if after > end:
                    break
                if data[after - 1] == _END and inbox.take(kind, data[at + _BEGIN_BYTES : after - 1]):
                    ours = True
                    if since < at:
                        others.append(data[since:at])
                    since = after
            at = after
        if since < at:
            others.append(data[since:at])
        if at < end:
            self._held = data[at:]
        return others, ours

    # ---- writing ----

    def write(self, data: bytes) -> None:
        """Send bytes, as far as they go now at once; the rest by and by."""
        if not self.writer.is_closing():
            self.writer.write(data)

    @property
    def congested(self) -> bool:
        """True while more waits to be sent than should."""
        return self.writer.transport.get_write_buffer_size() > _CONGESTED_BYTES

    async def drain(self) -> None:
        """Wait until what waits to be sent is little again.

        Raises:
            OSError: The connection was lost.
        """
        await self.writer.drain()

    def hang_up(self) -> None:
        """Let the server know that nobody is here any more, where the event loop is closed that would do so."""
        connected = self.writer.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


class _Reading(asyncio.StreamReaderProtocol, asyncio.BufferedProtocol):
    """Lets the event loop read into one buffer: its own way to read takes and gives back 256 KiB of memory each time.

    That costs 13 us where few bytes come.
    """

    def __init__(self, wire: Wire, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(wire, loop=loop)
        self._wire = wire
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has been read."""
        self._wire.feed_data(bytes(self._buffer[:nbytes]))


class WireFactory(TransportFactory):
    """Connects for the driver, by TLS where the URL says so."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        """What it has connected last."""

    async def create(self, url: URL, **kwargs: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `TransportFactory`."""
        provider = kwargs.pop("ssl_context_provider", None)
        context = await provider.get_context() if url.scheme == "amqps" else None
        loop = asyncio.get_running_loop()
        wire = Wire(loop)
        protocol = _Reading(wire, loop)
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, url.host or "", url.port or 0, ssl=context, **kwargs
            )
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        wire.writer = asyncio.StreamWriter(transport, protocol, wire, loop)
        self.wire = wire
        return wire, wire.writer
