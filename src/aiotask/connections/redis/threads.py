"""A synchronous connection for a thread of its own, which works whatever the event loop is doing."""

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from aiotask.connections.redis.commands import Script, ScriptCall, Word
from aiotask.connections.redis.dial import Dialer
from aiotask.connections.redis.errors import LinkClosed, LinkDown, ReplyError, ServerRefused
from aiotask.connections.redis.link import RedisLink
from aiotask.connections.redis.wire import Garbled, has_reply, new_reader

_READ_BYTES = 65536


class ThreadConnection:
    """Runs scripts from one thread. It shares an address with a link and nothing else; `close` may be called anywhere.

    It is connected by the first `run`, and by each one after a failure.
    """

    def __init__(self, link: RedisLink) -> None:
        """Take the address and timeouts of `link`, open or not. No I/O."""
        self.place = link.place
        self._dialer = Dialer(link.address, timeout=link.connection_timeout_s)
        self._timeout_s = link.command_timeout_s
        self._running = threading.Lock()
        self._socket: socket.socket | None = None
        self._reader = new_reader()
        self._scripts: set[str] = set()
        self._closed = False

    def run(self, script: Script, keys: Sequence[str | bytes] = (), args: Sequence[Word] = ()) -> Any:
        """Run a Lua script and return its reply. Blocks.

        Raises:
            LinkDown: No connection can be made, or it was lost; `sent` says which. The next call connects anew.
            ReplyError: The server's answer.
            LinkClosed: It was closed.

        Cost: one round trip.
        """
        try:
            with self._running:
                return self._run(ScriptCall(script, keys, args))
        finally:
            self._drop_if_closed()

    def _run(self, call: ScriptCall) -> Any:
        connection = self._connected()
        sha = call.script.sha
        try:
            reply = self._ask(connection, call.packed(whole=sha not in self._scripts))
            if type(reply) is ReplyError and reply.code == "NOSCRIPT":
                reply = self._ask(connection, call.packed(whole=True))
        except (OSError, Garbled) as error:
            self._drop()
            why = f"it did not answer within {self._timeout_s:g} s" if isinstance(error, TimeoutError) else str(error)
            raise LinkDown(
                f"The connection to Redis {self.place} was lost before the reply came: nobody knows whether the server "
                f"carried out the command ({why}).",
                sent=True,
            ) from error
        if type(reply) is ReplyError:
            if reply.is_stale:
                self._drop()
            raise reply
        self._scripts.add(sha)
        return reply

    def close(self) -> None:
        """Close the connection; a `run` that waits for a reply in its thread fails. Idempotent."""
        self._closed = True
        connection = self._socket
        if connection is not None:
            with suppress(OSError):  # it is not connected any more
                connection.shutdown(socket.SHUT_RDWR)
        self._drop_if_closed()

    def _drop_if_closed(self) -> None:
        """Whoever is last, `run` or `close`, drops it: a socket's number must not be freed while it is in use."""
        if self._closed and self._running.acquire(blocking=False):
            self._drop()
            self._running.release()

    def _connected(self) -> socket.socket:
        if self._closed:
            raise LinkClosed(f"This connection to Redis {self.place} was closed.")
        if self._socket is None:
            try:
                connected = self._dialer.dial_blocking()
            except ServerRefused as error:
                raise LinkDown(str(error), sent=False) from error
            connected.settimeout(self._timeout_s)
            self._socket = connected
            self._reader = new_reader()
            self._scripts.clear()
        return self._socket

    def _ask(self, connection: socket.socket, packed: bytes) -> Any:
        connection.sendall(packed)
        while not has_reply(reply := self._reader.gets()):
            data = connection.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("the server closed it")
            self._reader.feed(data)
        return reply

    def _drop(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
