"""Results over `rpc://`: a reply queue of RabbitMQ, which Celery's workers fill and Celery's clients read as well."""

import asyncio
import gc
import math
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aio_pika
import kombu.exceptions
import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask, ImproperlyConfigured
from aiotask.connections.amqp import AmqpLink
from aiotask.exceptions import BackendConnectionError, BackendError, ContentDisallowed, EncodeError
from aiotask.outcome import TaskMeta
from aiotask.results.rpc import RpcBackend
from aiotask.states import FAILURE, STARTED, SUCCESS
from aiotask.tasks import Task
from aiotask.wire.errors import from_record, to_record

Connect = Callable[..., Awaitable[RpcBackend]]


@pytest.fixture
def celery_app(rabbit_url: str) -> Celery:
    return Celery("theirs", broker=rabbit_url, backend="rpc://", set_as_current=False)


@pytest.fixture
async def connect(rabbit_url: str) -> AsyncIterator[Connect]:
    """Opens backends, each as another process has it, that are closed with the test."""
    opened: list[RpcBackend] = []

    async def connect(url: str = rabbit_url, **options: Any) -> RpcBackend:
        backend = RpcBackend(AmqpLink(url), **options)
        await backend.open()
        opened.append(backend)
        return backend

    yield connect
    for backend in opened:
        await backend.close()


async def send(backend: RpcBackend, reply_to: str, *metas: TaskMeta) -> None:
    """Send as a worker does: again and again until it is done."""
    for meta in metas:
        meta.reply_to = reply_to
    rows = [backend.encode(meta, None) for meta in metas]
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await backend.store(rows)
            except BackendConnectionError:
                await asyncio.sleep(0.05)


async def final(backend: RpcBackend, id_: str) -> TaskMeta:
    async with asyncio.timeout(PATIENCE_S), backend.watch([id_]) as changes:
        async for change in changes:
            if change.ready:
                return change
    raise AssertionError("the watch ended")


# ---- among us ----


async def test_caller_is_told_of_each_state_as_it_comes(connect: Connect) -> None:
    caller, worker = await connect(), await connect()
    caller.expect(["a", "b"])
    async with asyncio.timeout(PATIENCE_S), caller.watch(["a"]) as changes:
        for state, result in ((STARTED, None), ("PROGRESS", {"done": 1}), (SUCCESS, [1, "two"])):
            await send(worker, caller.reply_to, TaskMeta(id="a", state=state, result=result))
            change = await anext(changes)
            assert (change.id, change.state, change.result) == ("a", state, result)
    first, second = await caller.fetch(["a", "b"])
    assert first is not None
    assert (first.state, first.result, second) == (SUCCESS, [1, "two"], None)


async def test_final_state_stays_whatever_comes_later(connect: Connect) -> None:
    caller, worker = await connect(), await connect()
    caller.expect(["a", "z"])
    await send(worker, caller.reply_to, TaskMeta(id="a", state=SUCCESS, result=1), TaskMeta(id="a", state=STARTED))
    await send(worker, caller.reply_to, TaskMeta(id="z", state=SUCCESS))
    await final(caller, "z")  # behind them in the queue
    assert (await final(caller, "a")).result == 1


async def test_result_of_another_process_is_a_clear_error(connect: Connect) -> None:
    caller, other, worker = await connect(), await connect(), await connect()
    caller.expect(["a"])
    await send(worker, caller.reply_to, TaskMeta(id="a", state=SUCCESS))
    await final(caller, "a")
    for ask in (lambda: other.fetch(["a"]), lambda: final(other, "a")):
        with pytest.raises(BackendError, match="only the process that has sent a task gets its result"):
            await ask()


async def test_result_that_nobody_waits_for_is_sent_nowhere(connect: Connect) -> None:
    worker = await connect()
    await worker.store([worker.encode(TaskMeta(id="a", state=SUCCESS), None)])
    await send(worker, "a-queue-that-is-gone", TaskMeta(id="a", state=SUCCESS))


