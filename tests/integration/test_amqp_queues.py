"""What an app has on a RabbitMQ server: its queues as they are made or were found, exchanges, and what reaches none."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask, BrokerError, ImproperlyConfigured, PublishError, Queue, Task, Unroutable
from aiotask.brokers.amqp.topology import Topology
from aiotask.connections.amqp import AmqpChannel, Message, Received
from aiotask.message import new_id

PATIENCE_S = 20.0

FEEDS = [
    Queue("default", exchange="tasks", routing_key="task.#", exchange_type="topic"),
    Queue("feeds", exchange="tasks", routing_key="feed.#"),
    Queue("audit", exchange="tasks", routing_key="#"),
]
NEWS = ["default", Queue("paris", "news", exchange_type="fanout"), Queue("rome", "news")]
MEDIA = ["default", Queue("videos", "media", "media.video"), Queue("images", "media", "media.image")]


@pytest.fixture
def kinds(shared_rabbit: RabbitServer, vhost: str) -> Callable[[], dict[str, str]]:
    """Returns of which type each queue is on the server."""

    def kinds() -> dict[str, str]:
        said = shared_rabbit.evaluate(
            '[binary_to_list(element(4, amqqueue:get_name(Q))) ++ "=" ++ atom_to_list(amqqueue:get_type(Q)) ++ " " || '
            f'Q <- rabbit_amqqueue:list(<<"{vhost}">>)].'
        )
        return dict(entry.strip(' "').split("=") for entry in said.strip("[]").split(",") if entry.strip(' "'))

    return kinds


@pytest.fixture
def drop(shared_rabbit: RabbitServer, vhost: str) -> Callable[[str], None]:
    """Deletes a queue behind everybody's back."""

    def drop(queue: str) -> None:
        shared_rabbit.evaluate(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)), '
            'rabbit_amqqueue:delete(Q, false, false, <<"test">>).'
        )

    return drop


def queue_task(app: AioTask) -> Task:
    """A task that returns the queue that it came from."""

    @app.task(bind=True, name="where")
    async def where(self: Task) -> Any:
        return self.request.delivery_info["queue"]

    return where


# ---- how queues are made ----


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({}, "rabbit_quorum_queue"),
        ({"broker_transport_options": {"queue_type": "classic"}}, "rabbit_classic_queue"),
        ({"task_queue_max_priority": 9}, "rabbit_classic_queue"),
    ],
)
async def test_queues_are_made_as_the_settings_say(
    make: Callable[..., AioTask], kinds: Callable[[], dict[str, str]], settings: dict[str, Any], kind: str
) -> None:
    app = make(**settings)
    where = queue_task(app)
    async with app.worker():
        assert await (await where.delay()).get(timeout=PATIENCE_S) == "default"
    found = kinds()
    assert (found["default"], found["default.returned"]) == (kind, kind)
    assert found["default.workers"] == "rabbit_classic_queue"  # nothing is ever in it


