"""One connection shared by many: who gets which reply, and what happens when it ends. The transport is a stand-in."""

import asyncio
import itertools
import random
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.connections.redis.commands import pack_command
from aiotask.connections.redis.errors import LinkDown, ReplyError
from aiotask.connections.redis.wire import Wire

NOTHING = object()
LOADING = b"-LOADING Redis is loading the dataset in memory\r\n"


class Transport:
    """What a wire writes to. It has the shape of asyncio's, and of the stream that brings it."""

    def __init__(self) -> None:
        self.transport = self
        self.writes: list[bytes] = []
        self.aborted = False
        self.unsent_bytes = 0
        self.protocol: Any = None

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return self.unsent_bytes

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


def wire_on(transport: Transport, **options: Any) -> Wire:
    return Wire(transport, "redis://:***@h", **({"timeout": 60.0} | options))  # type: ignore[arg-type]


def echo(number: int) -> bytes:
    return pack_command(("ECHO", number))


async def flushed() -> None:
    """Let what was submitted leave."""
    await asyncio.sleep(0)


async def test_calls_of_one_iteration_leave_at_once_and_then_together() -> None:
    transport = Transport()
    wire = wire_on(transport)
    calls = [wire.submit(echo(number)) for number in range(5)]
    assert transport.writes == [echo(0), echo(1)]  # the second finds the first without a reply, and lets others join
    await flushed()
    assert transport.writes == [echo(0), echo(1), echo(2) + echo(3) + echo(4)]
    wire.data_received(b":0\r\n:1\r\n:2\r\n:3\r\n:4\r\n")
    assert await asyncio.gather(*calls) == [0, 1, 2, 3, 4]


async def test_replies_of_one_call_come_together() -> None:
    wire = wire_on(Transport())
    call = wire.submit(echo(0) + echo(1), 2)
    await flushed()
    wire.data_received(b":0\r\n")
    await asyncio.sleep(0)
    assert not call.done()
    wire.data_received(b"-ERR no\r\n")
    first, second = await call
    assert first == 0
    assert isinstance(second, ReplyError)
    assert str(second) == "ERR no"


async def test_error_is_a_value_that_leaves_the_connection_usable() -> None:
    wire = wire_on(Transport())
    failing, good = wire.submit(echo(0)), wire.submit(echo(1))
    await flushed()
    wire.data_received(b"-WRONGTYPE no\r\n:1\r\n")
    assert isinstance(await failing, ReplyError)
    assert await good == 1
    assert wire.usable


async def test_cancelled_call_is_not_sent_when_it_has_not_left() -> None:
    transport = Transport()
    wire = wire_on(transport)
    wire.pause_writing()
    left, stays = wire.submit(echo(0)), wire.submit(echo(1))
    left.cancel()
    wire.resume_writing()
    assert transport.writes == [echo(1)]
    wire.data_received(b":1\r\n")
    assert await stays == 1


async def test_cancelled_call_leaves_its_reply_to_be_dropped() -> None:
    wire = wire_on(Transport())
    left, both, stays = wire.submit(echo(0)), wire.submit(echo(1) * 2, 2), wire.submit(echo(3))
    await flushed()
    left.cancel()
    both.cancel()
    wire.data_received(b":0\r\n:1\r\n:1\r\n:3\r\n")
    assert await stays == 3
    assert wire.usable


async def test_pending_calls_fail_with_an_unknown_fate_when_the_connection_is_lost() -> None:
    wire = wire_on(Transport())
    sent = wire.submit(echo(0))
    wire.pause_writing()
    unsent = wire.submit(echo(1))
    wire.connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    with pytest.raises(
        LinkDown, match=r"redis://:\*\*\*@h was lost before the reply came: nobody knows.*reset"
    ) as raised:
        await sent
    assert raised.value.sent
    with pytest.raises(LinkDown, match="before the command was sent") as raised:
        await unsent
    assert not raised.value.sent
    assert not wire.usable
    with pytest.raises(LinkDown) as raised:
        await wire.submit(echo(2))
    assert not raised.value.sent
    await wire.closed


async def test_callers_that_have_left_are_no_reason_for_a_warning() -> None:
    wire = wire_on(Transport())
    wire.submit(echo(0))
    await flushed()
    wire.submit(echo(1))
    wire.close("the test is over")  # warnings are errors
    await wire.closed


