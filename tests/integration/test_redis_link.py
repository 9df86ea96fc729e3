"""The link to Redis on real servers: what it carries, what it says of servers that it can't use, and every loss."""

import asyncio
import logging
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.servers.fixtures import *  # noqa: F403 - fixtures
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer, free_port

from aiotask.connections.redis import LinkClosed, LinkDown, RedisLink, ReplyError, Script, ServerRefused, Translation
from aiotask.exceptions import BackendConnectionError, BackendError, BrokerConnectionError, BrokerError, BrokerFull

Open = Callable[..., Awaitable[RedisLink]]
Start = Callable[..., RedisServer]

ECHO = Script("return {KEYS[1], ARGV[1]}", "echo")
COUNT = Script("return redis.call('INCR', KEYS[1])", "count")
BROKER = Translation(BrokerConnectionError, BrokerError, BrokerFull)
BACKEND = Translation(BackendConnectionError, BackendError, BackendError)
PATIENCE_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def clients(server: RedisServer) -> int:
    """Count the connections that are not the asking one."""
    return server.call("CLIENT", "LIST", "TYPE", "normal").count(b"id=") - 1  # type: ignore[no-any-return]


async def restarted(server: RedisServer, link: RedisLink) -> None:
    """Kill the server and start it again; return when the link has got over it."""
    server.kill9()
    await until(lambda: not link.connected)
    server.start()
    assert await link.command("PING", wait=PATIENCE_S) == b"PONG"


async def why_refused(url: str, **options: Any) -> str:
    link = RedisLink(url, **options)
    with pytest.raises(ServerRefused) as raised:
        await link.open()
    assert not link.connected
    with pytest.raises(LinkClosed):
        await link.command("PING", wait=1.0)
    return str(raised.value)


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


# ---- servers that can't be used ----


