import asyncio
import random

import pytest
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat
from yarl import URL

from aiotask.connections.amqp.received import Inbox, Received
from aiotask.connections.amqp.wire import Wire, WireFactory

OURS, THEIRS = 3, 4
HEARTBEAT = Heartbeat.marshal()


@pytest.fixture
async def wire() -> Wire:
    return Wire(asyncio.get_running_loop())


@pytest.fixture
def taken(wire: Wire) -> list[Received]:
    """What our channel has taken."""
    found: list[Received] = []
    wire.inboxes[OURS] = Inbox(lambda *_: None, lambda _: None, lambda: None)
    wire.inboxes[OURS].consumers[b"mine"] = found.append
    return found


def delivery(channel: int, tag: int, body: bytes) -> bytes:
    frames = (
        commands.Basic.Deliver("mine", tag, False, "", "key"),
        ContentHeader(body_size=len(body)),
        ContentBody(body),
    )
    return b"".join(marshal(frame, channel) for frame in frames)


async def left(wire: Wire) -> bytes:
    """Return what the driver reads, but for the signs of life that are put in."""
    wire.feed_eof()
    return (await wire.read()).replace(HEARTBEAT, b"")


async def test_driver_reads_what_comes_on_its_channels(wire: Wire, taken: list[Received]) -> None:
    theirs = delivery(THEIRS, 1, b"body"), marshal(commands.Basic.QosOk(), OURS), marshal(commands.Channel.OpenOk(), 5)
    wire.feed_data(theirs[0] + delivery(OURS, 1, b"a") + theirs[1] + delivery(OURS, 2, b"b") + theirs[2])
    assert [message.body for message in taken] == [b"a", b"b"]
    assert await left(wire) == b"".join(theirs)


@pytest.mark.parametrize("seed", range(20))
async def test_frames_may_come_in_any_pieces(wire: Wire, taken: list[Received], seed: int) -> None:
    chance = random.Random(seed)
    theirs, data = b"", b""
    for number in range(50):
        body = chance.randbytes(chance.randrange(30)) + b"\xce"
        data += delivery(OURS, number, body)
        other = delivery(THEIRS, number, body)
        theirs, data = theirs + other, data + other
    while data:
        size = chance.randrange(1, 40)
        wire.feed_data(data[:size])
        data = data[size:]
    assert [message.tag for message in taken] == list(range(50))
    assert await left(wire) == theirs


@pytest.mark.parametrize("answer", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"-ERR\r\n", b"x"])
async def test_what_is_no_frame_is_left_to_the_driver(wire: Wire, taken: list[Received], answer: bytes) -> None:
    wire.feed_data(answer)
    assert await left(wire) == answer
    assert taken == []


async def test_frame_without_its_end_is_left_to_the_driver(wire: Wire, taken: list[Received]) -> None:
    broken = marshal(commands.Basic.Deliver("mine", 1, False, "", "key"), OURS)[:-1] + b"\x00"
    wire.feed_data(broken)
    assert await left(wire) == broken


async def test_driver_sees_signs_of_life_while_all_that_comes_is_ours(wire: Wire, taken: list[Received]) -> None:
    for tag in range(10):
        wire.feed_data(delivery(OURS, tag, b"body"))
    wire.feed_eof()
    assert await wire.read() == HEARTBEAT


async def test_sign_of_life_never_comes_within_a_frame(wire: Wire, taken: list[Received]) -> None:
    theirs = delivery(THEIRS, 1, b"body")
    wire.feed_data(delivery(OURS, 1, b"body") + theirs[:9])
    wire.feed_data(theirs[9:])
    wire.feed_eof()
    assert await wire.read() == theirs


async def test_both_sides_get_what_is_longer_than_is_read_at_once() -> None:
    ours, theirs = delivery(OURS, 1, b"o" * 300_000), delivery(THEIRS, 1, b"t" * 300_000)

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ours + theirs + ours)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        wire, writer = await WireFactory().create(URL(f"amqp://127.0.0.1:{port}"))
        assert isinstance(wire, Wire)
        found: list[Received] = []
        wire.inboxes[OURS] = Inbox(lambda *_: None, lambda _: None, lambda: None)
        wire.inboxes[OURS].consumers[b"mine"] = found.append
        read = (await wire.read()).replace(HEARTBEAT, b"")
        writer.close()
        await writer.wait_closed()
    assert read == theirs
    assert [message.body for message in found] == [b"o" * 300_000] * 2


async def test_end_is_known_at_once(wire: Wire) -> None:
    assert not wire.ended
    wire.feed_eof()
    assert wire.ended


async def test_loss_is_known_at_once(wire: Wire) -> None:
    wire.set_exception(ConnectionResetError("gone"))
    assert wire.ended