async def test_queue_may_be_made_by_a_caller_while_a_worker_examines_whether_it_could_be(
    make: Callable[..., AioTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an empty server a worker and a caller start at once, as a deployment starts them."""
    worker, caller = make(), make()
    ran: list[int] = []

    @worker.task(name="note")
    async def note(number: int) -> None:
        ran.append(number)

    at_the_caller = caller.task(name="note")(note.run)

    could_make = Topology._could_make

    async def too_late(topology: Topology, name: str) -> None:
        if name == "default":
            await at_the_caller.delay(1)
        await could_make(topology, name)

    monkeypatch.setattr(Topology, "_could_make", too_late)
    async with worker.worker(burst=True) as running:
        await running.wait()
    assert ran == [1]


async def test_fewer_priorities_than_ten_keep_their_order(make: Callable[..., AioTask]) -> None:
    app = make(task_queue_max_priority=3)
    ran: list[int] = []

    @app.task(bind=True)
    async def note(self: Task) -> None:
        ran.append(self.request.priority)

    for priority in (9, 0, 6, 3):
        await note.apply_async(priority=priority)
    async with app.worker(concurrency=1, burst=True) as worker:
        await worker.wait()
    assert ran == [0, 3, 6, 9]


@pytest.mark.parametrize("arguments", [{"x-max-length": 1000}, {"x-queue-type": "quorum", "x-delivery-limit": 20}, {}])
async def test_queue_that_is_there_is_used_as_it_is(
    make: Callable[..., AioTask], other_program: AmqpChannel, kinds: Callable[[], dict[str, str]], arguments: Any
) -> None:
    await other_program.declare_queue("default", arguments)
    before = kinds()
    app = make()
    where = queue_task(app)
    result = await where.delay()
    assert (await other_program.declare_queue("default", arguments)).ready == 1  # it is as it was made, or is refused
    async with app.worker():
        assert await result.get(timeout=PATIENCE_S) == "default"
    assert before["default"] == kinds()["default"]


async def test_exchange_that_is_there_is_used_as_it_is(
    make: Callable[..., AioTask], other_program: AmqpChannel
) -> None:
    await other_program.declare_exchange("tasks", "topic", durable=False)
    app = make(task_queues=FEEDS)
    where = queue_task(app)
    async with app.worker(queues=["feeds"]):
        await other_program.publish([celery_call("where", "tasks", "feed.import")], PATIENCE_S)
        assert await app.result("called").get(timeout=PATIENCE_S) == "feeds"
    await other_program.declare_exchange("tasks", "topic", durable=False)
    assert where.name in app.tasks


async def test_queue_without_priorities_is_one_clear_error_where_they_are_set(make: Callable[..., AioTask]) -> None:
    await queue_task(make()).delay()
    app = make(task_queue_max_priority=9)
    with pytest.raises(BrokerError, match=r"The queue 'default' .* task_queue_max_priority says .*Delete it") as raised:
        await queue_task(app).delay()
    assert "\n" not in str(raised.value)
    with pytest.raises(BrokerError, match="The queue 'default'"):
        async with app.worker():
            pytest.fail("it must not start")


@pytest.mark.parametrize(
    "more",
    [
        {"x-queue-mode": "lazy"},
        {"x-queue-type": "classic"},
        {"x-expires": 3_600_000, "x-max-length": 1000, "x-single-active-consumer": True},
    ],
)
async def test_queue_with_the_priorities_that_are_set_is_used_whatever_else_it_was_made_with(
    make: Callable[..., AioTask], other_program: AmqpChannel, more: dict[str, Any]
) -> None:
    await other_program.declare_queue("default", {"x-max-priority": 9, **more})
    await other_program.declare_queue("others", {"x-max-priority": 8, **more})
    app = make(task_queue_max_priority=9)
    where = queue_task(app)
    async with app.worker():
        assert await (await where.delay()).get(timeout=PATIENCE_S) == "default"
    with pytest.raises(BrokerError, match=r"The queue 'others' .* task_queue_max_priority says .*received '9'"):
        await where.apply_async(queue="others")


# ---- exchanges ----


def celery_call(task: str, exchange: str, key: str) -> Message:
    """A call as Celery sends it to an exchange."""
    headers = {"id": "called", "task": task, "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    properties = {"content_type": "application/json", "content_encoding": "utf-8", "correlation_id": "called"}
    body = json.dumps([[], {}, {}]).encode()
    return Message(key, body, new_id(), exchange=exchange, headers=headers, properties=properties)


@pytest.mark.parametrize(
    ("queues", "exchange", "key", "reached"),
    [
        (FEEDS, "tasks", "feed.import.rss", ["audit", "feeds"]),
        (FEEDS, "tasks", "task", ["audit", "default"]),
        (NEWS, "news", "whatever", ["paris", "rome"]),
        (MEDIA, "media", "media.image", ["images"]),
    ],
)
async def test_call_of_another_program_reaches_the_queues_that_are_bound(
    make: Callable[..., AioTask], other_program: AmqpChannel, queues: Any, exchange: str, key: str, reached: list[str]
) -> None:
    app = make(task_queues=queues)
    ran: list[str] = []
    all_ran = asyncio.Event()

    @app.task(bind=True, name="note")
    async def note(self: Task) -> None:
        ran.append(self.request.delivery_info["queue"])
        if len(ran) == len(reached):
            all_ran.set()

    async with asyncio.timeout(PATIENCE_S), app.worker():
        assert await other_program.publish([celery_call("note", exchange, key)], PATIENCE_S) == [None]
        await all_ran.wait()
    assert sorted(ran) == reached


async def test_call_reaches_queues_that_nobody_had_made(make: Callable[..., AioTask], kinds: Any) -> None:
    app = make(task_queues=FEEDS)
    await queue_task(app).apply_async(exchange="tasks", routing_key="feed.import")
    assert {"feeds", "audit"} <= kinds().keys()
    assert "default" not in kinds()


async def test_routes_lead_to_a_queue_of_an_exchange(make: Callable[..., AioTask]) -> None:
    app = make(task_queues=MEDIA, task_routes={"where": {"exchange": "media", "routing_key": "media.video"}})
    where = queue_task(app)
    async with app.worker():
        assert await (await where.delay()).get(timeout=PATIENCE_S) == "videos"
        assert await (await where.apply_async(routing_key="media.image")).get(timeout=PATIENCE_S) == "images"
        assert await (await where.apply_async(queue="default")).get(timeout=PATIENCE_S) == "default"


# ---- what reaches no queue ----


@pytest.mark.parametrize("mandatory", [False, True])
async def test_message_the_server_returns_is_sent_again_to_a_queue_made_anew(
    make: Callable[..., AioTask], drop: Callable[[str], None], mandatory: bool
) -> None:
    app = make()
    where = queue_task(app)
    await where.delay()
    drop("default")
    result = await where.apply_async(mandatory=mandatory)
    async with app.worker():
        assert await result.get(timeout=PATIENCE_S) == "default"


async def test_call_says_so_when_its_queue_is_gone_and_may_not_be_made(
    make: Callable[..., AioTask], drop: Callable[[str], None], shared_rabbit: RabbitServer, vhost: str
) -> None:
    where = queue_task(make())
    await where.delay()
    drop("default")
    shared_rabbit.allow(vhost, allowed="^(?!default$).*")
    with pytest.raises(PublishError, match=r"refuses: ACCESS_REFUSED.*'default'"):
        await where.apply_async(mandatory=True)


async def test_call_is_unroutable_when_the_settings_bind_no_queue(make: Callable[..., AioTask], kinds: Any) -> None:
    app = make(task_queues=MEDIA)
    where = queue_task(app)
    with pytest.raises(Unroutable, match=r"No queue is bound to the exchange 'media' for the routing key 'media\.txt'"):
        await where.apply_async(exchange="media", routing_key="media.txt", mandatory=True)
    assert kinds() == {}


async def test_immediate_call_counts_the_consumers_of_other_programs(
    make: Callable[..., AioTask], other_program: AmqpChannel
) -> None:
    app = make()
    where = queue_task(app)
    with pytest.raises(Unroutable, match="no worker consumes the queue 'default'"):
        await where.apply_async(immediate=True)
    came = asyncio.get_running_loop().create_future()

    def take(message: Received) -> None:
        came.set_result(message.properties.correlation_id)

    await other_program.declare_queue("default", {"x-queue-type": "quorum"})
    await other_program.consume("default", take, "theirs", prefetch=1)
    result = await where.apply_async(immediate=True)
    async with asyncio.timeout(PATIENCE_S):
        assert await came == result.id


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        (Queue("q", exchange="ümlaut", routing_key="k"), "Queue 'q': the exchange 'ümlaut' can't be on RabbitMQ"),
        (Queue("q", exchange="x" * 128, routing_key="k"), "takes up to 127 of the letters"),
        (Queue("q", exchange="x", routing_key="ü" * 128), "its routing_key has 256 bytes; AMQP takes at most 255"),
    ],
    ids=["letters", "length", "key"],
)
async def test_names_that_amqp_does_not_carry_are_told_when_the_app_is_opened(
    make: Callable[..., AioTask], queue: Queue, said: str
) -> None:
    app = make(task_queues=["default", queue])
    with pytest.raises(ImproperlyConfigured, match=said):
        await app.connect()


@pytest.mark.parametrize("acks_late", [False, True], ids=["early", "late"])
async def test_worker_takes_no_more_than_it_has_slots_for(
    make: Callable[..., AioTask], other_program: AmqpChannel, acks_late: bool
) -> None:
    """The rest waits in the queue, for whoever comes."""
    app = make(task_acks_late=acks_late)
    running, going_on = asyncio.Semaphore(0), asyncio.Event()

    @app.task
    async def work() -> None:
        running.release()
        await going_on.wait()

    async with app:
        sent = await work.send_many([()] * 20)
        async with app.worker(concurrency=3):
            for _ in range(3):
                await running.acquire()
            await asyncio.sleep(0.5)  # it takes what it would
            waiting = (await other_program.declare_queue("default", passive=True)).ready
            going_on.set()
            for each in sent:
                await each.get(PATIENCE_S)
    assert running._value == 17
    assert 20 - 2 * 3 <= waiting <= 20 - 3