async def test_server_that_is_gone_is_told_at_opening() -> None:
    told = await why_refused(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert "can't be reached" in told
    assert "secret" not in told


async def test_opening_that_failed_can_be_tried_again(start_redis: Start) -> None:
    server = start_redis()
    link = RedisLink(server.url())
    server.kill9()
    with pytest.raises(ServerRefused):
        await link.open()
    server.start()
    await link.open()
    assert await link.command("PING") == b"PONG"
    await link.close()


async def test_password_opens_and_is_never_shown(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(password="hunter2/@#")
    link = await open_link(server.url())
    assert await link.command("PING") == b"PONG"
    await restarted(server, link)
    told = [repr(link), caplog.text]
    told.append(await why_refused(server.url().replace("hunter2", "hunter3")))
    assert "does not accept the user or password" in told[-1]
    told.append(await why_refused(f"redis://127.0.0.1:{server.port}/0"))
    assert "asks for a password. Write it into the URL" in told[-1]
    told.append(await why_refused(f"unix://:hunter3@{server.socket_path}"))
    assert "does not accept the user or password" in told[-1]
    assert "hunter" not in "".join(told)


async def test_password_that_is_not_asked_for_is_told(redis_server: RedisServer) -> None:
    told = await why_refused(f"redis://:secret@127.0.0.1:{redis_server.port}")
    assert "without any password configured" in told


async def test_user_who_may_not_ask_about_the_server_can_use_it(redis_server: RedisServer, open_link: Open) -> None:
    redis_server.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-@dangerous", "-@admin")
    try:
        link = await open_link(f"redis://limited:pw@127.0.0.1:{redis_server.port}/0")
        assert link.server is not None
        assert link.server.version >= (6, 2)
        assert await link.run(COUNT, ["n"]) == 1
        with pytest.raises(BrokerError, match=r"does not allow this user.*ACL"), link.translating(BROKER):
            await link.command("FLUSHALL")
    finally:
        redis_server.call("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("form", ["unix://{}?db=2", "redis+unix://{}?db=2", "redis+socket://{}?virtual_host=2"])
async def test_unix_socket(private_redis: RedisServer, open_link: Open, form: str) -> None:
    link = await open_link(form.format(private_redis.socket_path))
    assert await link.run(COUNT, ["n"]) == 1
    assert private_redis.call("GET", "n", db=2) == b"1"


async def test_database_of_the_url_is_used_and_one_too_many_is_told(redis_server: RedisServer, open_link: Open) -> None:
    link = await open_link(redis_server.url(5))
    await link.run(COUNT, ["n"])
    assert redis_server.call("GET", "n", db=5) == b"1"
    assert "lets nobody in by this URL: DB index is out of range" in await why_refused(redis_server.url(99))


async def test_tls(start_redis: Start, open_link: Open) -> None:
    server = start_redis(tls=True)
    link = await open_link(server.url(ssl_ca_certs=str(server.folder / "ca.crt")))
    value = "x" * 1_000_000
    assert await link.run(ECHO, ["key"], [value]) == [b"key", value.encode()]
    unchecked = await open_link(server.url(ssl_cert_reqs="CERT_NONE"))
    assert await unchecked.command("PING") == b"PONG"
    assert "CERTIFICATE_VERIFY_FAILED" in await why_refused(server.url())
    assert "rediss://" in await why_refused(server.url().replace("rediss", "redis"), connection_timeout=2.0)
    await restarted(server, link)


async def test_tls_to_a_server_without_it_is_told(redis_server: RedisServer) -> None:
    told = await why_refused(redis_server.url().replace("redis://", "rediss://"), connection_timeout=2.0)
    assert "Redis rediss://" in told


async def test_cluster_and_sentinel_are_told(start_redis: Start, tmp_path: Path) -> None:
    cluster = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    assert "Redis Cluster" in await why_refused(cluster.url())
    with sentinel_of(cluster, tmp_path) as sentinel:
        assert "?master_name=mymaster" in await why_refused(f"redis://127.0.0.1:{sentinel.port}")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_policy_that_evicts_is_warned_of_once(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    server = start_redis("--maxmemory-policy", policy, "--maxmemory", "100mb")
    link = await open_link(server.url())
    await restarted(server, link)
    [warning] = [record for record in caplog.records if "maxmemory-policy" in record.message]
    assert warning.levelno == logging.WARNING
    assert policy in warning.message
    assert "noeviction" in warning.message


async def test_policy_that_evicts_nothing_is_not_warned_of(link: RedisLink, caplog: pytest.LogCaptureFixture) -> None:
    assert link.server is not None
    assert link.server.eviction == "noeviction"
    assert not caplog.records


# ---- losses ----


async def test_connection_is_remade_after_kill_9_and_restart(
    private_redis: RedisServer, open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    link = await open_link(private_redis.url())
    states: list[bool] = []
    link.observe(states.append)
    for _ in range(3):
        assert await link.run(COUNT, ["n"]) == 1
        private_redis.kill9()
        await until(lambda: not link.connected)
        with pytest.raises(LinkDown, match=r"no connection.*Nothing was sent") as raised:
            await link.run(COUNT, ["n"])
        assert not raised.value.sent
        waiting = asyncio.create_task(link.run(ECHO, ["k"], ["v"], wait=PATIENCE_S))
        private_redis.start()
        assert await waiting == [b"k", b"v"]
        assert link.connected
    await until(lambda: len(states) == 6)
    assert states == [False, True] * 3
    assert "Lost the connection to Redis redis://" in caplog.text
    assert "again after" in caplog.text


async def test_observer_that_left_is_told_nothing(private_redis: RedisServer, open_link: Open) -> None:
    link = await open_link(private_redis.url())
    states: list[bool] = []
    link.observe(states.append)
    link.unobserve(states.append)
    link.unobserve(states.append)
    await restarted(private_redis, link)
    assert not states


async def test_calls_that_wait_in_vain_end_at_their_deadline(private_redis: RedisServer, open_link: Open) -> None:
    link = await open_link(private_redis.url())
    private_redis.kill9()
    await until(lambda: not link.connected)
    begun = time.monotonic()
    with pytest.raises(LinkDown) as raised:
        await link.command("PING", wait=0.2)
    assert not raised.value.sent
    assert time.monotonic() - begun >= 0.19


async def test_lost_reply_is_told_as_unknown_and_nothing_is_sent_twice(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open
) -> None:
    link = await open_link(proxy.url())
    proxy.cut_after(commands=1)
    with pytest.raises(LinkDown, match="nobody knows whether the server carried out the command") as raised:
        await link.run(COUNT, ["n"], wait=PATIENCE_S)
    assert raised.value.sent
    assert await link.command("PING", wait=PATIENCE_S) == b"PONG"
    assert redis_server.call("GET", "n") == b"1"


async def test_lost_reply_during_the_handshake_is_repaired(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url(1))
    handshake = len(proxy.commands)
    for number in range(1, handshake + 1):
        proxy.cut()
        proxy.cut_after(commands=number)
        await until(lambda: not link.connected)
        assert await link.run(ECHO, ["k"], [number], wait=PATIENCE_S) == [b"k", str(number).encode()]
    assert proxy.cuts == 2 * handshake


async def test_empty_reply_is_a_reply_when_one_waits_for_the_connection(
    redis_server: RedisServer, link: RedisLink
) -> None:
    counting = Script("redis.call('INCR', KEYS[1]) return {}")
    assert await link.run(counting, ["n"], wait=PATIENCE_S) == []
    assert await link.command("LRANGE", "none", 0, -1, wait=PATIENCE_S) == []
    assert await link.pipeline([("LRANGE", "none", 0, -1)], wait=PATIENCE_S) == [[]]
    assert redis_server.call("GET", "n") == b"1"


async def test_cut_after_any_reply_leaves_every_call_with_one_outcome(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open
) -> None:
    """20 callers count, and the connection is cut after the n-th reply: what is counted was answered, or is unknown.

    Two leave at once, the others an iteration of the loop later, when it may be cut already. Of the n replies some may
    never be read: a connection that is reset takes along what has come and is unread.
    """
    link = await open_link(proxy.url())
    read = 0
    for number in range(1, 21):
        redis_server.call("DEL", "n")
        proxy.cut_after(replies=number)
        outcomes = await asyncio.gather(*(link.run(COUNT, ["n"]) for _ in range(20)), return_exceptions=True)
        answered = [outcome for outcome in outcomes if isinstance(outcome, int)]
        unknown = [outcome for outcome in outcomes if isinstance(outcome, LinkDown) and outcome.sent]
        assert answered == list(range(1, len(answered) + 1))
        assert len(answered) <= number
        unsent = [outcome for outcome in outcomes if isinstance(outcome, LinkDown) and not outcome.sent]
        assert len(answered) + len(unknown) + len(unsent) == 20
        read += len(answered)
        assert len(answered) <= int(redis_server.call("GET", "n") or 0) <= len(answered) + len(unknown)
        if unknown or unsent:
            await until(lambda: not link.connected)
        await link.wait_connected(PATIENCE_S)
    assert read >= 20  # of 210; the last round is not cut


async def test_half_open_link_is_noticed_within_the_command_timeout(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open
) -> None:
    link = await open_link(proxy.url(), command_timeout=0.3, connection_timeout=0.3)
    proxy.black_hole()
    begun = time.monotonic()
    with pytest.raises(LinkDown, match=r"did not answer within 0\.3 s") as raised:
        await link.run(COUNT, ["n"])
    assert raised.value.sent
    assert 0.29 < time.monotonic() - begun < PATIENCE_S
    assert not link.connected
    proxy.heal()
    assert await link.run(COUNT, ["n"], wait=PATIENCE_S) == 1


async def test_half_open_link_is_noticed_when_nothing_is_sent(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url(), command_timeout=0.2)
    await asyncio.to_thread(proxy.wait_for, lambda proxy: b"PING" in proxy.commands)
    assert link.connected
    proxy.black_hole("to_client")
    await until(lambda: not link.connected)


async def test_frozen_server_is_noticed_and_used_again(private_redis: RedisServer, open_link: Open) -> None:
    link = await open_link(private_redis.url(), command_timeout=0.2, connection_timeout=0.2)
    private_redis.sigstop()
    with pytest.raises(LinkDown):
        await link.command("PING")
    private_redis.sigcont()
    assert await link.command("PING", wait=PATIENCE_S) == b"PONG"


async def test_loop_that_was_blocked_finds_its_link_as_it_was(proxy: FaultProxy, open_link: Open) -> None:
    link = await open_link(proxy.url(), command_timeout=0.2)
    pending = asyncio.create_task(link.run(COUNT, ["n"]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    time.sleep(0.6)  # the reply waits unread for three timeouts
    assert await pending == 1
    assert link.connected
    assert proxy.connections == 1


async def test_refused_reconnecting_goes_on_and_is_logged_once(
    proxy: FaultProxy, open_link: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotask.connections.backoff.MOST_S", 0.01)
    link = await open_link(proxy.url())
    proxy.refuse()
    proxy.cut()
    await until(lambda: "Trying again and again" in caplog.text)
    with pytest.raises(LinkDown):
        await link.command("PING", wait=0.1)
    assert caplog.text.count("Trying again and again") == 1
    proxy.heal()
    assert await link.command("PING", wait=PATIENCE_S) == b"PONG"


async def test_reconnecting_survives_what_nobody_foresaw(
    private_redis: RedisServer, open_link: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = await open_link(private_redis.url())
    connect = link._connect

    async def fail_once() -> Any:
        monkeypatch.setattr(link, "_connect", connect)
        raise ZeroDivisionError

    monkeypatch.setattr(link, "_connect", fail_once)
    await restarted(private_redis, link)
    assert "in a way that nobody foresaw" in caplog.text


# ---- the wrong server ----


def replicate(replica: RedisServer, master: RedisServer) -> None:
    replica.call("REPLICAOF", "127.0.0.1", master.port)
    deadline = time.monotonic() + PATIENCE_S
    while replica.call("ROLE")[3] != b"connected":
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_replica_is_refused_at_opening(start_redis: Start) -> None:
    master, replica = start_redis(), start_redis()
    replicate(replica, master)
    assert "read-only replica" in await why_refused(replica.url())


async def test_server_that_became_a_replica_is_left_until_it_is_the_master_again(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    other, server = start_redis(), start_redis()
    link = await open_link(server.url())
    assert await link.run(COUNT, ["n"]) == 1
    replicate(server, other)
    with pytest.raises(ReplyError, match="READONLY") as raised:
        await link.run(COUNT, ["n"])
    assert raised.value.is_stale
    assert not link.connected
    await until(lambda: "read-only replica" in caplog.text)
    waiting = asyncio.create_task(link.run(COUNT, ["n"], wait=PATIENCE_S))
    await asyncio.sleep(0)
    server.call("REPLICAOF", "NO", "ONE")
    assert await waiting == 1


async def test_call_that_waits_outlives_a_demotion(start_redis: Start, open_link: Open) -> None:
    """READONLY says that nothing was done: such a call is sent again, to whoever is the master then."""
    other, server = start_redis(), start_redis()
    link = await open_link(server.url())
    replicate(server, other)
    counting = asyncio.create_task(link.run(COUNT, ["n"], wait=PATIENCE_S))
    await until(lambda: not link.connected)
    server.call("REPLICAOF", "NO", "ONE")
    assert await counting == 1
    assert server.call("GET", "n") == b"1"


async def test_server_that_loads_is_refused_at_opening_and_waited_for_later(
    start_redis: Start, open_link: Open
) -> None:
    server = start_redis("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
    link = await open_link(server.url())
    server.call("DEBUG", "POPULATE", 400, "key", 100)
    server.call("CONFIG", "SET", "key-load-delay", 5000)
    loading = asyncio.create_task(asyncio.to_thread(server.call, "DEBUG", "RELOAD"))
    told = ""
    while "still loading" not in told and not loading.done():
        try:
            one = RedisLink(server.url())
            await one.open()
            await one.close()
        except ServerRefused as error:
            told = str(error)
    assert "still loading" in told
    assert await link.command("DBSIZE", wait=PATIENCE_S) == 400
    await loading


async def test_server_without_room_is_told_as_full(start_redis: Start, open_link: Open) -> None:
    server = start_redis("--maxmemory", "2mb")
    link = await open_link(server.url())
    fill = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    big = "x" * 100_000
    await link.pipeline([fill([f"key{number}"], [big]) for number in range(100)])
    with pytest.raises(BrokerFull, match=r"no room.*maxmemory"), link.translating(BROKER):
        await link.run(fill, ["another"], [big])
    with pytest.raises(BackendError, match="no room"), link.translating(BACKEND):
        await link.command("SET", "another", big)
    assert link.connected


async def test_server_that_can_not_write_to_its_disk_is_told_as_full(start_redis: Start, open_link: Open) -> None:
    server = start_redis("--save", "3600 1", "--enable-protected-configs", "yes")
    link = await open_link(server.url())
    folder = server.folder / "data"
    folder.mkdir()
    server.call("CONFIG", "SET", "dir", str(folder))
    shutil.rmtree(folder)
    await link.command("SET", "key", "value")
    server.call("BGSAVE")
    await until(lambda: server.call("INFO", "PERSISTENCE")["rdb_last_bgsave_status"] == "err")
    with pytest.raises(BrokerFull, match="MISCONF"), link.translating(BROKER):
        await link.run(COUNT, ["n"])
    assert link.connected


# ---- Sentinel ----


def sentinel_of(master: RedisServer, folder: Path) -> RedisServer:
    folder = folder / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        textwrap.dedent(f"""\
            sentinel monitor mymaster 127.0.0.1 {master.port} 1
            sentinel down-after-milliseconds mymaster 300
            sentinel failover-timeout mymaster 3000
            """)
    )
    sentinel = RedisServer(folder, sentinel=True).start()
    for period in ("INFO-PERIOD", "PING-PERIOD", "PUBLISH-PERIOD", "ASK-PERIOD"):  # it looks every 10 s by default
        sentinel.call("SENTINEL", "DEBUG", period, "100")
    return sentinel


def succeeds(server: RedisServer, *words: str) -> bool:
    """Ask; False where the server is not ready for it, or closes all connections since it is being promoted."""
    try:
        server.call(*words)
    except redis.exceptions.RedisError:
        return False
    return True


@pytest.mark.parametrize("kill", [False, True])
async def test_link_follows_the_master_that_sentinels_name(
    start_redis: Start, open_link: Open, tmp_path: Path, kill: bool
) -> None:
    first, second = start_redis(), start_redis("--replica-priority", "1")
    replicate(second, first)
    with sentinel_of(first, tmp_path) as sentinel:
        dead = f"sentinel://127.0.0.1:{free_port()};sentinel://127.0.0.1:{sentinel.port}/0?master_name=mymaster"
        link = await open_link(dead)
        assert await link.run(COUNT, ["n"]) == 1
        assert first.call("GET", "n") == b"1"
        await until(lambda: sentinel.call("SENTINEL", "REPLICAS", "mymaster"))
        await until(lambda: second.call("GET", "n") == b"1")
        if kill:
            first.kill9()
        else:
            await until(lambda: succeeds(sentinel, "SENTINEL", "FAILOVER", "mymaster"))
        await until(lambda: succeeds(second, "SET", "promoted", "1"))
        counted = 0
        async with asyncio.timeout(PATIENCE_S):
            while not counted or second.call("GET", "n") == b"1":
                try:
                    counted = await link.run(COUNT, ["n"], wait=1.0)
                except (LinkDown, ReplyError):  # the old master says READONLY, or is gone
                    await asyncio.sleep(0.01)
        assert counted == int(second.call("GET", "n")) >= 2


async def test_master_that_sentinels_do_not_know_is_told(start_redis: Start, tmp_path: Path) -> None:
    with sentinel_of(start_redis(), tmp_path) as sentinel:
        told = await why_refused(f"sentinel://127.0.0.1:{sentinel.port}?master_name=other")
    assert "knows no master 'other'" in told


# ---- what it costs to have it ----


def test_importing_the_connections_imports_no_driver() -> None:
    code = "import sys, aiotask, aiotask.connections; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {name for name in loaded if name.split(".")[0] in {"redis", "hiredis"}}
