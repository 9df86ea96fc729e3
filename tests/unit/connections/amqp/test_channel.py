import asyncio
import logging
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiormq.exceptions import AMQPConnectionError
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader

from aiotask.connections.amqp import AmqpChannel, LinkDown, Message, NotRouted, NotTaken
from aiotask.connections.amqp.received import Received
from aiotask.connections.amqp.wire import Wire

NUMBER = 3


class Server:
    """The other end of a wire: what was written to it, by writes, and what it answers."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.writes: list[bytes] = []
        self.waiting_bytes = 0
        self.blocked = False
        self.drained = asyncio.Event()
        self.wire = Wire(loop)
        transport = SimpleNamespace(get_write_buffer_size=lambda: self.waiting_bytes)
        self.wire.writer = SimpleNamespace(  # type: ignore[assignment]
            write=self.writes.append, is_closing=lambda: False, transport=transport, drain=self.drained.wait
        )
        self.closing: asyncio.Future[None] = loop.create_future()
        tune = SimpleNamespace(frame_max=131072)
        driver = SimpleNamespace(
            number=NUMBER,
            closing=self.closing,
            connection=SimpleNamespace(connection_tune=tune),
            basic_consume=self._ok,
        )
        driver.basic_qos = driver.basic_cancel = self._ok
        self.channel = AmqpChannel(driver, self.wire, lambda: self.blocked, timeout=1.0, place="here")

    async def _ok(self, *_: Any, **__: Any) -> None: ...

    def frames(self) -> list[Any]:
        """Return all that was written."""
        data, found = b"".join(self.writes), []
        while data:
            used, _, frame = unmarshal(data)
            found.append(frame)
            data = data[used:]
        return found

    def say(self, *frames: Any) -> None:
        self.wire.feed_data(b"".join(marshal(frame, NUMBER) for frame in frames))

    async def publish(self, *ids: str, timeout: float = 5.0) -> "asyncio.Task[list[Exception | None]]":
        """Begin to publish; return what it will return."""
        messages = [Message("key", b"body", id_) for id_ in ids]
        publishing = asyncio.create_task(self.channel.publish(messages, timeout))
        await asyncio.sleep(0)
        return publishing

    def deliver(self, tag: int) -> None:
        content = ContentHeader(body_size=4), ContentBody(b"body")
        self.say(commands.Basic.Deliver("mine", tag, False, "", "key"), *content)


@pytest.fixture
async def server() -> Server:
    return Server()


async def test_batch_is_one_write_and_ends_with_its_last_confirm(server: Server) -> None:
    publishing = await server.publish("a", "b", "c")
    assert len(server.writes) == 1
    server.say(commands.Basic.Ack(2, True))
    await asyncio.sleep(0)
    assert not publishing.done()
    server.say(commands.Basic.Ack(3))
    assert await publishing == [None, None, None]


async def test_batches_are_numbered_one_after_the_other(server: Server) -> None:
    first, second = await server.publish("a", "b"), await server.publish("c")
    server.say(commands.Basic.Ack(3))
    assert await second == [None]
    server.say(commands.Basic.Ack(3, True))
    assert await first == [None, None]


async def test_what_was_not_taken_or_not_routed_is_told_apart(server: Server) -> None:
    publishing = await server.publish("a", "b", "c")
    returned = commands.Basic.Return(312, "NO_ROUTE", "", "key")
    server.say(returned, ContentHeader(properties=commands.Basic.Properties(message_id="b")))
    server.say(commands.Basic.Ack(2, True), commands.Basic.Nack(3))
    outcomes = await publishing
    assert [type(outcome) for outcome in outcomes] == [type(None), NotRouted, NotTaken]


async def test_what_is_not_confirmed_in_time_is_unknown_and_a_late_confirm_does_no_harm(server: Server) -> None:
    [outcome] = await (await server.publish("a", timeout=0.0))
    assert isinstance(outcome, LinkDown)
    assert outcome.sent
    later = await server.publish("b")
    server.say(commands.Basic.Ack(1))
    await asyncio.sleep(0)
    assert not later.done()
    server.say(commands.Basic.Ack(2))
    assert await later == [None]


async def test_confirms_are_waited_for_as_long_as_is_said(server: Server) -> None:
    more = [0.01, 0.01, 0.0]
    [outcome] = await server.channel.publish([Message("key", b"body", "a")], 0.0, partial(more.pop, 0))
    assert isinstance(outcome, LinkDown)
    assert more == []
    publishing = asyncio.create_task(server.channel.publish([Message("key", b"body", "b")], 0.0, lambda: 5.0))
    await asyncio.sleep(0.01)
    server.say(commands.Basic.Ack(2))
    assert await publishing == [None]


async def test_publishing_ends_when_the_channel_is_closed(server: Server) -> None:
    publishing = await server.publish("a")
    server.closing.set_exception(ConnectionError("gone"))
    [outcome] = await publishing
    assert isinstance(outcome, LinkDown)
    assert not server.channel.usable
    assert NUMBER not in server.wire.inboxes


async def test_closing_ends_when_the_driver_ends_it_with_its_connection(server: Server) -> None:
    """It cancels what waits there; who closes is not meant."""
    waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def close(**_: Any) -> None:
        await waiting

    server.channel._channel.close = close
    closing = asyncio.create_task(server.channel.close())
    await asyncio.sleep(0)
    waiting.cancel()
    await closing
    assert not server.channel.usable


async def test_closing_does_not_wait_for_a_server_that_reads_nothing(server: Server) -> None:
    reads, closed = asyncio.Event(), asyncio.Event()

    async def close(**_: Any) -> None:
        await reads.wait()
        closed.set()

    server.channel._channel.close = close
    server.blocked = True
    async with asyncio.timeout(5):
        await server.channel.close()
        assert not server.channel.usable
        reads.set()
        await closed.wait()


async def test_who_is_cancelled_while_it_closes_is_cancelled(server: Server) -> None:
    async def close(**_: Any) -> None:
        await asyncio.sleep(60)

    server.channel._channel.close = close
    closing = asyncio.create_task(server.channel.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_message_that_amqp_cannot_carry_is_refused_and_not_those_beside_it(server: Server) -> None:
    good, bad = Message("key", b"body", "good"), Message("key", b"body", "bad", headers={"odd": 2**70})
    publishing = asyncio.create_task(server.channel.publish([bad, good, bad], 5.0))
    await asyncio.sleep(0)
    server.say(commands.Basic.Ack(1, False))
    first, between, last = await publishing
    assert isinstance(first, ValueError)
    assert between is None
    assert isinstance(last, ValueError)
    assert [type(error) for error in await server.channel.publish([bad], 5.0)] == [ValueError]


async def test_large_batch_waits_while_much_is_not_sent(server: Server) -> None:
    server.waiting_bytes = 1 << 30
    messages = [Message("key", bytes(200_000), str(number)) for number in range(4)]
    publishing = asyncio.create_task(server.channel.publish(messages, 5.0))
    await asyncio.sleep(0)
    assert len(server.writes) == 1
    between = await server.publish("between")
    server.waiting_bytes = 0
    server.drained.set()
    while len(server.writes) < 3:
        await asyncio.sleep(0)
    ids = [frame.properties.message_id for frame in server.frames() if isinstance(frame, ContentHeader)]
    assert ids == ["0", "1", "between", "2", "3"]
    server.say(commands.Basic.Ack(3))
    assert await between == [None]
    server.say(commands.Basic.Ack(5, True))
    assert await publishing == [None] * 4


async def test_large_batch_ends_in_time_when_the_server_reads_nothing(server: Server) -> None:
    server.waiting_bytes = 1 << 30
    messages = [Message("key", bytes(200_000), str(number)) for number in range(4)]
    async with asyncio.timeout(5):
        outcomes = await server.channel.publish(messages, 0.01)
    assert [type(outcome) for outcome in outcomes] == [LinkDown] * 4
    assert len(server.writes) == 1
    server.waiting_bytes = 0
    later = await server.publish("later")
    server.say(commands.Basic.Ack(3))
    assert await later == [None]


async def test_acknowledgements_of_one_iteration_are_one_write_in_their_order(server: Server) -> None:
    server.channel.acknowledge([(2, True)])
    server.channel.acknowledge([(4, False)])
    assert server.writes == []
    await asyncio.sleep(0)
    assert len(server.writes) == 1
    assert [(frame.delivery_tag, frame.multiple) for frame in server.frames()] == [(2, True), (4, False)]


async def test_flush_leaves_no_acknowledgement_behind(server: Server) -> None:
    server.channel.acknowledge([(1, False)])
    await server.channel.flush()
    await asyncio.sleep(0)
    assert [frame.delivery_tag for frame in server.frames()] == [1]


async def hearing(server: Server) -> "asyncio.Task[bool]":
    """Begin to acknowledge; return whether it will have been heard."""
    task = asyncio.create_task(server.channel.acknowledge_and_hear([(1, False)]))
    await asyncio.sleep(0)
    return task


async def test_acknowledgement_was_heard_when_what_is_asked_behind_it_is_answered(server: Server) -> None:
    server.channel.acknowledge([(7, False)])
    first, second = await hearing(server), await hearing(server)
    names = [frame.name for frame in server.frames()]
    assert names == ["Basic.Ack", "Basic.Ack", "Channel.Flow", "Basic.Ack", "Channel.Flow"]
    server.say(commands.Channel.FlowOk(True))
    assert await first
    assert not second.done()
    server.say(commands.Channel.FlowOk(True))
    assert await second


async def test_who_was_cancelled_takes_nobody_s_answer(server: Server) -> None:
    first, second = await hearing(server), await hearing(server)
    first.cancel()
    server.say(commands.Channel.FlowOk(True))
    await asyncio.sleep(0)
    assert not second.done()
    server.say(commands.Channel.FlowOk(True))
    assert await second


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        pytest.param(AMQPConnectionError("reset by peer"), True, id="hung up"),
        pytest.param(asyncio.CancelledError(), False, id="given up by us"),
    ],
)
async def test_server_that_hangs_up_is_taken_to_have_heard(server: Server, error: BaseException, heard: bool) -> None:
    task = await hearing(server)
    server.closing.set_exception(error)
    assert await task is heard
    assert not await server.channel.acknowledge_and_hear([(2, False)])  # nothing goes out any more
    assert len(server.frames()) == 2


async def test_server_that_hangs_up_late_was_not_reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiotask.connections.amqp.channel._AT_ONCE_S", 0.01)
    task = await hearing(server)
    await asyncio.sleep(0.02)
    server.closing.set_exception(AMQPConnectionError("no heartbeats"))
    assert not await task


async def test_message_that_cannot_be_taken_ends_nothing(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    taken = []

    def take(message: Received) -> None:
        if message.tag == 1:
            raise ValueError("not that one")
        taken.append(message.tag)

    await server.channel.consume("queue", take, "mine", prefetch=1)
    with caplog.at_level(logging.ERROR):
        server.deliver(1)
        server.deliver(2)
    assert taken == [2]
    assert "could not be taken" in caplog.text


async def test_coroutine_of_a_consumer_is_run(server: Server) -> None:
    done = asyncio.Event()

    async def take(_: Received) -> None:
        done.set()

    await server.channel.consume("queue", take, "mine", prefetch=1)
    server.deliver(1)
    await done.wait()


async def test_consumer_that_was_cancelled_is_forgotten(server: Server) -> None:
    taken: list[Received] = []
    await server.channel.consume("queue", taken.append, "mine", prefetch=1)
    await server.channel.cancel("mine")
    server.deliver(1)
    assert taken == []
    assert server.wire.inboxes[NUMBER].consumers == {}


async def test_what_comes_on_a_channel_that_was_given_up_is_not_taken(server: Server) -> None:
    taken: list[Received] = []
    await server.channel.consume("queue", taken.append, "mine", prefetch=1)
    server.channel.abandon("the test says so")
    server.deliver(1)
    assert taken == []
