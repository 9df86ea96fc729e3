"""The proxy that breaks connections: what passes, what does not, and what it counts."""

import asyncio
import gc
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers.proxy import FaultProxy, Frames
from tests.servers.redis import RedisServer

NOTHING = object()


class Client:
    """A connection that says nothing but what it is told, so that its commands can be counted."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        self._reader = hiredis.Reader(notEnoughData=NOTHING)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, *commands: str) -> None:
        self._socket.sendall(b"".join(hiredis.pack_command(tuple(command.split())) for command in commands))  # type: ignore[arg-type]

    def read(self, timeout: float = 5.0) -> Any:
        self._socket.settimeout(timeout)
        while (reply := self._reader.gets()) is NOTHING:
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError
            self._reader.feed(data)
        return reply

    def ask(self, command: str) -> Any:
        self.send(command)
        return self.read()


@pytest.fixture
def connect(proxy: FaultProxy) -> Iterator[Callable[[], Client]]:
    """Opens connections through the proxy."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(Client(proxy))


@pytest.fixture
def client(connect: Callable[[], Client]) -> Client:
    return connect()


# ---- finding commands and replies in bytes ----

FRAMES = [
    b"+OK\r\n",
    b"-ERR no\r\n",
    b":12\r\n",
    b"$5\r\nhe\r\no\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
    b"*2\r\n*1\r\n:1\r\n*2\r\n$0\r\n\r\n*0\r\n",
    b"_\r\n",
    b",1.5\r\n",
    b"#t\r\n",
    b"(123\r\n",
    b"%1\r\n+a\r\n:1\r\n",
    b"~2\r\n:1\r\n:2\r\n",
    b">3\r\n+message\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    b"|1\r\n+ttl\r\n:5\r\n$1\r\nv\r\n",
    b"=5\r\ntxt:a\r\n",
    b"PING\r\n",
]


@given(st.data())
def test_frames_end_where_they_end_however_the_bytes_are_cut_up(data: st.DataObject) -> None:
    frames = data.draw(st.lists(st.sampled_from(FRAMES), min_size=1, max_size=12))
    whole = b"".join(frames)
    places = sorted(data.draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=20)))
    finder = Frames()
    found: list[int] = []
    for start, end in zip([0, *places], [*places, len(whole)], strict=True):
        found += [start + at for at, _ in finder.feed(whole[start:end])]
    assert found == [sum(map(len, frames[: number + 1])) for number in range(len(frames))]


