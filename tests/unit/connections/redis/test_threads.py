"""The connection of a thread, which works whatever the event loop is doing. On a real server."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask.connections.redis import LinkClosed, LinkDown, RedisLink, ReplyError, Script, ThreadConnection

COUNT = Script("return redis.call('INCR', KEYS[1])", "count")
BLOCK = Script("return redis.call('TIME')")


@pytest.fixture
def connect() -> Iterator[Callable[..., ThreadConnection]]:
    """Makes connections, closed after the test."""
    made: list[ThreadConnection] = []

    def connect(url: str, timeout: float = 5.0) -> ThreadConnection:
        made.append(ThreadConnection(RedisLink(url, command_timeout=timeout, connection_timeout=timeout)))
        return made[-1]

    yield connect
    for one in made:
        one.close()


Connect = Callable[..., ThreadConnection]


def test_script_runs_and_runs_by_its_hash(redis_server: RedisServer, redis_url: str, connect: Connect) -> None:
    connection = connect(redis_url)
    redis_server.call("CONFIG", "RESETSTAT")
    assert [connection.run(COUNT, ["n"]) for _ in range(3)] == [1, 2, 3]
    redis_server.call("SCRIPT", "FLUSH")
    assert connection.run(COUNT, ["n"]) == 4
    stats = redis_server.call("INFO", "COMMANDSTATS")
    assert stats["cmdstat_eval"]["calls"] == 2
    assert stats["cmdstat_evalsha"]["calls"] == 3


def test_error_is_raised_and_the_connection_stays(redis_server: RedisServer, redis_url: str, connect: Connect) -> None:
    connection = connect(redis_url)
    redis_server.call("SET", "n", "text")
    with pytest.raises(ReplyError, match="not an integer"):
        connection.run(COUNT, ["n"])
    assert connection.run(COUNT, ["m"]) == 1


async def test_script_runs_while_the_loop_is_blocked(redis_url: str, connect: Connect) -> None:
    connection = connect(redis_url)
    with ThreadPoolExecutor(1) as pool:
        # The loop's own thread waits here.
        assert pool.submit(connection.run, COUNT, ["n"]).result(20) == 1


def test_lost_connection_is_told_and_the_next_run_connects(private_redis: RedisServer, connect: Connect) -> None:
    connection = connect(private_redis.url())
    assert connection.run(COUNT, ["n"]) == 1
    private_redis.kill9()
    with pytest.raises(LinkDown, match="nobody knows") as raised:
        connection.run(COUNT, ["n"])
    assert raised.value.sent
    with pytest.raises(LinkDown, match="can't be reached") as raised:
        connection.run(COUNT, ["n"])
    assert not raised.value.sent
    private_redis.start()
    assert connection.run(COUNT, ["n"]) == 1


def test_lost_reply_is_told_and_nothing_is_sent_twice(
    proxy: FaultProxy, redis_server: RedisServer, connect: Connect
) -> None:
    connection = connect(proxy.url())
    assert connection.run(COUNT, ["n"]) == 1
    proxy.cut_after(commands=1)
    with pytest.raises(LinkDown) as raised:
        connection.run(COUNT, ["n"])
    assert raised.value.sent
    assert redis_server.call("GET", "n") == b"2"
    assert connection.run(COUNT, ["n"]) == 3


def test_half_open_connection_is_given_up_after_the_timeout(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy.url(), timeout=0.2)
    assert connection.run(COUNT, ["n"]) == 1
    proxy.black_hole("to_client")
    with pytest.raises(LinkDown, match=r"did not answer within 0\.2 s"):
        connection.run(COUNT, ["n"])
    with pytest.raises(LinkDown, match=r"did not answer within 0\.2 s") as raised:
        connection.run(COUNT, ["n"])
    assert not raised.value.sent
    proxy.heal()
    assert connection.run(COUNT, ["n"]) == 3


def test_garbled_reply_ends_the_connection(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy.url())
    connection.run(COUNT, ["n"])
    connection._reader.feed(b"HTTP/1.1 400 Bad Request\r\n")
    with pytest.raises(LinkDown):
        connection.run(COUNT, ["n"])
    assert connection.run(COUNT, ["n"]) == 3


def test_server_that_became_a_replica_is_left(private_redis: RedisServer, connect: Connect) -> None:
    connection = connect(private_redis.url())
    connection.run(COUNT, ["n"])
    private_redis.call("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(ReplyError, match="READONLY"):
        connection.run(COUNT, ["n"])
    assert connection._socket is None
    private_redis.call("REPLICAOF", "NO", "ONE")
    assert connection.run(COUNT, ["n"]) == 2


def test_closing_wakes_the_thread_that_waits(proxy: FaultProxy, connect: Connect) -> None:
    connection = connect(proxy.url(), timeout=60.0)
    connection.run(COUNT, ["n"])
    proxy.black_hole("to_client")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(connection.run, COUNT, ["n"])
        proxy.wait_for(lambda proxy: proxy.commands.count(b"EVALSHA") == 1)
        begun = time.monotonic()
        connection.close()
        with pytest.raises(LinkDown):
            running.result(20)
    assert time.monotonic() - begun < 20
    assert connection._socket is None
    with pytest.raises(LinkClosed):
        connection.run(COUNT, ["n"])


def test_closing_at_any_moment_leaves_no_socket(redis_url: str, connect: Connect) -> None:
    for turn in range(40):
        connection = connect(redis_url)
        begun = threading.Barrier(2)

        def run(connection: ThreadConnection = connection, begun: threading.Barrier = begun) -> None:
            begun.wait()
            while True:
                connection.run(COUNT, ["n"])

        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(run)
            begun.wait()
            time.sleep(turn / 10_000)
            connection.close()
            with pytest.raises((LinkClosed, LinkDown)):
                running.result(20)
        assert connection._socket is None


async def test_master_is_asked_for_behind_sentinels(redis_server: RedisServer, connect: Connect) -> None:
    async def sentinel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            port = str(redis_server.port).encode()
            answer = b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)
            writer.write(answer if b"SENTINEL" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_server(sentinel, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connection = connect(f"sentinel://127.0.0.1:{port}/0?master_name=main")
    assert await asyncio.to_thread(connection.run, COUNT, ["n"]) == 1
    server.close()
