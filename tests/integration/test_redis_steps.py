"""Steps of the Redis broker that only their cost, or their repetition, shows."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.brokers.redis import RedisBroker
from aiotask.brokers.redis.entries import pack_message
from aiotask.brokers.redis.keys import Keys
from aiotask.brokers.redis.packing import pack_envelopes
from aiotask.brokers.redis.scripts import ENQUEUE
from aiotask.brokers.redis.subscription import RedisSubscription
from aiotask.connections.redis import RedisLink
from aiotask.exceptions import BrokerError
from aiotask.message import Envelope, Start, Verdict

PATIENCE_S = 20.0


@pytest.fixture
async def broker(redis_server: RedisServer) -> AsyncIterator[RedisBroker]:
    broker = RedisBroker(RedisLink(redis_server.url()))
    await broker.open()
    yield broker
    await broker.close()


def envelope(id_: str, **times: float) -> Envelope:
    return Envelope(id_, "mail", b"body", "type", **times)


def scripts_run(server: RedisServer) -> int:
    with server.client() as client:
        stats = client.info("commandstats")
    return sum(stats.get(name, {"calls": 0})["calls"] for name in ("cmdstat_eval", "cmdstat_evalsha"))


async def until_blocked(server: RedisServer) -> None:
    with server.client() as client:
        async with asyncio.timeout(PATIENCE_S):
            while not client.info("clients")["blocked_clients"]:
                await asyncio.sleep(0)


async def test_receive_asks_only_when_it_is_woken_when_nothing_was_left(
    redis_server: RedisServer, broker: RedisBroker
) -> None:
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    received = []
    for number in range(2):
        before = scripts_run(redis_server)
        receiving = asyncio.create_task(subscription.receive(10, PATIENCE_S))
        await until_blocked(redis_server)
        assert scripts_run(redis_server) - before == (1 if number == 0 else 0)
        await broker.publish([envelope(str(number))])
        received += [each.id for each in await receiving]
    assert received == ["0", "1"]


async def test_receive_asks_at_once_when_as_many_came_as_were_asked_for(broker: RedisBroker) -> None:
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    await broker.publish([envelope("first"), envelope("second")])
    assert [each.id for each in await subscription.receive(1, PATIENCE_S)] == ["first"]
    assert [each.id for each in await subscription.receive(1, PATIENCE_S)] == ["second"]


@pytest.mark.parametrize(
    ("before", "batch"),
    [
        ([], [envelope("new line")]),
        ([envelope("a")], [envelope("b"), envelope("c")]),
        ([envelope("a"), envelope("later", delay_s=60.0)], [envelope("beside a delayed one")]),
        ([envelope("a")], [envelope("b"), envelope("expires", ttl_s=60.0)]),
    ],
    ids=["first", "line in use", "delayed", "two runs"],
)
async def test_batch_is_stored_once_when_it_is_sent_twice(
    redis_server: RedisServer, broker: RedisBroker, before: list[Envelope], batch: list[Envelope]
) -> None:
    if before:
        await broker.publish(before)
    stored = redis_server.call("XLEN", "aiotask:{mail}:s:5")
    parcel = pack_envelopes(Keys("aiotask"), batch)
    for _ in range(2):
        await broker.link.run(ENQUEUE, parcel.prefixes, ("lane", 1, *parcel.args))
    assert redis_server.call("XLEN", "aiotask:{mail}:s:5") == stored + len(batch)
    await broker.link.run(ENQUEUE, parcel.prefixes, ("lane", 2, *parcel.args))
    assert redis_server.call("XLEN", "aiotask:{mail}:s:5") == stored + 2 * len(batch)


async def test_messages_are_handed_out_and_started_by_one_script(
    redis_server: RedisServer, broker: RedisBroker
) -> None:
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    await broker.publish([envelope("a"), envelope("b", ttl_s=60.0), envelope("c")])
    before = scripts_run(redis_server)
    taken = await subscription.receive_and_begin(3, PATIENCE_S, 2)
    assert scripts_run(redis_server) - before == 1
    assert [(each.id, each.begun) for each in taken] == [("a", True), ("b", True), ("c", False)]
    consumers = redis_server.call("XPENDING", "aiotask:{mail}:s:5", "w")["consumers"]
    assert {each["name"].endswith(b"!"): each["pending"] for each in consumers} == {True: 2, False: 1}


@pytest.fixture
async def cut_off(redis_server: RedisServer) -> AsyncIterator[RedisSubscription]:
    """A subscription that has started a message, as its reply says, which is lost."""
    with FaultProxy(redis_server.port) as proxy:
        broker = RedisBroker(RedisLink(proxy.url()))
        await broker.open()
        subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
        await broker.publish([envelope("a")])
        proxy.cut_after(commands=1)
        assert await subscription.receive_and_begin(1, 0.0, 1) == []
        assert proxy.planned is None
        assert redis_server.call("XPENDING", "aiotask:{mail}:s:5", "w")["pending"] == 1
        yield subscription
        await broker.close()


async def test_message_comes_again_as_never_lost_when_the_reply_that_started_it_was(
    cut_off: RedisSubscription,
) -> None:
    [delivery] = await cut_off.receive_and_begin(1, PATIENCE_S, 1)
    assert (delivery.id, delivery.losses, delivery.begun) == ("a", 0, True)


async def test_closing_counts_no_loss_when_the_reply_that_started_a_message_was_lost(
    cut_off: RedisSubscription, broker: RedisBroker
) -> None:
    await cut_off.close()
    heir = await broker.subscribe(["mail"], consumer="heir", lease=60.0, max_losses=4)
    [delivery] = await heir.receive(1, PATIENCE_S)
    assert (delivery.id, delivery.losses, delivery.delivery_count) == ("a", 0, 2)


# ---- revokes ----


def calls_of(server: RedisServer, *commands: str) -> list[int]:
    """Count how often each of some commands was called, by scripts too."""
    with server.client() as client:
        stats = client.info("commandstats")
    return [stats.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in commands]


@pytest.mark.parametrize(("revoked", "looked_up"), [([], 0), (["another"], 1)], ids=["nothing revoked", "revoked"])
async def test_batch_costs_one_command_more_or_two_when_anything_is_revoked(
    redis_server: RedisServer, broker: RedisBroker, revoked: list[str], looked_up: int
) -> None:
    await broker.revoke(revoked)
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    await broker.publish([envelope(str(number)) for number in range(40)])
    before = calls_of(redis_server, "exists", "zmscore")
    assert all(each.begun for each in await subscription.receive_and_begin(20, PATIENCE_S, 20))
    exists, zmscore = calls_of(redis_server, "exists", "zmscore")
    assert [exists - before[0], zmscore - before[1]] == [1, looked_up]
    taken = await subscription.receive(20, PATIENCE_S)
    assert calls_of(redis_server, "exists", "zmscore") == [exists, zmscore]
    assert await subscription.begin([Start(each) for each in taken]) == [Verdict.RUN] * 20
    assert calls_of(redis_server, "exists", "zmscore") == [exists + 1, zmscore + looked_up]


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 70_000])
async def test_message_is_not_begun_when_it_is_revoked_however_long_its_id_is(broker: RedisBroker, length: int) -> None:
    batch = [envelope(name * length) for name in "ab"]
    await broker.revoke([batch[0].id])
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    await broker.publish(batch[: length + 1])
    taken = await subscription.receive_and_begin(2, PATIENCE_S, 2)
    assert [each.id for each in taken] == [each.id for each in batch[: length + 1]]
    assert not taken[0].begun
    verdicts = [Verdict.REVOKED, Verdict.RUN]
    assert await subscription.begin([Start(each) for each in taken]) == verdicts[: length + 1]


async def test_message_is_not_begun_when_it_is_revoked_and_packed_by_another_program(
    redis_server: RedisServer, broker: RedisBroker
) -> None:
    await broker.revoke(["a"])
    await broker.publish([envelope("first")])
    packed = b"\xdc\x00\x04" + pack_message(envelope("a"))[1:]  # an array whose length is said in two bytes
    redis_server.call("XADD", "aiotask:{mail}:s:5", "*", "x", 10**14, "e", packed)
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    taken = await subscription.receive_and_begin(2, PATIENCE_S, 2)
    assert [(each.id, each.begun) for each in taken] == [("first", True), ("a", False)]
    assert await subscription.begin([Start(taken[1])]) == [Verdict.REVOKED]


@pytest.mark.parametrize("unreadable", [b"", b"\x94", b"\x94\xd9", b"\x94\xd9\xff", b"\x94\xbfa", b"\x01\x01", b"text"])
async def test_messages_are_handed_out_when_one_can_not_be_read_and_anything_is_revoked(
    redis_server: RedisServer, broker: RedisBroker, unreadable: bytes
) -> None:
    await broker.revoke(["another"])
    await broker.publish([envelope("a")])
    redis_server.call("XADD", "aiotask:{mail}:s:5", "*", "e", unreadable)
    redis_server.call("XADD", "aiotask:{mail}:s:5", "*", "y", "no message")
    await broker.publish([envelope("b")])
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    taken = await subscription.receive_and_begin(4, PATIENCE_S, 4)
    assert [each.content_type for each in taken] == ["type", "", "", "type"]
    assert [taken[0].begun, taken[3].begun] == [True, True]


async def test_more_than_a_thousand_are_judged_in_their_order(broker: RedisBroker) -> None:
    batch = [envelope(str(number)) for number in range(2500)]
    await broker.revoke([each.id for each in batch[::250]])
    await broker.publish(batch)
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    taken = await subscription.receive_and_begin(2500, PATIENCE_S, 2500)
    assert [each.id for each in taken] == [each.id for each in batch]
    assert [each.id for each in taken if not each.begun] == [each.id for each in batch[::250]]
    verdicts = await subscription.begin([Start(each) for each in taken])
    assert [verdict is Verdict.REVOKED for verdict in verdicts] == [number % 250 == 0 for number in range(2500)]


async def test_revoke_holds_when_its_reply_was_lost(redis_server: RedisServer) -> None:
    with FaultProxy(redis_server.port) as proxy:
        broker = RedisBroker(RedisLink(proxy.url()))
        await broker.open()
        await broker.revoke(["first"])
        proxy.cut_after(commands=1)
        await broker.revoke(["a", "b"])
        assert proxy.planned is None
        assert redis_server.call("ZRANGE", "aiotask:revoked", 0, -1) == [b"first", b"a", b"b"]
        await broker.close()


async def test_nothing_is_revoked_when_the_server_was_emptied_under_a_subscription(
    redis_server: RedisServer, broker: RedisBroker
) -> None:
    await broker.revoke(["a"])
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    redis_server.call("FLUSHALL")
    await broker.publish([envelope("a")])
    assert [each.begun for each in await subscription.receive_and_begin(1, PATIENCE_S, 1)] == [True]


async def test_key_of_the_revokes_that_another_program_owns_is_told(
    redis_server: RedisServer, broker: RedisBroker
) -> None:
    redis_server.call("SET", "aiotask:revoked", "theirs")
    told = "'aiotask:revoked' .* is a string, and should be a zset"
    with pytest.raises(BrokerError, match=told):
        await broker.revoke(["a"])
    with pytest.raises(BrokerError, match=told):
        await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    assert redis_server.call("GET", "aiotask:revoked") == b"theirs"


async def test_revoke_outlives_the_server_as_messages_do(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    broker = RedisBroker(RedisLink(server.url()))
    await broker.open()
    subscription = await broker.subscribe(["mail"], consumer="c", lease=60.0, max_losses=4)
    await broker.publish([envelope("a"), envelope("b")])
    await broker.revoke(["a"])
    server.restart()
    taken = await subscription.receive_and_begin(2, PATIENCE_S, 2)
    assert [(each.id, each.begun) for each in taken] == [("a", False), ("b", True)]
    assert await subscription.begin([Start(taken[0])]) == [Verdict.REVOKED]
    await broker.close()
