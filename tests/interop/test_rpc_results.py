"""Results over `rpc://`: a reply queue of RabbitMQ, which Celery's workers fill and Celery's clients read as well."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask, ImproperlyConfigured
from aiotask.connections.amqp import AmqpLink
from aiotask.exceptions import BackendConnectionError, BackendError, ContentDisallowed
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
