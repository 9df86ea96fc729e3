"""The stream of revoked ids on RabbitMQ: lost and replaced connections and streams, and servers that have none."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.rabbitmq import RabbitServer
from yarl import URL

from aiotask import AioTask
from aiotask.brokers.amqp import AmqpBroker
from aiotask.brokers.amqp.revokes import ARGUMENTS
from aiotask.connections.amqp import AmqpLink, Message
from aiotask.exceptions import BrokerError
from aiotask.message import Envelope, Settlement, Start, Verdict, new_id
from aiotask.states import REVOKED

QUEUE = "work"
STREAM = "aiotask.revokes"
PATIENCE_S = 30.0
WITHOUT_STREAMS = (
    "FEATURE_FLAGS=quorum_queue,implicit_default_bindings,virtual_host_metadata,maintenance_mode_status,user_limits\n"
)
WARNING = "Tasks that were revoked may start here"


@pytest.fixture
async def broker(rabbit_url: str) -> AsyncIterator[AmqpBroker]:
    broker = AmqpBroker(AmqpLink(rabbit_url))
    await broker.open()
    yield broker
    await broker.close()


async def subscribe(broker: AmqpBroker) -> Any:
    return await broker.subscribe([QUEUE], consumer=new_id(), lease=20.0, max_losses=4)


async def verdict(broker: AmqpBroker, subscription: Any, task_id: str) -> Verdict:
    """Send a message of this task, and begin it."""
    await broker.publish([Envelope(task_id, QUEUE, b"body", "x/y")])
    async with asyncio.timeout(PATIENCE_S):
        while not (taken := await subscription.receive(1, 1.0)):
            pass
    [found] = await subscription.begin([Start(taken[0], acks_late=True)])
    await subscription.settle([Settlement(taken[0])])
    return Verdict(found)


async def learned(broker: AmqpBroker, subscription: Any, task_id: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while await verdict(broker, subscription, task_id) is not Verdict.REVOKED:
            pass


async def delete_stream(broker: AmqpBroker) -> None:
    channel = await broker.link.channel()
    await channel.delete_queue(STREAM)
    await channel.close()


async def write(broker: AmqpBroker, *bodies: bytes) -> None:
    channel = await broker.link.channel(confirms=True)
    entries = [Message(STREAM, body, str(number)) for number, body in enumerate(bodies)]
    assert await channel.publish(entries, PATIENCE_S) == [None] * len(bodies)
    await channel.close()


async def test_what_was_revoked_is_known_before_anything_comes_when_the_connection_was_lost(
    broker: AmqpBroker, rabbit_url: str
) -> None:
    """Also of what was revoked while it was away: nothing is consumed before all of it has been read."""
    await broker.revoke(["before"])
    url = URL(rabbit_url)
    with FaultProxy(url.port or 0) as proxy:
        away = AmqpBroker(AmqpLink(str(url.with_port(proxy.port))))
        await away.open()
        subscription = await subscribe(away)
        for number in range(10):
            proxy.refuse()
            proxy.cut()
            async with asyncio.timeout(PATIENCE_S):
                while subscription.link.connected:
                    await asyncio.sleep(0.001)
            await broker.revoke([f"meanwhile-{number}"])
            proxy.heal()
            assert await verdict(broker, subscription, f"meanwhile-{number}") is Verdict.REVOKED
        assert await verdict(broker, subscription, "before") is Verdict.REVOKED
        assert await verdict(broker, subscription, "another") is Verdict.RUN
        await away.close()


async def test_all_of_a_long_stream_is_known_when_the_first_message_comes(broker: AmqpBroker) -> None:
    """Longer than what comes before anything is acknowledged. The queues are there: nothing else takes time."""
    await (await subscribe(broker)).close()
    await broker.revoke(["first"])
    await write(broker, *(b'["%d"]' % number for number in range(20_000)))
    await broker.revoke(["last"])
    await broker.publish([Envelope("last", QUEUE, b"body", "x/y")])
    subscription = await subscribe(broker)
    [delivery] = await subscription.receive(1, PATIENCE_S)
    assert await subscription.begin([Start(delivery)]) == [Verdict.REVOKED]
    await subscription.settle([Settlement(delivery)])


@pytest.mark.parametrize("entries", [0, 1, 20])
async def test_stream_that_was_replaced_while_nobody_was_connected_is_read_from_its_start(
    broker: AmqpBroker, entries: int
) -> None:
    """Shorter, as long, and longer than the one that was read before."""
    for number in range(5):
        await broker.revoke([f"old-{number}"])
    subscription = await subscribe(broker)
    subscription.link.cut()
    channel = await broker.link.channel(confirms=True)
    await channel.delete_queue(STREAM)
    await channel.declare_queue(STREAM, ARGUMENTS)
    ids = [f"new-{number}" for number in range(entries)]
    if ids:
        await write(broker, *(b'["%s"]' % id_.encode() for id_ in ids))
    for id_ in ids[:1] + ids[-1:]:
        await learned(broker, subscription, id_)
    assert await verdict(broker, subscription, "old-4") is Verdict.REVOKED


async def test_stream_that_is_deleted_is_made_again(broker: AmqpBroker) -> None:
    await broker.revoke(["before"])
    subscription = await subscribe(broker)
    await delete_stream(broker)
    await broker.revoke(["after"])
    await learned(broker, subscription, "after")
    later = await subscribe(broker)
    assert await verdict(broker, subscription, "after") is Verdict.REVOKED
    await later.close()


async def test_what_another_program_has_written_is_passed_over(
    broker: AmqpBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.revoke(["first"])
    await write(broker, b"", b"\xff", b"[1]", b'{"a": 1}', b"[" * 10_000)
    await broker.revoke(["last"])
    subscription = await subscribe(broker)
    for id_ in ("first", "last"):
        assert await verdict(broker, subscription, id_) is Verdict.REVOKED
    assert len([record for record in caplog.records if "is no list of task ids" in record.message]) == 5


async def test_start_of_a_worker_writes_nothing_to_a_stream_that_is_there(
    broker: AmqpBroker, shared_rabbit: RabbitServer
) -> None:
    """Or restarts would push out what was revoked."""
    await (await subscribe(broker)).close()
    offsets = []
    for _ in range(2):
        subscription = await subscribe(broker)
        subscription.link.cut()
        await subscription.receive(1, 0.1)
        offsets.append(subscription._revokes._last)
        await subscription.close()
    assert offsets[0] == offsets[1]
    assert offsets[0].offset == 0


@pytest.fixture
def someone(shared_rabbit: RabbitServer) -> str:
    name = f"someone-{new_id()[-8:]}"
    shared_rabbit.evaluate(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"secret">>, <<"test">>).')
    return name


async def runs_without(url: str, caplog: pytest.LogCaptureFixture, *parts: str) -> None:
    """See that a worker runs tasks, warns once, and that to revoke is refused, in words that have these parts."""
    async with AioTask("shop", broker=url) as app:

        @app.task(name="shop.add")
        async def add(x: int, y: int) -> int:
            return x + y

        async with app.worker():
            assert await (await add.delay(1, 2)).get(timeout=PATIENCE_S) == 3
            with pytest.raises(BrokerError) as caught:
                await app.control.revoke("an-id")
            assert await (await add.delay(1, 2)).get(timeout=PATIENCE_S) == 3
    [warning] = [record for record in caplog.records if WARNING in record.message]
    assert warning.levelno == logging.WARNING
    for part in parts:
        assert part in str(caught.value)
        assert part in warning.message


async def test_worker_runs_without_the_stream_when_its_user_may_not_use_it(
    shared_rabbit: RabbitServer, rabbit_url: str, someone: str, caplog: pytest.LogCaptureFixture
) -> None:
    vhost = rabbit_url.rpartition("/")[2]
    shared_rabbit.allow(vhost, user=someone, allowed=f"^(?!{STREAM}$).*")
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    await runs_without(url, caplog, STREAM, "rabbitmqctl set_permissions")


async def test_worker_runs_without_the_stream_when_the_server_has_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it is after an upgrade from a version without them: the feature is not enabled."""
    folder = tmp_path / "rabbitmq"
    folder.mkdir()
    (folder / "env.conf").write_text(WITHOUT_STREAMS)
    with RabbitServer(folder) as server:
        await runs_without(server.url(), caplog, STREAM, "rabbitmqctl enable_feature_flag all")


