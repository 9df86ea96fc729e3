"""What is published, heard on a connection of its own. On a real server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.conditions import PATIENCE_S, until
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.connections.redis import LinkClosed, LinkDown, Listener, RedisLink, ReplyError, wire
from aiotask.connections.redis.commands import pack_command

Open = Callable[..., Awaitable[RedisLink]]


class Ear:
    """Notes what a listener hears, and lets a test wait for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.gaps = 0
        self.failing = 0

    def on_message(self, channel: str, payload: bytes) -> None:
        if self.failing:
            self.failing -= 1
            raise ZeroDivisionError
        self.heard.append((channel, payload))

    def on_gap(self) -> None:
        self.gaps += 1
        if self.failing:
            self.failing -= 1
            raise ZeroDivisionError


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
async def listen(ear: Ear) -> AsyncIterator[Callable[[RedisLink], Listener]]:
    """Makes listeners, closed after the test."""
    listeners: list[Listener] = []

    def listen(link: RedisLink) -> Listener:
        listeners.append(Listener(link, ear.on_message, ear.on_gap))
        return listeners[-1]

    yield listen
    for one in listeners:
        await one.close()


Listen = Callable[[RedisLink], Listener]


def subscribers(server: RedisServer, channel: str) -> int:
    return server.call("PUBSUB", "NUMSUB", channel)[1]  # type: ignore[no-any-return]


async def test_what_is_published_after_subscribing_is_heard_in_order(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen
) -> None:
    await listen(link).subscribe("a", "b")
    for number in range(5):
        assert redis_server.call("PUBLISH", "ab"[number % 2], number) == 1
    redis_server.call("PUBLISH", "c", "not heard")
    await until(lambda: len(ear.heard) == 5)
    assert ear.heard == [("ab"[number % 2], str(number).encode()) for number in range(5)]
    assert ear.gaps == 0


async def test_channel_that_is_left_is_heard_no_more(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen
) -> None:
    one = listen(link)
    await one.subscribe("a", "b")
    await one.unsubscribe("a")
    await until(lambda: subscribers(redis_server, "a") == 0)
    redis_server.call("PUBLISH", "b", "heard")
    await until(lambda: ear.heard)
    assert ear.heard == [("b", b"heard")]
    await one.unsubscribe("b", "never subscribed")
    await until(lambda: subscribers(redis_server, "b") == 0)
    await one.subscribe("a")
    redis_server.call("PUBLISH", "a", "again")
    await until(lambda: len(ear.heard) == 2)


async def test_channel_subscribed_twice_is_left_when_it_is_left_twice(
    redis_server: RedisServer, link: RedisLink, listen: Listen
) -> None:
    one = listen(link)
    await asyncio.gather(one.subscribe("a"), one.subscribe("a"))
    await one.unsubscribe("a")
    await one.subscribe("b")  # a round trip later
    assert subscribers(redis_server, "a") == 1
    await one.unsubscribe("a")
    await until(lambda: subscribers(redis_server, "a") == 0)


async def test_subscribing_that_is_cancelled_leaves_nothing(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open, listen: Listen
) -> None:
    one = listen(await open_link(proxy.url()))
    await one.subscribe("a")
    before = proxy.commands.count(b"SUBSCRIBE")
    proxy.delay(0.05)
    subscribing = asyncio.create_task(one.subscribe("a", "b"))
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.commands.count(b"SUBSCRIBE") == before + 2)
    subscribing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await subscribing
    await until(lambda: subscribers(redis_server, "b") == 0)
    assert subscribers(redis_server, "a") == 1
    proxy.heal()


async def test_lost_connection_is_subscribed_again_and_told_as_a_gap(
    private_redis: RedisServer, open_link: Open, ear: Ear, listen: Listen
) -> None:
    link = await open_link(private_redis.url())
    one = listen(link)
    await one.subscribe("a")
    for times in range(1, 4):
        private_redis.kill9()
        await until(lambda: not one.connected)
        private_redis.start()
        await until(lambda times=times: ear.gaps == times)
        assert one.connected
        assert private_redis.call("PUBLISH", "a", times) == 1
        await until(lambda times=times: len(ear.heard) == times)