def test_frames_name_the_command() -> None:
    assert [word for _, word in Frames().feed(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n*1\r\n$4\r\nPING\r\n")] == [
        b"GET",
        b"PING",
    ]


def test_frames_are_not_looked_for_in_tls() -> None:
    assert Frames().feed(b"\x16\x03\x01\r\n$x\r\n") == []


# ---- passing on and counting ----


def test_proxy_passes_commands_and_replies(proxy: FaultProxy, client: Client) -> None:
    assert client.ask("SET key value") == b"OK"
    assert client.ask("GET key") == b"value"
    assert proxy.commands == [b"SET", b"GET"]
    assert proxy.replies == 2
    assert proxy.bytes_to_server == len(
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    )
    assert proxy.bytes_to_client == len(b"+OK\r\n$5\r\nvalue\r\n")


def test_proxy_counts_over_all_connections(proxy: FaultProxy, connect: Callable[[], Client]) -> None:
    one, other = connect(), connect()
    one.ask("PING")
    other.ask("ECHO 1")
    one.ask("ECHO 2")
    assert proxy.commands == [b"PING", b"ECHO", b"ECHO"]
    assert proxy.connections == 2


def test_proxy_passes_large_values(client: Client) -> None:
    value = "x" * 1_000_000
    assert client.ask(f"SET key {value}") == b"OK"
    assert client.ask("GET key") == value.encode()


def test_proxy_closes_the_servers_side_when_the_client_leaves(
    proxy: FaultProxy, redis_server: RedisServer, connect: Callable[[], Client]
) -> None:
    with connect() as client:
        client.ask("CLIENT SETNAME left-behind")
    proxy.wait_for(lambda proxy: proxy.connections == 0)
    assert b"left-behind" not in redis_server.call("CLIENT", "LIST", "TYPE", "normal").__repr__().encode()


def test_proxy_closes_the_clients_side_when_the_server_dies(private_redis: RedisServer) -> None:
    with FaultProxy(private_redis.port) as proxy, Client(proxy) as client:
        client.ask("PING")
        private_redis.kill9()
        with pytest.raises(ConnectionError):
            client.read()
        with pytest.raises(ConnectionError), Client(proxy) as late:
            late.ask("PING")


# ---- cuts ----


def test_cut_resets_all_connections_and_lets_new_ones_pass(proxy: FaultProxy, connect: Callable[[], Client]) -> None:
    clients = [connect(), connect()]
    for client in clients:
        client.ask("PING")
    proxy.cut()
    for client in clients:
        with pytest.raises(ConnectionError):
            client.ask("PING")
    assert connect().ask("PING") == b"PONG"
    assert proxy.cuts == 1


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("at_once", [False, True])
def test_cut_after_a_command_lets_the_server_carry_it_out_and_no_reply_back(
    proxy: FaultProxy, redis_server: RedisServer, client: Client, number: int, at_once: bool
) -> None:
    proxy.cut_after(commands=number)
    if at_once:
        client.send(*["INCR n"] * 6)
    for done in range(1, number):
        if not at_once:
            client.send("INCR n")
        assert client.read() == done
    with pytest.raises(ConnectionError):
        client.ask("INCR n") if not at_once else client.read()
    assert redis_server.call("GET", "n") == str(number).encode()
    assert len(proxy.commands) == number


def test_cut_before_a_command_keeps_it_from_the_server(
    proxy: FaultProxy, redis_server: RedisServer, client: Client
) -> None:
    proxy.cut_after(commands=2, deliver=False)
    assert client.ask("INCR n") == 1
    with pytest.raises(ConnectionError):
        client.ask("INCR n")
    assert redis_server.call("GET", "n") == b"1"
    assert proxy.commands == [b"INCR"]


def test_cut_after_a_command_that_blocks_does_not_wait_for_its_end(proxy: FaultProxy, client: Client) -> None:
    proxy.cut_after(commands=1)
    begun = time.monotonic()
    with pytest.raises(ConnectionError):
        client.ask("BLPOP nothing 30")
    assert time.monotonic() - begun < 10


def test_cut_after_a_reply_lets_it_pass(proxy: FaultProxy, client: Client) -> None:
    proxy.cut_after(replies=2)
    client.send("ECHO 1", "ECHO 2", "ECHO 3")
    assert [client.read(), client.read()] == [b"1", b"2"]
    with pytest.raises(ConnectionError):
        client.read()


@pytest.mark.parametrize("amount", [1, 4, 5, 6])
def test_cut_after_bytes_of_a_reply_lets_so_many_pass(
    proxy: FaultProxy, connect: Callable[[], Client], amount: int
) -> None:
    client = connect()
    proxy.cut_after(bytes_to_client=amount)
    client.send("ECHO abcdef")
    proxy.wait_for(lambda proxy: proxy.cuts)
    assert proxy.bytes_to_client == amount
    with pytest.raises(ConnectionError):
        client.read()


def test_cut_after_bytes_of_a_command_keeps_the_rest_from_the_server(
    proxy: FaultProxy, redis_server: RedisServer, client: Client
) -> None:
    proxy.cut_after(bytes_to_server=10)
    with pytest.raises(ConnectionError):
        client.ask("INCR n")
    assert proxy.bytes_to_server == 10
    assert redis_server.call("EXISTS", "n") == 0


def test_cut_of_one_connection_leaves_the_others(proxy: FaultProxy, connect: Callable[[], Client]) -> None:
    one, other = connect(), connect()
    other.ask("PING")
    proxy.cut_after(commands=1, everything=False)
    with pytest.raises(ConnectionError):
        one.ask("PING")
    assert other.ask("PING") == b"PONG"


def test_cut_happens_once(proxy: FaultProxy, connect: Callable[[], Client]) -> None:
    proxy.cut_after(commands=1)
    with pytest.raises(ConnectionError):
        connect().ask("PING")
    client = connect()
    for _ in range(3):
        assert client.ask("PING") == b"PONG"
    assert proxy.cuts == 1


# ---- other faults ----


def test_delay_holds_back_both_directions(proxy: FaultProxy, client: Client) -> None:
    client.ask("PING")
    proxy.delay(0.1)
    begun = time.monotonic()
    assert client.ask("PING") == b"PONG"
    assert time.monotonic() - begun >= 0.2
    proxy.heal()


def test_black_hole_swallows_commands(proxy: FaultProxy, redis_server: RedisServer, client: Client) -> None:
    client.ask("PING")
    proxy.black_hole()
    client.send("SET key value")
    with pytest.raises(TimeoutError):
        client.read(timeout=0.1)
    assert redis_server.call("EXISTS", "key") == 0


def test_black_hole_towards_the_client_lets_commands_pass(
    proxy: FaultProxy, redis_server: RedisServer, client: Client
) -> None:
    client.ask("PING")
    proxy.black_hole("to_client")
    client.send("SET key value")
    proxy.wait_for(lambda proxy: b"SET" in proxy.commands)
    with pytest.raises(TimeoutError):
        client.read(timeout=0.1)
    assert redis_server.call("GET", "key") == b"value"


def test_black_hole_after_a_command_leaves_other_connections(proxy: FaultProxy, connect: Callable[[], Client]) -> None:
    listening, other = connect(), connect()
    listening.ask("SUBSCRIBE news")
    proxy.black_hole("to_client", after=b"SUBSCRIBE")
    assert other.ask("PUBLISH news 1") == 1
    with pytest.raises(TimeoutError):
        listening.read(0.1)
    assert other.ask("PING") == b"PONG"
    proxy.heal()
    assert other.ask("PING") == b"PONG"
    with pytest.raises(ConnectionResetError):
        listening.ask("PING")


def test_black_hole_accepts_new_connections_and_answers_nothing(
    proxy: FaultProxy, connect: Callable[[], Client]
) -> None:
    proxy.black_hole()
    client = connect()
    client.send("PING")
    with pytest.raises(TimeoutError):
        client.read(timeout=0.1)


def test_healing_resets_what_has_lost_something_and_leaves_the_rest(
    proxy: FaultProxy, connect: Callable[[], Client]
) -> None:
    lossy, idle = connect(), connect()
    lossy.ask("PING")
    idle.ask("PING")
    proxy.black_hole()
    lossy.send("PING")
    new = connect()
    new.send("PING")
    with pytest.raises(TimeoutError):
        lossy.read(timeout=0.1)
    proxy.heal()
    for client in (lossy, new):
        with pytest.raises(ConnectionError):
            client.read()
    assert idle.ask("PING") == b"PONG"
    assert connect().ask("PING") == b"PONG"


def test_refusing_keeps_new_connections_out_until_healed(
    proxy: FaultProxy, client: Client, connect: Callable[[], Client]
) -> None:
    client.ask("PING")
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert client.ask("PING") == b"PONG"
    proxy.heal()
    assert connect().ask("PING") == b"PONG"


def test_proxy_that_ends_leaves_nothing_of_those_who_connect_just_then(
    redis_server: RedisServer, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without care one run in three leaves a socket open."""
    left: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", left.append)
    with ExitStack() as stack:
        for _ in range(30):
            with FaultProxy(redis_server.port) as proxy:
                for _ in range(10):
                    client = stack.enter_context(socket.socket())
                    client.setblocking(False)
                    client.connect_ex(("127.0.0.1", proxy.port))
        gc.collect()
    assert not left
    assert not recwarn.list


async def test_proxy_works_while_the_tests_loop_is_blocked(proxy: FaultProxy, client: Client) -> None:
    assert client.ask("PING") == b"PONG"
    await asyncio.to_thread(proxy.wait_for, lambda proxy: proxy.replies == 1)


def test_waiting_says_what_has_passed_when_it_is_in_vain(proxy: FaultProxy, client: Client) -> None:
    client.ask("PING")
    with pytest.raises(AssertionError, match="1 commands, 1 replies, 0 cuts, 1 connections"):
        proxy.wait_for(lambda proxy: proxy.cuts, timeout=0.01)