async def test_forgotten_result_is_gone(connect: Connect) -> None:
    caller, worker = await connect(), await connect()
    caller.expect(["a"])
    await send(worker, caller.reply_to, TaskMeta(id="a", state=SUCCESS))
    await final(caller, "a")
    assert (await caller.forget(["a"]), await caller.forget(["a"])) == (1, 0)
    assert await caller.fetch(["a"]) == [None]


async def test_many_results_come_whatever_the_prefetch(connect: Connect) -> None:
    caller, worker = await connect(), await connect()
    ids = [f"id-{number}" for number in range(5000)]
    caller.expect(ids)
    for at in range(0, len(ids), 500):
        await send(worker, caller.reply_to, *(TaskMeta(id=id_, state=SUCCESS) for id_ in ids[at : at + 500]))
    for id_ in ids:
        await final(caller, id_)


@pytest.mark.parametrize("count", [1, 300])
async def test_what_has_come_is_off_the_server_once_the_caller_has_closed(connect: Connect, count: int) -> None:
    """It is acknowledged by and by, and at the latest then."""
    caller, worker = await connect(), await connect()
    ids = [f"id-{number}" for number in range(count)]
    caller.expect(ids)
    await send(worker, caller.reply_to, *(TaskMeta(id=id_, state=SUCCESS) for id_ in ids))
    await final(caller, ids[-1])
    await caller.close()
    channel = await worker.link.channel()
    assert (await channel.declare_queue(caller.reply_to, passive=True)).ready == 0
    await channel.close()


async def test_results_come_after_the_connection_was_lost(connect: Connect, shared_rabbit: RabbitServer) -> None:
    caller, worker = await connect(), await connect()
    caller.expect(["before", "after"])
    await send(worker, caller.reply_to, TaskMeta(id="before", state=SUCCESS))
    shared_rabbit.close_connections()
    await send(worker, caller.reply_to, TaskMeta(id="after", state=SUCCESS))
    assert [(await final(caller, id_)).state for id_ in ("before", "after")] == [SUCCESS, SUCCESS]


@pytest.mark.parametrize("persistent", [True, False])
async def test_waiting_results_outlive_the_server_when_they_are_persistent(
    connect: Connect, tmp_path: Path, persistent: bool
) -> None:
    with RabbitServer(tmp_path / "rabbit") as server:
        caller = await connect(server.url())
        worker = await connect(server.url(), persistent=persistent)
        caller.expect(["waiting", "later"])
        await caller.close()
        await send(worker, caller.reply_to, TaskMeta(id="waiting", state=SUCCESS))
        await worker.close()
        server.restart()
        await caller.open()
        await worker.open()
        await send(worker, caller.reply_to, TaskMeta(id="later", state=SUCCESS))
        await final(caller, "later")
        [waited] = await caller.fetch(["waiting"])
        assert (waited is not None) is persistent
        await worker.close()
        await caller.close()


# ---- what the server does not take ----


@pytest.fixture
def max_message_size(shared_rabbit: RabbitServer) -> Iterator[int]:
    """The most bytes that the server takes in a message, on channels that are opened from now on."""
    before = shared_rabbit.evaluate("element(2, application:get_env(rabbit, max_message_size)).")
    shared_rabbit.evaluate("application:set_env(rabbit, max_message_size, 20000).")
    yield 20_000
    shared_rabbit.evaluate(f"application:set_env(rabbit, max_message_size, {before}).")


