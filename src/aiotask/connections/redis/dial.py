"""Opens connections: finds the master, connects and logs in by redis-py, and hands over what is connected.

From then on redis-py has no part in it. Its `read_response` costs several coroutines per reply, its `send_command`
connects again by itself, and which errors it tells apart differs between its versions, of which some drop the code.
"""

import asyncio
import socket
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError
from redis.exceptions import TimeoutError as DriverTimeout

from aiotask.connections.redis.address import Address, Place
from aiotask.connections.redis.errors import ServerRefused, wants_password

_WHERE_IS_IT: Final = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")


class Dialer:
    """Opens connections to what an address names; behind Sentinels, to the master of that moment."""

    def __init__(self, address: Address, *, timeout: float) -> None:
        """Take an address. No I/O.

        Args:
            address: Where to.
            timeout: Seconds that connecting and logging in may take together; asking a Sentinel, so long once more.
        """
        self._address = address
        self._timeout_s = timeout
        self._sentinels = address.sentinels

    async def dial(self) -> asyncio.StreamWriter:
        """Return a connection that is logged in, its database selected; nothing is unread.

        Raises:
            ServerRefused: There is none; the message says why.

        Cost: the handshake, one to three round trips; before it one question to a Sentinel.
        """
        place = await self._find_master() if self._sentinels else None
        connection = self._address.connection(place)
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.connect()
        except BaseException as error:
            _drop(connection)
            if isinstance(error, (RedisError, OSError)):
                raise self._refused(error) from error
            raise
        stream: asyncio.StreamWriter = connection._writer  # there is no public way to take it over
        connection._reader = connection._writer = None  # or it warns, and closes the stream, when it is collected
        return stream

    def dial_blocking(self) -> socket.socket:
        """Do the same in a thread, without an event loop.

        Raises:
            ServerRefused: There is none; the message says why.
        """
        place = self._find_master_blocking() if self._sentinels else None
        connection = self._address.connection(place, blocking_timeout=self._timeout_s)
        try:
            connection.connect()
        except (RedisError, OSError) as error:
            connection.disconnect()
            raise self._refused(error) from error
        connected: socket.socket = connection._sock
        connection._sock = None  # or it closes the socket when it is collected
        return connected

    async def _find_master(self) -> Place:
        answers: list[tuple[Place, Any]] = []
        for sentinel in self._sentinels:
            connection = self._address.sentinel_connection(sentinel)
            try:
                async with asyncio.timeout(self._timeout_s):
                    await connection.connect()
                    await connection.send_command(*_WHERE_IS_IT, self._address.master_name)
                    answers.append((sentinel, await connection.read_response()))
            except (RedisError, OSError) as error:
                answers.append((sentinel, error))
            finally:
                _drop(connection)
            if place := self._named(*answers[-1]):
                return place
        raise self._no_master(answers)

    def _find_master_blocking(self) -> Place:
        answers: list[tuple[Place, Any]] = []
        for sentinel in self._sentinels:
            connection = self._address.sentinel_connection(sentinel, blocking_timeout=self._timeout_s)
            try:
                connection.connect()
                connection.send_command(*_WHERE_IS_IT, self._address.master_name)
                answers.append((sentinel, connection.read_response()))
            except (RedisError, OSError) as error:
                answers.append((sentinel, error))
            finally:
                connection.disconnect()
            if place := self._named(*answers[-1]):
                return place
        raise self._no_master(answers)

    def _named(self, sentinel: Place, answer: Any) -> Place | None:
        """Return the master that a Sentinel's answer names, if it does."""
        if not isinstance(answer, list) or len(answer) != 2:
            return None
        # The one that answers is asked first the next time.
        self._sentinels = (sentinel, *(other for other in self._sentinels if other != sentinel))
        host, port = answer
        return Place(host.decode(), int(port))

    def _no_master(self, answers: list[tuple[Place, Any]]) -> ServerRefused:
        unknown = f"knows no master {self._address.master_name!r}"
        said = [
            f"{place.host}:{place.port} {unknown if answer is None else str(answer).rstrip('.') or 'does not answer'}"
            for place, answer in answers
        ]
        return ServerRefused(
            f"No Sentinel of {self._address.masked} names a master: {'; '.join(said)}. "
            "Are the Sentinels running, and is master_name the name that they know?"
        )

    def _refused(self, error: Exception) -> ServerRefused:
        place = self._address.masked
        if isinstance(error.__cause__, RedisError):  # over Unix sockets the handshake's errors come wrapped
            error = error.__cause__
        if isinstance(error, AuthenticationError) and not self._address.options.get("password"):
            return wants_password(place)
        if isinstance(error, AuthenticationError):
            return ServerRefused(
                f"Redis {place} does not accept the user or password ({error}). Check them in the URL, "
                "redis://user:password@host; special characters are percent-encoded."
            )
        if isinstance(error, InvalidResponse):
            return ServerRefused(f"{place} answers, but not as a Redis does ({error}). Are host and port right?")
        if isinstance(error, (TimeoutError, DriverTimeout)):
            return ServerRefused(
                f"Redis {place} did not answer within {self._timeout_s:g} s. Are host and port right, and does nothing "
                "on the way block it?"
            )
        if any(word in str(error).lower() for word in ("closed", "reset", "lost")):
            return ServerRefused(
                f"Redis {place} closed the connection ({error}). Does its port want TLS (rediss://), or has it too "
                "many clients?"
            )
        why = str(error).rstrip(".")
        if isinstance(error, ResponseError) or "max number" in why:
            return ServerRefused(f"Redis {place} lets nobody in by this URL: {why}.")
        return ServerRefused(f"Redis {place} can't be reached: {why}. Is it running, and are host and port right?")


def _drop(connection: Any) -> None:
    """Close a connection of redis-py's at once, also where it was cancelled halfway. Never waits."""
    writer = connection._writer  # its own `disconnect` waits, and needs a task
    if writer is not None:
        connection._reader = connection._writer = None
        with suppress(RuntimeError):  # the loop is closed
            writer.transport.abort()
