"""The link to Redis on a real server: it is opened and closed, and carries commands and scripts."""

import asyncio
import random
import subprocess
import sys
import time

import pytest
from tests.conditions import PATIENCE_S, until
from tests.integration.redis_links import COUNT, ECHO, Open
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.connections.redis import LinkClosed, LinkDown, RedisLink, ReplyError, Script


def clients(server: RedisServer) -> int:
    """Count the connections that are not the asking one."""
    return server.call("CLIENT", "LIST", "TYPE", "normal").count(b"id=") - 1  # type: ignore[no-any-return]


# ---- opening and closing ----


async def test_link_is_one_connection_for_all_that_open_it(redis_server: RedisServer, redis_url: str) -> None:
    link = RedisLink(redis_url)
    assert not link.connected
    await asyncio.gather(link.open(), link.open())
    await link.open()
    assert link.connected
    assert clients(redis_server) == 1
    await link.close()
    await link.close()
    assert await link.command("PING") == b"PONG"
    await link.close()
    assert not link.connected
    await until(lambda: clients(redis_server) == 0)


async def test_link_can_be_opened_again(redis_url: str) -> None:
    link = RedisLink(redis_url)
    for _ in range(2):
        await link.open()
        assert await link.run(COUNT, ["n"])
        await link.close()
        with pytest.raises(LinkClosed, match=r"not open\. Open the app first"):
            await link.run(COUNT, ["n"])


def test_link_can_be_opened_on_another_loop_when_the_first_is_closed(redis_server: RedisServer, redis_url: str) -> None:
    link = RedisLink(redis_url)

    async def use(*, close_first: bool, close: bool) -> None:
        if close_first:
            await link.close()
        await link.open()
        assert await link.command("PING") == b"PONG"
        if close:
            await link.close()

    asyncio.run(use(close_first=False, close=False))
    asyncio.run(use(close_first=True, close=False))
    asyncio.run(use(close_first=True, close=True))
    deadline = time.monotonic() + PATIENCE_S
    while clients(redis_server):
        assert time.monotonic() < deadline
        time.sleep(0.005)


async def test_link_that_is_open_on_a_living_loop_is_refused_to_another(link: RedisLink) -> None:
    with pytest.raises(LinkClosed, match="another event loop"):
        await asyncio.to_thread(asyncio.run, link.open())
    assert await link.command("PING") == b"PONG"


async def test_closing_fails_what_waits(redis_url: str, proxy: FaultProxy) -> None:
    link = RedisLink(proxy.url())
    await link.open()
    proxy.black_hole("to_client")
    pending = asyncio.create_task(link.command("PING"))
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.commands[-1] == b"PING")
    await link.close()
    with pytest.raises(LinkDown, match="the link was closed"):
        await pending


async def test_waiting_for_a_connection_ends_when_the_link_is_closed(private_redis: RedisServer) -> None:
    link = RedisLink(private_redis.url())
    await link.open()
    private_redis.kill9()
    await until(lambda: not link.connected)
    waiting = asyncio.create_task(link.command("PING", wait=PATIENCE_S))
    await asyncio.sleep(0)
    await link.close()
    with pytest.raises(LinkClosed):
        await waiting


# ---- commands and scripts ----


async def test_command_replies(link: RedisLink) -> None:
    assert await link.command("SET", "key", b"\x00value") == b"OK"
    assert await link.command("GET", "key") == b"\x00value"
    assert await link.command("GET", "missing") is None
    assert await link.command("INCRBY", "n", 41) == 41
    with pytest.raises(ReplyError, match="WRONGTYPE"):
        await link.command("LPUSH", "key", "x")
    assert await link.command("GET", "key") == b"\x00value"


async def test_script_is_sent_whole_once_and_by_its_hash_from_then_on(
    redis_server: RedisServer, link: RedisLink
) -> None:
    redis_server.call("CONFIG", "RESETSTAT")
    for number in range(3):
        assert await link.run(ECHO, ["key"], [number]) == [b"key", str(number).encode()]
    stats = redis_server.call("INFO", "COMMANDSTATS")
    assert stats["cmdstat_eval"]["calls"] == 1
    assert stats["cmdstat_evalsha"]["calls"] == 2