async def test_revoke_holds_where_no_worker_can_be_asked(
    shared_rabbit: RabbitServer, rabbit_url: str, someone: str
) -> None:
    """It is kept first. The error is that of what is missing."""
    vhost = rabbit_url.rpartition("/")[2]
    shared_rabbit.allow(vhost, user=someone, allowed="^(?!.*pidbox$).*")
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    async with AioTask("shop", broker=url) as app:

        @app.task(name="shop.add")
        async def add(x: int, y: int) -> int:
            return x + y

        added = await add.delay(1, 2)
        with pytest.raises(BrokerError, match=r"celery\.pidbox"):
            await added.revoke()
        async with app.worker():
            async with asyncio.timeout(PATIENCE_S):
                while not await added.ready():
                    await asyncio.sleep(0.02)
            assert await added.state() == REVOKED


# ---- asking ----


async def entered(broker: AmqpBroker, *nodes: str) -> list[Callable[[], Awaitable[Any]]]:
    """Listen as these nodes; return what ends that."""
    contexts = [broker.answering(node, {"ping": lambda _: "pong"}) for node in nodes]
    for context in contexts:
        await context.__aenter__()
    async with asyncio.timeout(PATIENCE_S):
        while set(await broker.ask("ping", {}, destination=nodes, timeout=0.1)) != set(nodes):
            pass
    return [lambda context=context: context.__aexit__() for context in contexts]  # type: ignore[misc]


async def test_all_that_listen_have_answered_when_nobody_is_named(broker: AmqpBroker) -> None:
    """It is known how many there are: the timeout is never reached."""
    ends = await entered(broker, "one@host", "two@host")
    async with asyncio.timeout(PATIENCE_S):
        assert await broker.ask("ping", {}, destination=None, timeout=3600.0) == {
            "one@host": "pong",
            "two@host": "pong",
        }
        await ends.pop()()
        assert await broker.ask("ping", {}, destination=None, timeout=3600.0) == {"one@host": "pong"}
    await ends.pop()()


async def test_error_is_raised_when_the_connection_is_lost_while_answers_are_waited_for(broker: AmqpBroker) -> None:
    """No answer is no sign that nobody is there."""
    asking = asyncio.create_task(broker.ask("ping", {}, destination=["nobody@host"], timeout=3600.0))
    await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE_S):
        while not asking.done():
            broker.link.cut()
            await asyncio.sleep(0.05)
    with pytest.raises(BrokerError):
        await asking
