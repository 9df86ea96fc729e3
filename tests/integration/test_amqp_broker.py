"""The RabbitMQ broker when its server, a connection or a queue goes away, and when what it is given is wrong."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests.conditions import until
from tests.servers.rabbitmq import RabbitServer, vhost_of
from tests.servers.redis import free_port

from aiotask.brokers.amqp import AmqpBroker
from aiotask.brokers.amqp.names import Kind, Source
from aiotask.connections.amqp import AmqpLink, Message
from aiotask.exceptions import BrokerConnectionError, BrokerError, BrokerFull, ImproperlyConfigured, PublishError
from aiotask.message import Envelope, Settlement, Start, Verdict, new_id
from aiotask.routing import Binding

QUEUE = "work"
PATIENCE_S = 30.0


def envelope(**fields: object) -> Envelope:
    return Envelope(**{"id": new_id(), "queue": QUEUE, "body": b"body", "content_type": "x/y", **fields})  # type: ignore[arg-type]


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def brokers() -> AsyncIterator[Callable[..., Awaitable[AmqpBroker]]]:
    """Opens brokers, closed after the test."""
    opened: list[AmqpBroker] = []

    async def brokers(url: str, **options: object) -> AmqpBroker:
        broker = AmqpBroker(AmqpLink(url), **options)  # type: ignore[arg-type]
        await broker.open()
        opened.append(broker)
        return broker

    yield brokers
    for broker in opened:
        await broker.close()


async def subscribe(broker: AmqpBroker, lease: float = 20.0):
    return await broker.subscribe([QUEUE], consumer=new_id(), lease=lease, max_losses=4)


async def drain(subscription, wanted: set[str]) -> list[str]:
    """Receive and acknowledge until all that is wanted has come."""
    came: list[str] = []
    async with asyncio.timeout(PATIENCE_S):
        while not wanted <= set(came):
            deliveries = await subscription.receive(100, 1.0)
            came += [delivery.id for delivery in deliveries]
            if deliveries:
                await subscription.settle([Settlement(delivery) for delivery in deliveries])
    return came


async def test_confirmed_messages_survive_when_the_server_is_killed(private_rabbit: RabbitServer, brokers) -> None:
    broker = await brokers(private_rabbit.url(), publish_timeout=2 * PATIENCE_S)
    subscription = await subscribe(broker)
    await broker.publish([envelope(), envelope(delay_s=2.0)])
    await asyncio.to_thread(private_rabbit.wait_until_queues_last)
    sent: set[str] = set()

    async def send(count: int) -> None:
        for at in range(count):
            batch = [envelope(), envelope(delay_s=0.1 + at % 7 * 0.3)]
            await broker.publish(batch)
            sent.update(one.id for one in batch)
            await asyncio.sleep(0.01)

    sending = asyncio.create_task(send(150))
    came: set[str] = set()
    await soon(lambda: _some(subscription, came))
    await asyncio.to_thread(private_rabbit.restart)
    await sending
    await soon(lambda: _drained(subscription, came, private_rabbit))
    assert sent <= came
    assert broker.connected


async def _some(subscription, came: set[str]) -> bool:
    deliveries = await subscription.receive(100, 0.5)
    came.update(delivery.id for delivery in deliveries)
    await subscription.settle([Settlement(delivery) for delivery in deliveries])
    return len(came) > 20


async def _drained(subscription, came: set[str], server: RabbitServer) -> bool:
    deliveries = await subscription.receive(100, 0.5)
    came.update(delivery.id for delivery in deliveries)
    if deliveries:
        await subscription.settle([Settlement(delivery) for delivery in deliveries])
        return False
    names = [Source(QUEUE, kind).name for kind in (Kind.MAIN, Kind.RETURNED, Kind.SUSPECTS)]
    delays = [name for name in server.queues("/") if ".delay." in name]
    ready = server.evaluate(
        'lists:sum([element(2, rabbit_amqqueue:stat(Q)) || Q <- rabbit_amqqueue:list(<<"/">>), '
        "lists:member(binary_to_list(element(4, amqqueue:get_name(Q))), ["
        + ", ".join(f'"{name}"' for name in [*names, *delays])
        + "])])."
    )
    return ready == "0"


async def publish_as_celery(broker: AmqpBroker) -> None:
    """Publish a message that has a task id, and no id of its own."""
    channel = await broker.link.channel(confirms=True)
    sent = Message(QUEUE, b"theirs", "", "application/json", correlation_id="a-task", headers={"id": "a-task"})
    sent.properties = {"message_id": None, "app_id": None}
    assert await channel.publish([sent], PATIENCE_S) == [None]


@pytest.mark.parametrize(
    "publish", [lambda broker: broker.publish([envelope()]), publish_as_celery], ids=["ours", "Celery's"]
)
async def test_running_execution_keeps_its_message_when_the_connection_is_cut(
    rabbit_url: str, brokers, publish: Callable[[AmqpBroker], Awaitable[None]]
) -> None:
    broker = await brokers(rabbit_url)
    subscription = await subscribe(broker)
    await publish(broker)
    [delivery] = await subscription.receive(1, PATIENCE_S)
    assert await subscription.begin([Start(delivery, acks_late=True)]) == [Verdict.RUN]
    subscription.link.cut()
    assert await subscription.receive(1, 1.0) == []  # it comes again, to who has it
    assert await subscription.settle([Settlement(delivery)]) == []
    await subscription.close()
    assert await (await subscribe(broker)).receive(1, 0.3) == []


@pytest.mark.parametrize("receives", [True, False], ids=["while there is room for one", "while nobody receives"])
async def test_all_that_runs_keeps_its_messages_when_the_connection_is_cut(
    rabbit_url: str, brokers, receives: bool
) -> None:
    broker = await brokers(rabbit_url)
    subscription = await subscribe(broker)
    await broker.publish([envelope() for _ in range(3)])
    deliveries = []
    while len(deliveries) < 3:
        deliveries += await subscription.receive(3 - len(deliveries), PATIENCE_S)
    starts = [Start(delivery, acks_late=True) for delivery in deliveries]
    assert await subscription.begin(starts) == [Verdict.RUN] * 3
    told: list[bool] = []
    subscription.link.observe(told.append)
    subscription.link.cut()
    await until(lambda: told)  # it may be up again before anybody looks
    receiving = asyncio.create_task(subscription.receive(1, PATIENCE_S)) if receives else None
    assert await subscription.settle([Settlement(delivery) for delivery in deliveries]) == []
    if receiving is not None:
        receiving.cancel()
        await asyncio.wait([receiving])
    await subscription.close()
    assert await (await subscribe(broker)).receive(1, 0.3) == []


async def test_message_is_not_taken_for_another_of_the_same_id(rabbit_url: str, brokers) -> None:
    """Whoever sends it may say what they want there."""
    broker = await brokers(rabbit_url)
    channel = await broker.link.channel(confirms=True)
    subscription = await subscribe(broker)
    for number in range(2):
        sent = Message(QUEUE, b"theirs", "", headers={"id": f"task-{number}"}, properties={"message_id": "same"})
        assert await channel.publish([sent], PATIENCE_S) == [None]
        if not number:
            [delivery] = await subscription.receive(1, PATIENCE_S)
            assert await subscription.settle([Settlement(delivery)]) == []
            await asyncio.sleep(0.2)  # it takes no more
    other = await broker.link.channel()
    assert (await other.get(QUEUE)) is not None
    await other.close()
    [delivery] = await subscription.receive(1, PATIENCE_S)
    assert delivery.id == "task-1"


async def test_message_waits_once_more_when_it_is_due_later_than_the_ladder_is_long(
    rabbit_url: str, brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("packing", "sender"):
        monkeypatch.setattr(f"aiotask.brokers.amqp.{module}.LONGEST_S", 0.3)
    broker = await brokers(rabbit_url)
    subscription = await subscribe(broker)
    began = time.monotonic()
    await broker.publish([envelope(delay_s=1.0), envelope(due_at=time.time() + 1.0)])
    due = []
    while len(due) < 2:
        due += await subscription.receive(2, PATIENCE_S)
    assert 0.95 < time.monotonic() - began < PATIENCE_S
    assert await subscription.settle([Settlement(one, "release", delay_s=1.0) for one in due]) == []
    began = time.monotonic()
    assert await subscription.receive(1, PATIENCE_S)
    assert 0.95 < time.monotonic() - began < PATIENCE_S


async def test_priority_of_what_takes_the_place_of_a_message_is_kept_where_queues_know_none(
    rabbit_url: str, brokers
) -> None:
    broker = await brokers(rabbit_url)
    subscription = await subscribe(broker)
    await broker.publish([envelope()])
    [delivery] = await subscription.receive(1, PATIENCE_S)
    again = Settlement(delivery, "replace", envelope=envelope(priority=1))
    assert await subscription.settle([again]) == []
    [delivery] = await subscription.receive(1, PATIENCE_S)
    assert delivery.priority == 1


async def test_message_goes_on_when_its_queue_was_deleted(shared_rabbit: RabbitServer, brokers) -> None:
    with vhost_of(shared_rabbit) as vhost:
        broker = await brokers(shared_rabbit.url(vhost))
        subscription = await subscribe(broker)
        await broker.publish([envelope()])
        shared_rabbit.evaluate(
            f'[rabbit_amqqueue:delete(Q, false, false, <<"test">>) || Q <- rabbit_amqqueue:list(<<"{vhost}">>)].'
        )
        late = envelope()
        await broker.publish([late])
        assert late.id in await drain(subscription, {late.id})
        await broker.close()


async def test_publish_says_so_when_the_server_has_no_memory(
    shared_rabbit: RabbitServer, rabbit_url: str, brokers
) -> None:
    broker = await brokers(rabbit_url, publish_timeout=0.5)
    await broker.publish([envelope()])
    shared_rabbit.set_memory_alarm(on=True)
    try:
        await soon(lambda: _refuses(broker))
        with pytest.raises(BrokerFull, match="takes no messages now"):
            await broker.publish([envelope()])
    finally:
        shared_rabbit.set_memory_alarm(on=False)
    await soon(lambda: _takes(broker))


async def test_what_is_given_back_is_sent_once_when_the_server_has_no_memory_for_longer_than_a_lease(
    shared_rabbit: RabbitServer, rabbit_url: str
) -> None:
    broker = AmqpBroker(AmqpLink(rabbit_url, command_timeout=0.3))
    await broker.open()
    subscription = await subscribe(broker, lease=0.5)
    await broker.publish([envelope()])
    [delivery] = await subscription.receive(1, PATIENCE_S)
    shared_rabbit.set_memory_alarm(on=True)
    try:
        settling = asyncio.create_task(subscription.settle([Settlement(delivery, "release")]))
        await soon(lambda: _is_blocked(broker))
        done, _ = await asyncio.wait([settling], timeout=1.5)
        assert not done
    finally:
        shared_rabbit.set_memory_alarm(on=False)
    assert await settling == []
    await subscription.close()
    [depth] = await broker.depths([QUEUE])
    assert depth.ready == 1
    await broker.close()


async def _is_blocked(broker: AmqpBroker) -> bool:
    return broker.link.blocked


async def _refuses(broker: AmqpBroker) -> bool:
    return not await _takes(broker)


async def _takes(broker: AmqpBroker) -> bool:
    try:
        await broker.publish([envelope()])
    except BrokerError:
        return False
    return True


async def test_publish_says_so_when_the_permission_is_revoked(shared_rabbit: RabbitServer, brokers) -> None:
    with vhost_of(shared_rabbit) as vhost:
        broker = await brokers(shared_rabbit.url(vhost))
        await broker.publish([envelope()])
        shared_rabbit.allow(vhost, allowed="^$")
        with pytest.raises(PublishError, match=r"refuses: ACCESS_REFUSED.*set_permissions"):
            await broker.publish([envelope(queue="other")])
        shared_rabbit.allow(vhost)
        await broker.publish([envelope(queue="other")])
        await broker.close()


async def test_message_of_another_program_comes_when_it_is_sent_to_the_exchange(rabbit_url: str, brokers) -> None:
    broker = await brokers(rabbit_url, bindings=[Binding(QUEUE, "events", "topic", "shop.#")])
    subscription = await subscribe(broker)
    channel = await broker.link.channel(confirms=True)
    sent = Message("shop.order.paid", b"theirs", "a-message", "text/plain", "events", correlation_id="an-id")
    sent.properties = {}
    assert await channel.publish([sent], PATIENCE_S) == [None]
    [delivery] = await subscription.receive(1, PATIENCE_S)
    assert (delivery.id, delivery.body, delivery.content_type) == ("an-id", b"theirs", "text/plain")


async def test_priority_is_refused_when_queues_are_made_without(rabbit_url: str, brokers) -> None:
    broker = await brokers(rabbit_url)
    with pytest.raises(ImproperlyConfigured, match="task_queue_max_priority"):
        await broker.publish([envelope(priority=0)])


async def test_queue_without_priorities_is_one_clear_error_when_they_are_set(rabbit_url: str, brokers) -> None:
    await (await brokers(rabbit_url)).publish([envelope()])
    broker = await brokers(rabbit_url, max_priority=9)
    with pytest.raises(BrokerError, match=r"'work' .* was made otherwise"):
        await broker.publish([envelope()])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("guest:guest", "guest:wrong"), "does not accept the user or password"),
        (("/test-", "/no-test-"), "has no virtual host 'no-test-"),
    ],
)
async def test_open_says_what_is_wrong_with_the_url(rabbit_url: str, change: tuple[str, str], said: str) -> None:
    with pytest.raises(BrokerConnectionError, match=said) as raised:
        await AmqpBroker(AmqpLink(rabbit_url.replace(*change))).open()
    assert "wrong@" not in str(raised.value)


async def test_open_says_so_when_the_port_is_no_rabbitmq() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    async with await asyncio.start_server(answer, "127.0.0.1", port):
        with pytest.raises(BrokerConnectionError, match=r"not as a RabbitMQ does|closed the connection"):
            await AmqpBroker(AmqpLink(f"amqp://127.0.0.1:{port}/")).open()