async def test_script_runs_when_the_server_has_forgotten_it(redis_server: RedisServer, link: RedisLink) -> None:
    await link.run(COUNT, ["n"])
    redis_server.call("SCRIPT", "FLUSH")
    assert await link.run(COUNT, ["n"]) == 2
    redis_server.call("SCRIPT", "FLUSH")
    assert await asyncio.gather(*(link.run(COUNT, ["n"]) for _ in range(5))) == [3, 4, 5, 6, 7]


async def test_script_error_is_raised_and_runs_it_no_second_time(link: RedisLink) -> None:
    failing = Script("redis.call('INCR', KEYS[1]); return redis.error_reply('MYCODE no')")
    with pytest.raises(ReplyError, match="MYCODE no") as raised:
        await link.run(failing, ["n"])
    assert raised.value.code == "MYCODE"
    assert await link.command("GET", "n") == b"1"


async def test_pipeline_replies_in_order_with_errors_as_values(link: RedisLink) -> None:
    replies = await link.pipeline(
        [("SET", "key", "v"), COUNT(["n"]), ("LPUSH", "key", 1), COUNT(["n"]), ECHO(["a"], ["b"])]
    )
    assert [replies[at] for at in (0, 1, 3, 4)] == [b"OK", 1, 2, [b"a", b"b"]]
    assert isinstance(replies[2], ReplyError)


async def test_pipeline_runs_what_the_server_has_forgotten(redis_server: RedisServer, link: RedisLink) -> None:
    await link.pipeline([COUNT(["n"]), ECHO(["a"], ["b"])])
    redis_server.call("SCRIPT", "FLUSH")
    calls = [COUNT(["n"]), ("INCR", "m"), COUNT(["n"]), ECHO(["a"], ["c"])]
    assert await link.pipeline(calls) == [2, 1, 3, [b"a", b"c"]]


async def test_pipeline_of_nothing_is_nothing(link: RedisLink) -> None:
    assert await link.pipeline([], wait=1.0) == []


async def test_pipeline_is_one_round_trip(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url())
    proxy.delay(0.05)
    begun = time.monotonic()
    assert await link.pipeline([COUNT(["n"]) for _ in range(200)]) == list(range(1, 201))
    assert time.monotonic() - begun < 200 * 0.1
    proxy.heal()


async def test_ten_thousand_callers_at_once_get_their_own_replies(link: RedisLink) -> None:
    replies = await asyncio.gather(*(link.run(ECHO, [f"key{number}"], [number]) for number in range(10_000)))
    assert replies == [[f"key{number}".encode(), str(number).encode()] for number in range(10_000)]


async def test_large_values_pass(link: RedisLink) -> None:
    value = random.Random(1).randbytes(3_000_000)
    assert await link.run(ECHO, ["key"], [value]) == [b"key", value]


@pytest.mark.parametrize("seed", range(5))
async def test_cancelled_callers_leave_the_others_their_own_replies(
    proxy: FaultProxy, open_link: Open, seed: int
) -> None:
    link = await open_link(proxy.url())
    proxy.delay(0.001)
    chance = random.Random(seed)
    right = 0

    async def call(number: int) -> None:
        nonlocal right
        for turn in range(10):
            args = [f"{number}.{turn}"]
            if chance.random() < 0.3:
                replies = await link.pipeline([ECHO(["a"], args), ("NOPE",), ECHO(["b"], args)])
                assert replies[0] == [b"a", args[0].encode()]
                assert isinstance(replies[1], ReplyError)
                assert replies[2] == [b"b", args[0].encode()]
            else:
                assert await link.run(ECHO, ["k"], args) == [b"k", args[0].encode()]
            right += 1

    tasks = [asyncio.create_task(call(number)) for number in range(40)]
    for _ in range(60):
        for _ in range(chance.randrange(20)):
            await asyncio.sleep(0)
        chance.choice(tasks).cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert result is None or isinstance(result, asyncio.CancelledError), result
    assert right > 40
    assert await link.run(ECHO, ["last"], [1]) == [b"last", b"1"]
    assert proxy.connections == 1
    proxy.heal()


# ---- what it costs to have it ----


def test_importing_the_connections_imports_no_driver() -> None:
    code = "import sys, aiotask, aiotask.connections; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {name for name in loaded if name.split(".")[0] in {"redis", "hiredis"}}
