"""Connecting to what is no Redis, or does not let us in: what is said about it. The servers are stand-ins."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.servers.redis import RedisServer

from aiotask.connections.redis.address import read_url
from aiotask.connections.redis.dial import Dialer
from aiotask.connections.redis.errors import ServerRefused

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(behave: Behaviour) -> AsyncIterator[int]:
    """A server that behaves so; yields its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await behave(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def saying(*replies: bytes) -> Behaviour:
    """Answer whatever comes with these, one after the other."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await reader.read(65536)
            writer.write(reply)
        await reader.read()

    return behave


async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    return


async def why_refused(url: str, *, blocking: bool, timeout: float = 5.0) -> str:
    dialer = Dialer(read_url(url), timeout=timeout)
    with pytest.raises(ServerRefused) as raised:
        await (asyncio.to_thread(dialer.dial_blocking) if blocking else dialer.dial())
    gc.collect()  # what was left open would warn, and warnings are errors
    return str(raised.value)


@pytest.mark.parametrize("blocking", [False, True])
async def test_nobody_listening_is_told_with_the_place_and_the_remedy(blocking: bool) -> None:
    async with listening(silent) as port:
        pass
    told = await why_refused(f"redis://:secret@127.0.0.1:{port}/0", blocking=blocking)
    assert told.startswith(f"Redis redis://:***@127.0.0.1:{port}/0 can't be reached: ")
    assert "refused" in told or "Connect call failed" in told
    assert told.endswith("Is it running, and are host and port right?")


@pytest.mark.parametrize("blocking", [False, True])
async def test_host_that_does_not_exist_is_told(blocking: bool) -> None:
    assert "can't be reached" in await why_refused("redis://no-such-host.invalid", blocking=blocking)


@pytest.mark.parametrize("blocking", [False, True])
async def test_another_kind_of_server_is_told(blocking: bool) -> None:
    async with listening(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        told = await why_refused(f"redis://127.0.0.1:{port}/1", blocking=blocking)
    assert "answers, but not as a Redis does" in told


@pytest.mark.parametrize("blocking", [False, True])
async def test_server_that_says_nothing_is_told(blocking: bool) -> None:
    async with listening(silent) as port:
        told = await why_refused(f"redis://127.0.0.1:{port}/1", blocking=blocking, timeout=0.1)
    assert "did not answer within 0.1 s" in told


@pytest.mark.parametrize("blocking", [False, True])
async def test_server_that_closes_is_told_with_what_it_may_want(blocking: bool) -> None:
    async with listening(closing) as port:
        told = await why_refused(f"redis://127.0.0.1:{port}/1", blocking=blocking)
    assert "TLS (rediss://)" in told


@pytest.mark.parametrize("blocking", [False, True])
async def test_server_that_is_full_is_told(blocking: bool) -> None:
    async with listening(saying(b"-ERR max number of clients reached\r\n")) as port:
        told = await why_refused(f"redis://127.0.0.1:{port}/1", blocking=blocking)
    assert told.endswith("lets nobody in by this URL: max number of clients reached.")


@pytest.mark.parametrize("blocking", [False, True])
async def test_wrong_password_is_told_and_not_shown(blocking: bool) -> None:
    async with listening(saying(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")) as port:
        told = await why_refused(f"redis://me:secret@127.0.0.1:{port}", blocking=blocking)
    assert "does not accept the user or password (invalid username-password pair" in told
    assert "secret" not in told


async def test_sentinels_that_do_not_answer_are_told_one_by_one() -> None:
    async with listening(saying(b"*-1\r\n")) as knows_nothing, listening(closing) as closes:
        told = await why_refused(
            f"sentinel://127.0.0.1:{knows_nothing};sentinel://127.0.0.1:{closes}/0?master_name=main",
            blocking=False,
            timeout=0.5,
        )
    assert told.startswith("No Sentinel of sentinel://")
    assert f"127.0.0.1:{knows_nothing} " in told
    assert f"127.0.0.1:{closes} " in told
    assert "master_name" in told


async def test_dialing_that_is_cancelled_leaves_nothing_open() -> None:
    met, left = asyncio.Event(), asyncio.Event()

    async def behave(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        met.set()
        with contextlib.suppress(ConnectionError):
            await reader.read()
        left.set()

    async with listening(behave) as port:
        dialing = asyncio.create_task(Dialer(read_url(f"redis://127.0.0.1:{port}/1"), timeout=60).dial())
        await met.wait()
        dialing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialing
        await asyncio.wait_for(left.wait(), 5)
    gc.collect()


async def test_dialing_in_a_thread_needs_no_loop_there() -> None:
    async with listening(saying(b"+OK\r\n+OK\r\n+OK\r\n", b"+OK\r\n+OK\r\n+OK\r\n")) as port:
        dialer = Dialer(read_url(f"redis://127.0.0.1:{port}"), timeout=5)
        connected = await asyncio.to_thread(dialer.dial_blocking)
        assert threading.current_thread() is threading.main_thread()
        assert connected.getpeername()[1] == port
        connected.close()


@pytest.mark.parametrize("blocking", [False, True])
async def test_system_sees_to_it_that_a_silent_connection_that_is_dead_is_noticed(
    redis_server: RedisServer, blocking: bool
) -> None:
    dialer = Dialer(read_url(redis_server.url()), timeout=5.0)
    if blocking:
        connection = await asyncio.to_thread(dialer.dial_blocking)
    else:
        stream = await dialer.dial()
        connection = stream.get_extra_info("socket")
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
    connection.close() if blocking else stream.transport.abort()
