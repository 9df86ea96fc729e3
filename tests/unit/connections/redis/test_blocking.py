"""Reads that block, on a connection of their own. On a real server."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.connections.redis import BlockingReader, LinkClosed, LinkDown, RedisLink, ReplyError

Open = Callable[..., Awaitable[RedisLink]]
PATIENCE_S = 20.0


@pytest.fixture
async def reader(link: RedisLink) -> AsyncIterator[BlockingReader]:
    reader = BlockingReader(link)
    yield reader
    await reader.close()


async def blocked(server: RedisServer, count: int = 1) -> None:
    """Wait until so many clients block on the server."""
    async with asyncio.timeout(PATIENCE_S):
        while server.call("INFO", "CLIENTS")["blocked_clients"] != count:
            await asyncio.sleep(0.005)


async def test_blocked_read_returns_what_is_pushed(redis_server: RedisServer, reader: BlockingReader) -> None:
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    await blocked(redis_server)
    redis_server.call("RPUSH", "list", "value")
    assert await reading == [b"list", b"value"]


async def test_blocked_read_returns_nothing_after_its_time(reader: BlockingReader) -> None:
    assert await reader.call("BLPOP", "list", 0.05, block=0.05) is None


async def test_blocked_read_may_take_longer_than_the_command_timeout(redis_url: str, open_link: Open) -> None:
    reader = BlockingReader(await open_link(redis_url, command_timeout=0.3))
    begun = time.monotonic()
    assert await reader.call("BLPOP", "list", 1.0, block=1.0) is None
    assert time.monotonic() - begun >= 1.0
    await reader.close()


async def test_commands_of_the_link_do_not_wait_behind_a_blocked_read(
    redis_server: RedisServer, link: RedisLink, reader: BlockingReader
) -> None:
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    await blocked(redis_server)
    assert await link.command("PING") == b"PONG"
    await link.command("RPUSH", "list", "value")
    assert await reading == [b"list", b"value"]


async def test_cancelled_read_takes_nothing_with_it_later(redis_server: RedisServer, reader: BlockingReader) -> None:
    for _ in range(3):
        reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
        await blocked(redis_server)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await blocked(redis_server, 0)
        redis_server.call("RPUSH", "list", "value")
        assert await reader.call("BLPOP", "list", 30, block=30) == [b"list", b"value"]


async def test_error_of_a_read_is_raised(redis_server: RedisServer, reader: BlockingReader) -> None:
    redis_server.call("SET", "list", "text")
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await reader.call("BLPOP", "list", 1, block=1)


async def test_half_open_read_is_given_up_after_its_time_and_the_timeout(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url(), command_timeout=60.0)  # the link itself notices nothing
    reader = BlockingReader(link)
    assert await reader.call("BLPOP", "list", 0.01, block=0.01) is None
    link.command_timeout_s = 0.2
    await reader.close()
    assert await reader.call("BLPOP", "list", 0.01, block=0.01) is None
    proxy.black_hole()
    with pytest.raises(LinkDown, match=r"did not answer within 0\.4 s"):
        await reader.call("BLPOP", "list", 0.2, block=0.2)
    await reader.close()


async def test_blocked_read_ends_when_its_link_goes_down(private_redis: RedisServer, open_link: Open) -> None:
    link = await open_link(private_redis.url(), command_timeout=0.2)
    reader = BlockingReader(link)
    reading = asyncio.create_task(reader.call("BLPOP", "list", 600, block=600))
    await blocked(private_redis)
    private_redis.sigstop()  # says nothing to anybody; the link asks for a sign of life, the read does not
    with pytest.raises(LinkDown):
        await asyncio.wait_for(reading, PATIENCE_S)
    private_redis.sigcont()
    await reader.close()


async def test_read_waits_for_the_link_and_goes_on(private_redis: RedisServer, open_link: Open) -> None:
    link = await open_link(private_redis.url())
    reader = BlockingReader(link)
    assert await reader.call("BLPOP", "list", 0.01, block=0.01) is None
    private_redis.kill9()
    async with asyncio.timeout(PATIENCE_S):
        while link.connected:
            await asyncio.sleep(0.005)
    with pytest.raises(LinkDown) as raised:
        await reader.call("BLPOP", "list", 0.05, block=0.05)
    assert not raised.value.sent
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    private_redis.start()
    await blocked(private_redis)
    private_redis.call("RPUSH", "list", "value")
    assert await reading == [b"list", b"value"]
    await reader.close()


async def test_connection_that_is_refused_fails_the_read(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url())
    reader = BlockingReader(link)
    proxy.refuse()
    with pytest.raises(LinkDown, match="can't be reached") as raised:
        await reader.call("BLPOP", "list", 1, block=1)
    assert not raised.value.sent
    await reader.close()


async def test_interrupted_read_ends_and_the_next_one_works(redis_server: RedisServer, reader: BlockingReader) -> None:
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    await blocked(redis_server)
    reader.interrupt()
    with pytest.raises(LinkDown, match="interrupted"):
        await reading
    await blocked(redis_server, 0)
    redis_server.call("RPUSH", "list", "value")
    assert await reader.call("BLPOP", "list", 30, block=30) == [b"list", b"value"]


async def test_read_that_is_interrupted_while_it_connects_does_not_block(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open
) -> None:
    reader = BlockingReader(await open_link(proxy.url()))
    for turns in range(8):
        reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        reader.interrupt()
        with pytest.raises(LinkDown, match="interrupted"):
            await asyncio.wait_for(reading, PATIENCE_S)
    redis_server.call("RPUSH", "list", "value")
    assert await reader.call("BLPOP", "list", 30, block=30) == [b"list", b"value"]
    await reader.close()


@pytest.mark.parametrize("block", [0, -1, float("inf"), float("nan")])
async def test_read_that_could_block_for_ever_is_refused(reader: BlockingReader, block: float) -> None:
    with pytest.raises(ValueError, match="half-open link would hang for ever"):
        await reader.call("BLPOP", "list", 0, block=block)


async def test_second_read_at_once_is_refused(redis_server: RedisServer, reader: BlockingReader) -> None:
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    await blocked(redis_server)
    with pytest.raises(RuntimeError, match="one command at a time"):
        await reader.call("BLPOP", "list", 30, block=30)
    redis_server.call("RPUSH", "list", "value")
    assert await reading == [b"list", b"value"]


async def test_read_ends_when_the_link_is_closed(redis_server: RedisServer, redis_url: str) -> None:
    link = RedisLink(redis_url)
    await link.open()
    reader = BlockingReader(link)
    reading = asyncio.create_task(reader.call("BLPOP", "list", 30, block=30))
    await blocked(redis_server)
    await link.close()
    with pytest.raises(LinkDown):
        await reading
    with pytest.raises(LinkClosed):
        await reader.call("BLPOP", "list", 30, block=30)
    await reader.close()
    await blocked(redis_server, 0)