async def test_subscribing_waits_for_the_connection(
    private_redis: RedisServer, open_link: Open, ear: Ear, listen: Listen
) -> None:
    link = await open_link(private_redis.url())
    one = listen(link)
    await one.subscribe("a")
    private_redis.kill9()
    await until(lambda: not one.connected)
    with pytest.raises(LinkDown, match="to listen on"):
        await one.subscribe("b", wait=0.05)
    subscribing = asyncio.create_task(one.subscribe("c", wait=PATIENCE_S))
    private_redis.start()
    await subscribing
    assert [subscribers(private_redis, channel) for channel in "abc"] == [1, 0, 1]


async def test_connection_that_is_lost_as_soon_as_it_is_made_is_waited_for_again(
    redis_server: RedisServer, link: RedisLink, listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = listen(link)
    made: list[wire.Wire] = []
    speak_3 = wire.Wire.speak_3

    async def speak_3_for_the_last_time(self: wire.Wire) -> None:
        await speak_3(self)
        made.append(self)
        if len(made) == 1:  # two iterations later it stands, and who waits for it has not run yet
            asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(self.close, "a cut"))

    monkeypatch.setattr(wire.Wire, "speak_3", speak_3_for_the_last_time)
    await one.subscribe("a")
    assert len(made) == 2
    assert subscribers(redis_server, "a") == 1


