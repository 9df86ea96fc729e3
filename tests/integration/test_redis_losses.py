"""The link to Redis when its connection is lost: each call has one outcome, nothing is done twice, it is made anew."""

import asyncio
import time
from typing import Any

import pytest
from tests.conditions import PATIENCE_S, until
from tests.integration.redis_links import COUNT, ECHO, Open, restarted
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.connections.redis import LinkDown, RedisLink, Script


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