@pytest.mark.parametrize("code", ["READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "UNBLOCKED"])
async def test_server_that_is_not_the_one_is_left_once_all_is_answered(code: str) -> None:
    transport = Transport()
    wire = wire_on(transport)
    first, second = wire.submit(echo(0)), wire.submit(echo(1))
    wire.pause_writing()
    late = wire.submit(echo(2))
    wire.data_received(f"-{code} no\r\n".encode())
    assert isinstance(await first, ReplyError)
    assert not wire.usable
    assert code in wire.down.result()
    with pytest.raises(LinkDown) as raised:
        await late
    assert not raised.value.sent
    assert not transport.aborted
    wire.data_received(b":1\r\n")
    assert await second == 1
    assert transport.aborted


async def test_server_that_is_not_the_one_is_left_at_once_when_nothing_waits() -> None:
    transport = Transport()
    wire = wire_on(transport)
    call = wire.submit(echo(0))
    await flushed()
    wire.data_received(LOADING)
    await call
    assert transport.aborted


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x03\x03", b":1\r\n:2\r\n"])
async def test_what_is_no_reply_ends_the_connection(garbage: bytes) -> None:
    transport = Transport()
    wire = wire_on(transport)
    call = wire.submit(echo(1))
    await flushed()
    wire.data_received(garbage)
    assert transport.aborted
    assert not wire.usable
    if garbage.startswith(b":"):
        assert await call == 1
    else:
        with pytest.raises(LinkDown, match="not the Redis protocol"):
            await call


async def test_server_that_does_not_answer_is_given_up() -> None:
    wire = wire_on(Transport(), timeout=0.02)
    call = wire.submit(echo(0))
    with pytest.raises(LinkDown, match=r"did not answer within 0\.02 s") as raised:
        await asyncio.wait_for(call, 5)
    assert raised.value.sent
    assert not wire.usable


async def test_server_that_goes_on_answering_is_not_given_up() -> None:
    loop = asyncio.get_running_loop()
    wire = wire_on(Transport(), timeout=0.5, ping=False)
    calls = [wire.submit(echo(number)) for number in range(20)]
    begun = loop.time()
    for number, call in enumerate(calls):  # all of them together take longer than the timeout
        loop.call_later(0.03, wire.data_received, b":%d\r\n" % number)
        assert await call == number
    assert loop.time() - begun > 0.5


async def test_blocking_command_has_an_allowance_on_top_of_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    wire = wire_on(Transport(), timeout=0.02, ping=False)
    blocking = wire.submit(echo(0), allowance=60.0)
    loop.call_later(0.1, wire.data_received, b":0\r\n")
    assert await blocking == 0
    with pytest.raises(LinkDown, match=r"within 0\.04 s"):  # and the next one's own, not that of the one before
        await asyncio.wait_for(wire.submit(echo(1), allowance=0.02), 5)


async def test_large_batch_that_is_on_its_way_is_not_given_up() -> None:
    transport = Transport()
    wire = wire_on(transport, timeout=0.05, ping=False)
    transport.unsent_bytes = 1000
    call = wire.submit(echo(0))
    await flushed()
    looked = 0
    while transport.unsent_bytes > 600:
        at = wire._heard_at
        transport.unsent_bytes -= 100
        async with asyncio.timeout(5):
            while wire._heard_at == at:
                await asyncio.sleep(0.001)
        looked += 1
    assert looked == 4
    assert wire.usable
    with pytest.raises(LinkDown, match="did not answer"):  # nothing leaves any more
        await asyncio.wait_for(call, 5)


async def test_silent_connection_is_asked_for_a_sign_of_life() -> None:
    transport = Transport()
    wire = wire_on(transport, timeout=0.05)
    for number in range(1, 4):
        while len(transport.writes) < number:
            await asyncio.sleep(0.001)
        assert transport.writes[-1] == pack_command(("PING",))
        wire.data_received(b"+PONG\r\n")
    assert wire.usable
    assert "did not answer" in await asyncio.wait_for(wire.down, 5)  # the next one
    await wire.closed


async def test_connection_that_is_not_read_from_keeps_what_is_submitted() -> None:
    transport = Transport()
    wire = wire_on(transport)
    wire.pause_writing()
    unsent = wire.submit(echo(0))
    await flushed()
    assert transport.writes == []
    wire.resume_writing()
    assert transport.writes == [echo(0)]
    wire.data_received(b":0\r\n")
    assert await unsent == 0
    wire.pause_writing()
    unsent = wire.submit(echo(1))
    await flushed()
    wire.connection_lost(None)
    with pytest.raises(LinkDown) as raised:
        await unsent
    assert not raised.value.sent


async def test_published_messages_are_no_replies() -> None:
    heard: list[tuple[bytes, bytes]] = []
    wire = wire_on(Transport(), on_push=lambda channel, payload: heard.append((channel, payload)))
    call = wire.submit(pack_command(("SUBSCRIBE", "c")))
    await flushed()
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
    wire.data_received(message + b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + message)
    assert await call == [b"subscribe", b"c", 1]
    assert heard == [(b"c", b"hi")] * 2


async def test_published_messages_come_between_other_commands_in_resp_3() -> None:
    heard: list[tuple[bytes, bytes]] = []
    wire = wire_on(Transport(), on_push=lambda channel, payload: heard.append((channel, payload)))
    assert not wire.mixes
    upgrading = asyncio.create_task(wire.speak_3())
    await flushed()
    wire.data_received(b"%1\r\n$5\r\nproto\r\n:3\r\n")
    await upgrading
    assert wire.mixes
    call = wire.submit(pack_command(("SUBSCRIBE", "c")) + pack_command(("MGET", "1", "2", "3")), 2)
    await flushed()
    three = b"3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n"
    wire.data_received(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + b">" + three + b"*" + three + b">" + three)
    assert await call == [[b"subscribe", b"c", 1], [b"message", b"c", b"hi"]]
    assert heard == [(b"c", b"hi")] * 2


async def test_wire_stays_with_resp_2_when_the_server_knows_no_other() -> None:
    heard: list[tuple[bytes, bytes]] = []
    wire = wire_on(Transport(), on_push=lambda channel, payload: heard.append((channel, payload)))
    upgrading = asyncio.create_task(wire.speak_3())
    await flushed()
    wire.data_received(b"-ERR unknown command 'HELLO'\r\n")
    await upgrading
    assert not wire.mixes
    wire.data_received(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n")
    assert heard == [(b"c", b"hi")]


class Server:
    """Answers ECHO in order, in pieces of any size, when it is told to."""

    def __init__(self, transport: Transport, chance: random.Random) -> None:
        self._transport = transport
        self._chance = chance
        self._reader = hiredis.Reader(notEnoughData=NOTHING)
        self._replies = b""
        self._seen = 0

    def answer(self, receive: Callable[[bytes], None], *, everything: bool = False) -> None:
        for data in self._transport.writes[self._seen :]:
            self._reader.feed(data)
        self._seen = len(self._transport.writes)
        while (command := self._reader.gets()) is not NOTHING:
            self._replies += b"-ERR " + command[1] + b"\r\n" if command[0] == b"FAIL" else b":" + command[1] + b"\r\n"
        size = len(self._replies) if everything else self._chance.randint(0, len(self._replies))
        if size:
            piece, self._replies = self._replies[:size], self._replies[size:]
            receive(piece)


def check(future: "asyncio.Future[Any]", wanted: list[int], lost: bool) -> None:
    assert future.done()
    if isinstance(future.exception(), LinkDown):
        assert lost
        return
    replies = future.result() if len(wanted) > 1 else [future.result()]
    assert [int(str(reply).removeprefix("ERR ")) for reply in replies] == wanted


@given(
    st.lists(
        st.tuples(st.sampled_from(["call", "three", "fail", "cancel", "turn", "answer", "stall"]), st.integers(0, 9))
    ),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_every_caller_gets_its_own_reply_whoever_leaves_when(
    steps: list[tuple[str, int]], chance: random.Random, lost: bool
) -> None:
    """Callers come, leave at any moment, and the server answers in any pieces: no reply is ever another's."""

    async def run() -> None:
        transport = Transport()
        server = Server(transport, chance)
        wire = wire_on(transport)
        calls: list[tuple[asyncio.Future[Any], list[int]]] = []
        numbers = itertools.count()
        for step, choice in steps:
            match step:
                case "call" | "three" | "fail":
                    wanted = list(itertools.islice(numbers, 3 if step == "three" else 1))
                    verb = "FAIL" if step == "fail" else "ECHO"
                    packed = b"".join([pack_command((verb, number)) for number in wanted])
                    calls.append((wire.submit(packed, len(wanted)), wanted))
                case "cancel" if calls:
                    calls[choice % len(calls)][0].cancel()
                case "turn":
                    await asyncio.sleep(0)
                case "answer":
                    server.answer(wire.data_received)
                case "stall":
                    wire.resume_writing() if wire._paused else wire.pause_writing()
        if lost:
            wire.connection_lost(None)
        wire.resume_writing()
        await asyncio.sleep(0)
        server.answer(wire.data_received if not lost else lambda _: None, everything=True)
        for future, wanted in calls:
            if not future.cancelled():
                check(future, wanted, lost)
        assert wire.usable is not lost
        wire.close("the test is over")
        await wire.closed

    asyncio.run(run())