async def test_result_that_is_larger_than_the_server_takes_is_a_failure_alone(
    connect: Connect, max_message_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The others in its batch come, whatever their place; a state that is not final is left out: another will come."""
    caller, worker = await connect(), await connect()
    caller.expect(["first", "large", "state", "last"])
    done = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    large = TaskMeta(
        id="large",
        state=SUCCESS,
        result="x" * max_message_size,
        args=["y" * max_message_size, math.nan],  # which is JSON of Python's alone
        children=["z" * max_message_size],
        date_done=done,
        name="proj.large\n",
        retries=2,
        queue="q",
    )
    await send(
        worker,
        caller.reply_to,
        TaskMeta(id="first", state=SUCCESS, result=1),
        large,
        TaskMeta(id="state", state="PROGRESS", result="x" * max_message_size),
        TaskMeta(id="last", state=SUCCESS, result=2),
    )
    assert [(await final(caller, id_)).result for id_ in ("first", "last")] == [1, 2]
    meta = await final(caller, "large")
    error = from_record(meta.result, None)
    assert (meta.state, type(error), meta.date_done, meta.name, meta.retries, meta.queue) == (
        *(FAILURE, EncodeError, done, "proj.large\n", 2, "q"),
    )
    for said in ("of task large has 6", "more than the 20,000 that RabbitMQ takes", "max_message_size", "Return less"):
        assert said in str(error)
    assert await caller.fetch(["state"]) == [None]
    await send(worker, caller.reply_to, TaskMeta(id="state", state=SUCCESS))
    await final(caller, "state")
    lines = [record.getMessage() for record in caplog.records if "max_message_size" in record.getMessage()]
    assert [line.split(" has ")[0] for line in lines] == [
        "The state SUCCESS of task proj.large\\n[large]",
        "The state PROGRESS of task ?[state]",
    ]
    assert [line.rpartition(": ")[2] for line in lines] == ["its caller gets a failure that says so", "it is left out"]


async def test_results_of_others_come_when_each_sends_one_that_is_too_large(
    connect: Connect, max_message_size: int
) -> None:
    """They share a channel, which the server closes under all of them."""
    caller, worker = await connect(), await connect()
    ids = [f"{size}-{number}" for number in range(20) for size in ("small", "large")]
    caller.expect(ids)

    def meta(id_: str) -> TaskMeta:
        return TaskMeta(id=id_, state=SUCCESS, result="x" * max_message_size if id_.startswith("large") else 1)

    await asyncio.gather(*(send(worker, caller.reply_to, *map(meta, ids[at : at + 4])) for at in range(0, 40, 4)))
    states = {id_: (await final(caller, id_)).state for id_ in ids}
    assert states == {id_: FAILURE if id_.startswith("large") else SUCCESS for id_ in ids}


async def test_nothing_waits_for_a_failure_that_is_too_large_itself(
    connect: Connect, shared_rabbit: RabbitServer, max_message_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    shared_rabbit.evaluate("application:set_env(rabbit, max_message_size, 300).")
    caller, worker = await connect(), await connect()
    caller.expect(["large", "small"])
    row = TaskMeta(id="large", state=SUCCESS, result="x" * max_message_size)
    await send(worker, caller.reply_to, row, TaskMeta(id="small", state=SUCCESS))
    await final(caller, "small")
    assert await caller.fetch(["large"]) == [None]
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == ["it is left out"]


async def test_results_that_the_user_may_not_send_say_so(
    connect: Connect, rabbit_url: str, shared_rabbit: RabbitServer
) -> None:
    worker = await connect()
    shared_rabbit.allow(rabbit_url.rpartition("/")[2], allowed="aiotask.*")
    row = worker.encode(TaskMeta(id="a", state=SUCCESS, reply_to="somewhere"), None)
    with pytest.raises(BackendError, match=r"refuses: ACCESS_REFUSED .* Give the user the permission"):
        await worker.store([row])


@pytest.mark.parametrize(
    ("id_", "to", "why"),
    [
        ("i" * 300, None, "its id, by which its caller would know it, has 300 bytes"),
        ("é" * 128, None, "its id, by which its caller would know it, has 256 bytes"),
        ("a", "é" * 128, "its reply_to, a queue's name, has 256 bytes"),
    ],
)
async def test_result_that_can_not_be_addressed_is_left_out_alone(
    connect: Connect, caplog: pytest.LogCaptureFixture, id_: str, to: str | None, why: str
) -> None:
    caller, worker = await connect(), await connect()
    longest = ("i" * 255, "é" * 127)
    caller.expect(longest)
    metas = [TaskMeta(id=id_, state=state, reply_to=to or caller.reply_to, name="n") for state in (STARTED, SUCCESS)]
    metas[1:1] = [TaskMeta(id=known, state=SUCCESS, reply_to=caller.reply_to) for known in longest]
    await worker.store([worker.encode(meta, None) for meta in metas])
    for known in longest:
        await final(caller, known)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("The result of task n[")
    assert line.endswith(f"is sent to nobody: {why}, and AMQP takes 255 there")


# ---- Celery's workers to us ----


async def test_state_that_celery_s_worker_sends_comes(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect
) -> None:
    caller = await connect()
    caller.expect(["a"])
    request = Context(id="a", reply_to=caller.reply_to, correlation_id="a")
    async with asyncio.timeout(PATIENCE_S), caller.watch(["a"]) as changes:
        for state, result in (("STARTED", {"pid": 1}), ("SUCCESS", {"sum": 3})):
            await in_celery(lambda: celery_app.backend.store_result("a", result, state, request=request))  # noqa: B023
            change = await anext(changes)
            assert (change.state, change.result) == (state, result)


async def test_error_that_celery_s_worker_sends_comes(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect
) -> None:
    caller = await connect()
    caller.expect(["a"])
    request = Context(id="a", reply_to=caller.reply_to, correlation_id="a", errbacks=None)
    error = LookupError("gone", 7)
    backend = celery_app.backend
    await in_celery(lambda: backend.mark_as_failure("a", error, traceback="Traceback: theirs", request=request))
    meta = await final(caller, "a")
    found = from_record(meta.result, meta.traceback)
    assert (type(found), found.args, meta.traceback) == (LookupError, ("gone", 7), "Traceback: theirs")


async def test_pickled_result_is_never_decoded_and_is_a_failure(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect
) -> None:
    caller = await connect()
    caller.expect(["a"])
    celery_app.conf.result_serializer = "pickle"
    request = Context(id="a", reply_to=caller.reply_to, correlation_id="a")
    await in_celery(lambda: celery_app.backend.store_result("a", 1, "SUCCESS", request=request))
    meta = await final(caller, "a")
    found = from_record(meta.result, None)
    assert (meta.state, type(found)) == (FAILURE, ContentDisallowed)
    assert "application/x-python-serialize" in str(found)


# ---- ours to Celery's clients ----


@pytest.fixture
async def waiting(celery_app: Celery, in_celery: InCelery[Any]) -> AsyncResult:
    """A result that Celery's client waits for, of a task that it has sent to a queue that nobody takes from."""
    return await in_celery(lambda: celery_app.send_task("nobody.runs.it", queue="unattended"))


async def test_celery_s_client_gets_what_we_send(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect, waiting: AsyncResult
) -> None:
    worker = await connect()
    reply_to = await in_celery(lambda: celery_app.backend.oid)  # type: ignore[attr-defined]
    await send(worker, reply_to, TaskMeta(id=waiting.id, state=STARTED, result={"pid": 1, "hostname": "w@h"}))
    async with asyncio.timeout(PATIENCE_S):
        while await in_celery(lambda: waiting.state) != "STARTED":
            await asyncio.sleep(0.01)
    await send(worker, reply_to, TaskMeta(id=waiting.id, state=SUCCESS, result={"sum": 3}, name="proj.add"))
    assert await in_celery(lambda: waiting.get(timeout=PATIENCE_S)) == {"sum": 3}


async def test_celery_s_client_raises_the_error_that_we_send(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect, waiting: AsyncResult
) -> None:
    worker = await connect()
    reply_to = await in_celery(lambda: celery_app.backend.oid)  # type: ignore[attr-defined]
    record = to_record(LookupError("gone", 7))
    await send(worker, reply_to, TaskMeta(id=waiting.id, state=FAILURE, result=record, traceback="Traceback: ours"))
    with pytest.raises(LookupError) as raised:
        await in_celery(lambda: waiting.get(timeout=PATIENCE_S))
    assert raised.value.args == ("gone", 7)
    assert await in_celery(lambda: waiting.traceback) == "Traceback: ours"


async def test_celery_s_client_is_told_of_a_result_that_is_too_large(
    celery_app: Celery, in_celery: InCelery[Any], connect: Connect, waiting: AsyncResult, max_message_size: int
) -> None:
    worker = await connect()
    reply_to = await in_celery(lambda: celery_app.backend.oid)  # type: ignore[attr-defined]
    await send(worker, reply_to, TaskMeta(id=waiting.id, state=SUCCESS, result="x" * max_message_size))
    with pytest.raises(kombu.exceptions.EncodeError, match="max_message_size"):
        await in_celery(lambda: waiting.get(timeout=PATIENCE_S))


# ---- whole apps ----


@pytest.fixture
async def app(rabbit_url: str) -> AsyncIterator[AioTask]:
    """An app on RabbitMQ and nothing else: its results come over `rpc://`, which the broker implies."""
    made = AioTask("ours", broker=rabbit_url)

    @made.task(bind=True, name="ours.add")
    async def add(self: Task, x: int, y: int) -> int:
        self.update_state(state="PROGRESS", meta={"x": x})
        if self.request.retries == 0 and y < 0:
            raise self.retry(countdown=0)
        return x + y

    yield made
    await made.close()


async def test_results_of_an_app_on_rabbitmq_come_back_to_it(app: AioTask) -> None:
    async with app.worker():
        results = [await app.send_task("ours.add", (number, 1)) for number in range(50)]
        assert [await result.get(timeout=PATIENCE_S) for result in results] == [number + 1 for number in range(50)]
        retried = await app.send_task("ours.add", (1, -1))
        assert [meta.state async for meta in retried.updates()][-1] == SUCCESS


async def test_result_of_an_app_is_a_clear_error_in_another_process(app: AioTask, rabbit_url: str) -> None:
    async with app.worker(), AioTask("other", broker=rabbit_url) as other:
        result = await app.send_task("ours.add", (1, 2))
        asked = other.result(result.id)
        for ask in (lambda: asked.get(timeout=1), asked.state):
            with pytest.raises(BackendError, match=f"{result.id} does not come here: with rpc://"):
                await ask()
        assert await result.get(timeout=PATIENCE_S) == 3


async def test_workers_tell_their_own_callers(app: AioTask, rabbit_url: str) -> None:
    """Each process has a reply queue of its own, also where both send and both run."""
    async with AioTask("other", broker=rabbit_url) as other, app.worker():
        calls = [await sender.send_task("ours.add", (1, number)) for number in range(20) for sender in (app, other)]
        found = [await call.get(timeout=PATIENCE_S) for call in calls]
    assert found == [1 + number for number in range(20) for _ in "ab"]


async def test_message_of_ours_has_three_headers_at_most(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    await app.send_task("ours.add", (1, 2), headers={"x-mine": "v"}, expires=60, shadow="other")

    def raw() -> Any:
        with celery_app.connection() as connection:
            return connection.default_channel.basic_get("default", no_ack=True)

    message = await in_celery(raw)
    assert message.properties["content_type"] == "application/vnd.aiotask+msgpack"
    assert len(message.properties.get("application_headers") or {}) <= 3


async def test_task_that_returns_more_than_the_server_takes_fails_and_holds_nobody_up(
    app: AioTask, max_message_size: int, caplog: pytest.LogCaptureFixture
) -> None:
    runs = []

    @app.task(name="ours.large")
    async def large(size: int) -> str:
        runs.append(size)
        return "x" * size

    async with app.worker():
        results = [await large.delay(size) for size in (max_message_size, 5, max_message_size + 1, 6)]
        found = [await result.get(timeout=PATIENCE_S, propagate=False) for result in results]
        assert [await result.state() for result in results] == [FAILURE, SUCCESS, FAILURE, SUCCESS]
    assert [type(value) for value in found] == [EncodeError, str, EncodeError, str]
    assert len(runs) == 4
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("aiotask.results")]
    assert [results[at].id in line for at, line in zip((0, 2), lines, strict=True)] == [True, True]


async def test_worker_goes_on_after_a_result_that_can_not_be_addressed(
    app: AioTask, rabbit_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Celery's messages have the id in a header, which may be longer than what names the result."""
    async with app:
        await (await app.send_task("ours.add", (0, 0))).forget()  # the queue is there then
        connection = await aio_pika.connect(rabbit_url)
        async with connection:
            message = aio_pika.Message(
                b"[[1, 2], {}, {}]",
                headers={"id": "i" * 300, "task": "ours.add", "lang": "py"},
                content_type="application/json",
                content_encoding="utf-8",
                reply_to="somewhere",
            )
            exchange = (await connection.channel()).default_exchange
            await exchange.publish(message, routing_key="default")
        async with app.worker(concurrency=1):
            assert await (await app.send_task("ours.add", (1, 2))).get(timeout=PATIENCE_S) == 3
    [line] = [record.getMessage() for record in caplog.records if record.name.startswith("aiotask.results")]
    assert "is sent to nobody: its id" in line


@pytest.mark.parametrize("broker", ["memory://", "sqlite:///tasks.db"])
async def test_rpc_needs_rabbitmq(broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    app = AioTask("ours", broker=broker, backend="rpc://")
    with pytest.raises(ImproperlyConfigured, match="takes an amqp:// broker"):
        await app.send_task("ours.add", (1, 2))


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What is in a circle stays until it ends, as it may for a while in any program."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.filterwarnings("ignore")  # what a loop that is closed too early leaves behind complains
@pytest.mark.usefixtures("no_collection")
def test_results_come_on_the_next_loop_when_one_was_left_open(rabbit_url: str) -> None:
    app = AioTask("ours", broker=rabbit_url)

    @app.task(name="ours.one")
    async def one() -> int:
        return 1

    async def call() -> int:
        async with app.worker():
            result = await one.delay()
            found = await result.get(timeout=PATIENCE_S)
        await app.connect()  # and left so
        return found

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert first.run_until_complete(call()) == 1
    first.close()
    assert second.run_until_complete(call()) == 1
    second.run_until_complete(app.close())
    second.close()
    del first, second
    gc.collect()  # here, where its complaints belong


@pytest.mark.parametrize("cut", [False, True], ids=["deleted", "deleted while the connection was lost"])
async def test_who_waits_is_told_when_the_reply_queue_was_gone(
    app: AioTask, rabbit_url: str, shared_rabbit: RabbitServer, cut: bool
) -> None:
    """What was sent meanwhile had nowhere to go: nobody is left to wait for ever."""
    async with app:
        backend: Any = app.backend
        result = await app.send_task("nobody.runs.it", queue="unattended")
        waiting = [asyncio.create_task(result.get()) for _ in range(2)]
        async with asyncio.timeout(PATIENCE_S):
            while len(backend._watches) < 2:
                await asyncio.sleep(0.01)
        vhost = rabbit_url.rpartition("/")[2]
        name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{backend.reply_to}">>)'
        closing = '[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()], '
        shared_rabbit.evaluate(
            f"{closing if cut else ''}{{ok, Q}} = rabbit_amqqueue:lookup({name}), "
            'rabbit_amqqueue:delete(Q, false, false, <<"test">>), ok.'
        )
        async with asyncio.timeout(PATIENCE_S):
            for waiter in waiting:
                with pytest.raises(BackendError, match=r"reply queue of this process was gone .* ask again"):
                    await waiter
            again = await app.send_task("ours.add", (1, 2))
            async with app.worker():
                assert await again.get() == 3


async def test_who_waits_is_told_when_the_app_is_closed(app: AioTask) -> None:
    """Each in its own way of waiting; what comes meanwhile is there when the app is open again."""
    result = await app.send_task("ours.add", (1, 2))
    backend: Any = app.backend
    waiting = [asyncio.create_task(result.get()), asyncio.create_task(anext(result.updates()))]  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        while len(backend._watches) < 2:
            await asyncio.sleep(0.01)
        await app.close()
        for waiter in waiting:
            with pytest.raises(BackendConnectionError, match="result backend was closed while a result was waited for"):
                await waiter
        async with app.worker():
            assert await result.get() == 3
    assert not backend._watches


async def test_call_that_opens_the_app_names_the_reply_queue(app: AioTask) -> None:
    @app.task(bind=True, name="ours.whereto")
    async def whereto(self: Task) -> str | None:
        return self.request.reply_to

    before = app.backend.reply_to  # type: ignore[attr-defined]
    result = await whereto.delay()
    async with app.worker():
        assert await result.get(timeout=PATIENCE_S) == before == app.backend.reply_to  # type: ignore[attr-defined]


FORKING = """
import asyncio, os, sys
from aiotask import AioTask, BackendError

app = AioTask("ours", broker=sys.argv[1])

async def call(count):
    async with app:
        results = [await app.send_task("ours.add", (1, number)) for number in range(count)]
        found = [await result.get(timeout=20) for result in results]
        assert found == [1 + number for number in range(count)], found
        return results[0]

async def ask_for(task_id):
    async with app:
        try:
            await app.result(task_id).get(timeout=20)
        except BackendError as error:
            return str(error)

def say():
    os.write(1, f"{app.backend.reply_to} ".encode())  # at once, so that two at a time stay apart

first = None
if sys.argv[2] == "used":
    first = asyncio.run(call(1))
say()
ours = app.backend.reply_to
children = []
for _ in range(2):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if sys.argv[3] == "asked before":
                say()
            if first is not None:
                assert "does not come here" in asyncio.run(ask_for(first.id))
            asyncio.run(call(5))
            if sys.argv[3] != "asked before":
                say()
            code = 0
        finally:
            os._exit(code)
    children.append(child)
codes = [os.waitpid(child, 0)[1] for child in children]
assert codes == [0, 0], codes
asyncio.run(call(5))
assert app.backend.reply_to == ours
"""


@pytest.mark.parametrize("name", ["asked before", "asked after"])
@pytest.mark.parametrize("before", ["used", "touched"])
async def test_process_that_is_forked_has_a_reply_queue_of_its_own(
    app: AioTask, rabbit_url: str, tmp_path: Path, before: str, name: str
) -> None:
    """An app that was used and closed before the fork, or only looked at; nobody takes what is another's."""
    (tmp_path / "forking.py").write_text(FORKING, encoding="utf-8")
    async with app.worker(), asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            *("timeout", "-k", "1", "50", sys.executable, "forking.py", rabbit_url, before, name),  # outlives no test
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    names = said.decode().split()
    assert (len(names), len(set(names))) == (3, 3)


async def test_process_has_one_reply_queue_and_none_is_left_where_nothing_can_come(
    app: AioTask, rabbit_url: str, shared_rabbit: RabbitServer
) -> None:
    def reply_queues() -> list[str]:
        return [name for name in shared_rabbit.queues(rabbit_url.rpartition("/")[2]) if ".reply." in name]

    async with AioTask("another", broker=rabbit_url), app:
        assert len(reply_queues()) == 2
        async with app.worker():
            assert [await (await app.send_task("ours.add", (1, n))).get(timeout=PATIENCE_S) for n in range(5)] == [
                *range(1, 6)
            ]
            assert len(reply_queues()) == 2
    assert reply_queues() == [app.backend.reply_to]  # type: ignore[attr-defined]
