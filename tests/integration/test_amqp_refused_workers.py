"""A worker that may not consume says why: at its start, or by and by in the log, and goes on when it may."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conditions import until
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask, BrokerError
from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError

PATIENCE_S = 25.0
NO_READING = "^(?!default$).*"


@pytest.fixture
def someone(shared_rabbit: RabbitServer, vhost: str) -> Iterator[str]:
    """A user who may do all."""
    name = f"someone-{vhost}"
    shared_rabbit.evaluate(f'rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"secret">>, <<"test">>).')
    shared_rabbit.allow(vhost, user=name)
    yield name
    shared_rabbit.evaluate(f'rabbit_auth_backend_internal:delete_user(<<"{name}">>, <<"test">>).')


def app_of(url: str) -> tuple[AioTask, list[int]]:
    """An app, and the numbers that its task `note` was called with."""
    app = AioTask("proj", broker=url, backend="memory://", worker_shutdown_timeout=1)
    ran: list[int] = []

    @app.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    return app, ran


def allow_reading(server: RabbitServer, vhost: str, user: str, pattern: str) -> None:
    """Let a user do all but read what does not fit, from now on."""
    server.evaluate(
        f'ok = rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, '
        f'<<".*">>, <<".*">>, <<"{pattern}">>, <<"test">>).'
    )


async def assert_does_not_begin(app: AioTask, said: str) -> None:
    with pytest.raises(BrokerError, match=said) as raised:
        async with app.worker():
            pytest.fail("it must not begin")
    assert "\n" not in str(raised.value)


# ---- at the start ----


@pytest.mark.parametrize("queue", ["default", "default.returned", "default.suspects"])
@pytest.mark.parametrize("waiting", [0, 3])
async def test_worker_does_not_begin_when_the_user_may_not_read_a_queue(
    shared_rabbit: RabbitServer, vhost: str, someone: str, queue: str, waiting: int
) -> None:
    app, _ = app_of(shared_rabbit.url(vhost, user=someone, password="secret"))
    allow_reading(shared_rabbit, vhost, someone, f"^(?!{queue}$).*")
    async with app:
        for number in range(waiting):
            await app.send_task("note", [number])
        await assert_does_not_begin(app, rf"ACCESS_REFUSED - access to queue '{queue}' .*set_permissions")


async def test_look_at_the_start_takes_nothing(
    shared_rabbit: RabbitServer, vhost: str, someone: str, other_program: AmqpChannel
) -> None:
    """The server would count what is taken and given back as lost."""
    app, _ = app_of(shared_rabbit.url(vhost, user=someone, password="secret"))
    async with app:
        await app.send_task("note", [1])
        allow_reading(shared_rabbit, vhost, someone, "^(?!default.suspects$).*")
        await assert_does_not_begin(app, "default.suspects")
    waiting = await other_program.get("default")
    assert waiting is not None
    assert not waiting.redelivered


@pytest.mark.parametrize("waiting", [0, 3])
async def test_worker_does_not_begin_when_another_program_consumes_alone(
    shared_rabbit: RabbitServer, vhost: str, other_program: AmqpChannel, waiting: int
) -> None:
    await other_program.declare_queue("default")
    await other_program.consume("default", lambda _: None, "alone", prefetch=1, exclusive=True)
    app, _ = app_of(shared_rabbit.url(vhost))
    async with app:
        for number in range(waiting):
            await app.send_task("note", [number])
        await assert_does_not_begin(app, r"'default' .*in exclusive use.* Another program consumes it")


@pytest.mark.parametrize("arguments", [{}, {"x-max-age": "1h", "x-max-length-bytes": 1_000_000}])
@pytest.mark.parametrize("queue", ["default", "default.returned"])
async def test_worker_does_not_begin_when_a_queue_is_a_stream(
    shared_rabbit: RabbitServer, vhost: str, other_program: AmqpChannel, queue: str, arguments: dict[str, Any]
) -> None:
    await other_program.declare_queue(queue, {"x-queue-type": "stream", **arguments})
    app, _ = app_of(shared_rabbit.url(vhost))
    async with app:
        await assert_does_not_begin(app, rf"The queue '{queue}' .* is a stream")


# ---- later ----


async def test_worker_says_why_and_goes_on_when_another_program_consumes_alone_for_a_while(
    shared_rabbit: RabbitServer, vhost: str, other_program: AmqpChannel, caplog: pytest.LogCaptureFixture
) -> None:
    """It may begin to while the worker has no room."""
    await other_program.declare_queue("default")
    app, ran = app_of(shared_rabbit.url(vhost))
    may_end = asyncio.Event()

    @app.task(name="hold")
    async def hold() -> None:
        await may_end.wait()

    link = AmqpLink(shared_rabbit.url(vhost))
    await link.open()
    async with app, app.worker(concurrency=1):
        for _ in range(10):
            await app.send_task("hold")
        alone = await consumes_alone(link)
        may_end.set()
        await until(lambda: "in exclusive use" in caplog.text)
        await assert_idles()
        await alone.close()
        await app.send_task("note", [2])
        await until(lambda: ran == [2])
    await link.close()
    told = [record for record in caplog.records if "in exclusive use" in record.getMessage()]
    assert {record.levelno for record in told} == {logging.ERROR}
    assert len(told) < 8
    assert "Can't receive" in told[0].getMessage()


async def consumes_alone(link: AmqpLink) -> AmqpChannel:
    """Wait until nobody consumes the queue, and be the only one."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            channel = await link.channel()
            try:
                await channel.consume("default", lambda _: None, "alone", prefetch=1, exclusive=True)
            except ChannelError:
                await asyncio.sleep(0.02)
            else:
                return channel


async def assert_idles() -> None:
    """See that the event loop turns but now and then: some 250 times a second for what is tried again.

    Counted, not timed: one collection of the garbage of all tests takes as long as all that a worker may.
    """
    selector = asyncio.get_running_loop()._selector
    turns = []

    def select(timeout: float | None = None) -> object:
        turns.append(timeout)
        return type(selector).select(selector, timeout)

    selector.select = select
    try:
        await asyncio.sleep(3)
    finally:
        del selector.select
    assert len(turns) < 1500


async def test_worker_says_why_and_goes_on_when_the_right_to_read_is_taken_away_for_a_while(
    shared_rabbit: RabbitServer, vhost: str, someone: str, caplog: pytest.LogCaptureFixture
) -> None:
    app, ran = app_of(shared_rabbit.url(vhost, user=someone, password="secret"))
    async with app, app.worker(concurrency=1):
        await app.send_task("note", [1])
        await until(lambda: ran == [1])
        allow_reading(shared_rabbit, vhost, someone, NO_READING)
        close_connections(shared_rabbit, someone)
        await until(lambda: "Can't receive" in caplog.text)
        assert "ACCESS_REFUSED - access to queue 'default'" in caplog.text
        await assert_idles()
        allow_reading(shared_rabbit, vhost, someone, ".*")
        await app.send_task("note", [2])
        await until(lambda: 2 in ran)
    assert len([record for record in caplog.records if "Can't receive" in record.getMessage()]) < 8


def close_connections(server: RabbitServer, user: str) -> None:
    """Close a user's connections, as the operator can."""
    server.evaluate(
        '[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections(), '
        f'rabbit_networking:connection_info(P, [user]) =:= [{{user, <<"{user}">>}}]].'
    )
