"""Commands to workers over Redis: what the contract does not see of who listens, what it costs, and what goes wrong."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.servers.redis import RedisServer

from aiotask.brokers.redis import RedisBroker
from aiotask.connections.redis import RedisLink
from aiotask.exceptions import BrokerConnectionError, BrokerError

PATIENCE_S = 20.0
NEVER_S = 3600.0
"""A timeout that would be a failure to reach."""
NODE = "web@host"
WARNED = [("aiotask.brokers.redis.remote", logging.WARNING)]


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack, asyncio.timeout(PATIENCE_S):
        yield stack


@pytest.fixture
async def broker(redis_server: RedisServer, opened: AsyncExitStack) -> RedisBroker:
    return await connect(redis_server.url(), opened)


async def connect(url: str, opened: AsyncExitStack, **options: Any) -> RedisBroker:
    broker = RedisBroker(RedisLink(url, **options))
    await broker.open()
    opened.push_async_callback(broker.close)
    return broker


async def listen(broker: RedisBroker, opened: AsyncExitStack, node: str = NODE) -> None:
    await opened.enter_async_context(broker.answering(node, {"echo": lambda arguments: arguments}))


async def ask(broker: RedisBroker, *destination: str, timeout: float = NEVER_S, **arguments: Any) -> dict[str, Any]:
    return await broker.ask("echo", arguments, destination=destination or None, timeout=timeout)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def listening(server: RedisServer) -> list[dict[str, str]]:
    """Return what the server says of each connection that listens."""
    clients = server.call("CLIENT", "LIST", "TYPE", "pubsub").decode().splitlines()
    return [dict(word.split("=", 1) for word in client.split(" ")) for client in clients]


async def test_ask_returns_as_soon_as_all_that_listen_have_answered(
    redis_server: RedisServer, broker: RedisBroker, opened: AsyncExitStack
) -> None:
    other = await connect(redis_server.url(), opened)
    await listen(broker, opened, "a@host")
    await listen(other, opened, "b@host")
    assert await ask(broker, n=1) == {"a@host": {"n": 1}, "b@host": {"n": 1}}
    assert await ask(broker, "a@host", "nobody@host", "a@host", n=2) == {"a@host": {"n": 2}}


async def test_ask_returns_at_once_when_nobody_listens(broker: RedisBroker) -> None:
    assert await ask(broker) == await ask(broker, NODE) == {}


async def test_connection_that_listens_is_silent_when_it_is_idle(
    redis_server: RedisServer, opened: AsyncExitStack
) -> None:
    broker = await connect(redis_server.url(), opened, command_timeout=0.2)
    await listen(broker, opened)
    with redis_server.client() as client:

        def pings() -> int:
            stats = client.info("commandstats")
            return int(stats["cmdstat_ping"]["calls"]) if "cmdstat_ping" in stats else 0

        enough = pings() + 5
        await until(lambda: pings() >= enough)  # by the connection for commands
    [idle] = listening(redis_server)
    assert idle["cmd"] == "subscribe"


async def test_those_who_ask_at_once_share_a_connection_which_is_closed_when_all_have_their_answers(
    redis_server: RedisServer, broker: RedisBroker, opened: AsyncExitStack
) -> None:
    await listen(broker, opened)
    with redis_server.client() as client:
        before = client.info("stats")["total_connections_received"]
        answers = await asyncio.gather(*(ask(broker, n=number) for number in range(100)))
        assert answers == [{NODE: {"n": number}} for number in range(100)]
        assert client.info("stats")["total_connections_received"] == before + 1
    await until(lambda: len(listening(redis_server)) == 1)


async def test_databases_of_one_server_do_not_hear_each_other(
    redis_server: RedisServer, broker: RedisBroker, opened: AsyncExitStack
) -> None:
    await listen(await connect(redis_server.url(1), opened), opened)
    assert await ask(broker) == {}


QUESTION: dict[str, Any] = {"command": "echo", "arguments": {}, "ticket": "0" * 32}


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        json.dumps({**QUESTION, "command": 1}),
        json.dumps({**QUESTION, "ticket": "0" * 31}),
        json.dumps({**QUESTION, "ticket": "celery-task-meta-0123456789abcde"}),
        json.dumps({**QUESTION, "arguments": "x" * (8 << 20)}),
        json.dumps({"command": "echo\n", "arguments": {}}),
    ],
    ids=lambda malformed: repr(malformed)[:40],
)
async def test_malformed_question_is_ignored_with_one_warning(
    redis_server: RedisServer,
    broker: RedisBroker,
    opened: AsyncExitStack,
    caplog: pytest.LogCaptureFixture,
    malformed: str | bytes,
) -> None:
    await listen(broker, opened)
    assert redis_server.call("PUBLISH", "aiotask:0:nodes", malformed) == 1
    assert await ask(broker, n=1) == {NODE: {"n": 1}}
    assert [record[:2] for record in caplog.record_tuples] == WARNED
    assert "\n" not in caplog.records[0].getMessage()


@pytest.mark.parametrize("arguments", ["null", "[]", "1", '"text"', "[" * 900 + "]" * 900])
async def test_node_answers_what_was_asked_with_odd_arguments(
    redis_server: RedisServer, broker: RedisBroker, opened: AsyncExitStack, arguments: str
) -> None:
    def needs_mapping(arguments: Any) -> Any:
        return arguments["task_id"]

    await opened.enter_async_context(broker.answering(NODE, {"revoke": needs_mapping}))
    with redis_server.client() as client, client.pubsub() as ear:
        ear.subscribe(f"aiotask:0:answers:{QUESTION['ticket']}")
        assert ear.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
        question = json.dumps({**QUESTION, "command": "revoke", "arguments": 0}).replace("0,", f"{arguments},", 1)
        client.publish("aiotask:0:nodes", question)
        answer = json.loads((await asyncio.to_thread(ear.get_message, timeout=PATIENCE_S))["data"])
    assert (answer["node"], list(answer["answer"])) == (NODE, ["error"])


async def test_command_that_is_too_long_is_told_and_not_sent(broker: RedisBroker, opened: AsyncExitStack) -> None:
    await listen(broker, opened)
    with pytest.raises(BrokerError, match=r"8,388,\d{3} bytes; workers read 8,388,608"):
        await ask(broker, n="x" * ((8 << 20) - 50))
    long = "x" * (3 << 20)
    assert await ask(broker, n=long) == {NODE: {"n": long}}


async def test_answer_that_is_too_long_is_an_error(broker: RedisBroker, opened: AsyncExitStack) -> None:
    await opened.enter_async_context(broker.answering(NODE, {"echo": lambda _: "x" * (8 << 20)}))
    assert await ask(broker) == {NODE: {"error": "The answer has 8,388,610 bytes, which is too much to send."}}


async def test_malformed_answer_is_ignored_with_one_warning(
    redis_server: RedisServer, broker: RedisBroker, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server.client() as client, client.pubsub() as odd:
        odd.subscribe("aiotask:0:nodes")
        assert odd.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
        asking = asyncio.create_task(ask(broker, n=1))
        question = json.loads((await asyncio.to_thread(odd.get_message, timeout=PATIENCE_S))["data"])
        assert (question["command"], question["arguments"]) == ("echo", {"n": 1})
        for answer in (b'{"node": 1}', b'{"node": "odd@host", "answer": [1]}'):
            client.publish(f"aiotask:0:answers:{question['ticket']}", answer)
        assert await asking == {"odd@host": [1]}
    assert [record[:2] for record in caplog.record_tuples] == WARNED


async def test_what_has_come_is_returned_when_one_that_listens_does_not_answer(
    redis_server: RedisServer, broker: RedisBroker, opened: AsyncExitStack
) -> None:
    await listen(broker, opened)
    with redis_server.client() as client, client.pubsub() as silent:
        silent.subscribe("aiotask:0:nodes")
        assert silent.get_message(timeout=PATIENCE_S)["type"] == "subscribe"
        assert await ask(broker, timeout=0.3, n=1) == {NODE: {"n": 1}}


async def test_node_hears_again_when_the_server_was_restarted(
    private_redis: RedisServer, opened: AsyncExitStack
) -> None:
    broker = await connect(private_redis.url(), opened)
    await listen(broker, opened)
    private_redis.restart()
    await until(lambda: listening(private_redis) and broker.connected)
    assert await ask(broker, n=1) == {NODE: {"n": 1}}


async def test_node_listens_by_and_by_when_the_server_is_down_at_first(
    private_redis: RedisServer, opened: AsyncExitStack
) -> None:
    broker = await connect(private_redis.url(), opened, command_timeout=0.1)
    private_redis.kill9()
    await until(lambda: not broker.connected)
    await listen(broker, opened)
    with pytest.raises(BrokerConnectionError):
        await ask(broker, timeout=0.0)
    private_redis.start()
    await until(lambda: listening(private_redis) and broker.connected)
    assert await ask(broker, n=1) == {NODE: {"n": 1}}


async def test_nothing_is_left_when_listening_is_given_up_while_the_server_is_down(
    private_redis: RedisServer, opened: AsyncExitStack
) -> None:
    broker = await connect(private_redis.url(), opened)
    private_redis.kill9()
    await until(lambda: not broker.connected)
    before = asyncio.all_tasks()
    beginning = asyncio.create_task(listen(broker, opened))
    await until(lambda: len(asyncio.all_tasks() - before) > 1)
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    assert asyncio.all_tasks() - before == set()


@pytest.mark.parametrize("rights", [("resetchannels",), ("resetchannels", "&aiotask:0:nodes")])
async def test_worker_goes_on_with_a_warning_when_its_user_may_not_listen(
    private_redis: RedisServer, opened: AsyncExitStack, caplog: pytest.LogCaptureFixture, rights: tuple[str, ...]
) -> None:
    private_redis.call("ACL", "SETUSER", "me", "on", ">secret", "~*", "+@all", *rights)
    broker = await connect(private_redis.url().replace("redis://", "redis://me:secret@"), opened)
    await listen(broker, opened)
    assert [record[:2] for record in caplog.record_tuples] == WARNED
    assert "secret" not in caplog.text
    with pytest.raises(BrokerError, match="does not allow this user what is needed"):
        await ask(broker)


async def test_worker_listens_when_its_user_has_the_rights_that_the_page_names(
    private_redis: RedisServer, opened: AsyncExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("ACL SETUSER")]
    private_redis.call(*line.split())
    broker = await connect(private_redis.url().replace("redis://", "redis://worker:password@"), opened)
    await broker.examine(["default"])
    await listen(broker, opened)
    assert await ask(broker, n=1) == {NODE: {"n": 1}}
    await broker.revoke(["a"])
    assert caplog.record_tuples == []


async def test_user_who_may_listen_and_not_publish_is_told(private_redis: RedisServer, opened: AsyncExitStack) -> None:
    private_redis.call("ACL", "SETUSER", "me", "on", ">secret", "~*", "&*", "+@all", "-publish")
    broker = await connect(private_redis.url().replace("redis://", "redis://me:secret@"), opened)
    with pytest.raises(BrokerError, match="does not allow this user what is needed"):
        await ask(broker)