async def test_only_the_listeners_connection_is_lost_and_remade(
    proxy: FaultProxy, redis_server: RedisServer, open_link: Open, ear: Ear, listen: Listen
) -> None:
    link = await open_link(proxy.url())
    one = listen(link)
    await one.subscribe("a")
    redis_server.call("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: ear.gaps == 1)
    assert link.connected
    assert redis_server.call("PUBLISH", "a", "x") == 1
    await until(lambda: ear.heard)


async def test_half_open_connection_is_noticed_though_nothing_is_sent(
    proxy: FaultProxy, open_link: Open, ear: Ear, listen: Listen
) -> None:
    link = await open_link(proxy.url(), command_timeout=0.2, connection_timeout=0.2)
    one = listen(link)
    await one.subscribe("a")
    proxy.black_hole()
    await until(lambda: not one.connected)
    proxy.heal()
    await until(lambda: ear.gaps == 1)
    await link.wait_connected(PATIENCE_S)
    await link.command("PUBLISH", "a", "x")
    await until(lambda: ear.heard == [("a", b"x")])


async def test_failing_handler_is_logged_and_the_next_message_handled(
    link: RedisLink, ear: Ear, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    await listen(link).subscribe("a")
    ear.failing = 1
    await link.pipeline([("PUBLISH", "a", 1), ("PUBLISH", "a", 2)])
    await until(lambda: ear.heard == [("a", b"2")])
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_failing_gap_is_logged_and_listening_goes_on(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    one = listen(link)
    await one.subscribe("a")
    ear.failing = 1
    redis_server.call("CLIENT", "KILL", "TYPE", "pubsub")
    await until(lambda: ear.gaps == 1)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await one.subscribe("b")
    assert redis_server.call("PUBLISH", "a", "x") == 1
    await until(lambda: ear.heard == [("a", b"x")])


async def test_command_behind_a_subscription_finds_all_that_is_not_heard(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen
) -> None:
    """A writer stores a number and publishes it, again and again: the first one heard follows the one that is found."""
    one = listen(link)
    writing = True

    def write() -> None:
        number = 0
        while writing:
            number += 1
            redis_server.call("SET", "number", number)
            redis_server.call("PUBLISH", "a", number)

    writer = asyncio.create_task(asyncio.to_thread(write))
    try:
        for _ in range(20):
            ear.heard.clear()
            [found] = await one.subscribe("a", then=("MGET", "number"))
            await until(lambda: len(ear.heard) >= 2)
            heard = [int(payload) for _, payload in ear.heard]
            assert heard[0] in (int(found or 0), int(found or 0) + 1)
            await one.unsubscribe("a")
            await one.subscribe("b")  # a round trip: what was on its way has come
    finally:
        writing = False
        await writer


async def test_reply_that_looks_like_a_message_is_none(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen
) -> None:
    redis_server.call("MSET", "1", "message", "2", "a", "3", "x")
    assert await listen(link).subscribe("a", then=("MGET", "1", "2", "3")) == [b"message", b"a", b"x"]
    assert ear.heard == []


async def test_subscription_has_no_effect_when_the_command_behind_it_fails(
    redis_server: RedisServer, link: RedisLink, listen: Listen
) -> None:
    with pytest.raises(ReplyError, match="wrong number of arguments"):
        await listen(link).subscribe("a", then=("MGET",))
    await until(lambda: subscribers(redis_server, "a") == 0)


async def test_command_is_left_to_others_when_its_reply_is_longer_than_who_listens_may_get(
    private_redis: RedisServer, open_link: Open, ear: Ear, listen: Listen
) -> None:
    private_redis.call("CONFIG", "SET", "client-output-buffer-limit", "pubsub 100000 0 0")
    private_redis.call("SET", "long", b"x" * 10_000_000)
    one = listen(await open_link(private_redis.url()))
    assert await one.subscribe("a", then=("MGET", "long"), wait=PATIENCE_S) is None
    assert private_redis.call("PUBLISH", "a", "x") == 1
    await until(lambda: ear.heard == [("a", b"x")])


@pytest.mark.parametrize("lacking", ["the parser", "the server"])
async def test_command_is_left_to_others_where_it_can_not_follow_a_subscription(
    redis_server: RedisServer, link: RedisLink, ear: Ear, listen: Listen, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    if lacking == "the parser":
        monkeypatch.setattr(wire, "_PUSH", None)
    else:
        monkeypatch.setattr(wire, "_HELLO_3", pack_command(("HELLO", 99)))
    one = listen(link)
    assert await one.subscribe("a", "b", then=("MGET", "a")) is None
    redis_server.call("PUBLISH", "b", "x")
    await until(lambda: ear.heard == [("b", b"x")])


async def test_channel_that_the_user_may_not_hear_is_an_error(
    redis_server: RedisServer, open_link: Open, ear: Ear, listen: Listen
) -> None:
    redis_server.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "resetchannels", "&good*")
    try:
        link = await open_link(f"redis://limited:pw@127.0.0.1:{redis_server.port}/0")
        one = listen(link)
        await one.subscribe("good1")
        with pytest.raises(ReplyError, match="NOPERM"):
            await one.subscribe("bad", "good2")
        await until(lambda: subscribers(redis_server, "good2") == 0)
        redis_server.call("PUBLISH", "good1", "x")
        await until(lambda: ear.heard)
    finally:
        redis_server.call("ACL", "DELUSER", "limited")


async def test_closed_listener_is_gone_from_the_server(
    redis_server: RedisServer, link: RedisLink, listen: Listen
) -> None:
    one = listen(link)
    await one.subscribe("a")
    await one.close()
    await one.close()
    await until(lambda: subscribers(redis_server, "a") == 0)
    with pytest.raises(LinkClosed):
        await one.subscribe("a")


async def test_listener_ends_with_its_link(redis_server: RedisServer, redis_url: str, ear: Ear, listen: Listen) -> None:
    link = RedisLink(redis_url)
    await link.open()
    one = listen(link)
    await one.subscribe("a")
    await link.close()
    await until(lambda: subscribers(redis_server, "a") == 0)
    with pytest.raises(LinkClosed):
        await one.subscribe("b")
    await one.unsubscribe("a")
