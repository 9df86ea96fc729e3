"""When a message is acknowledged, and what that means when a worker is stopped or lost."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.guide.conftest import Depth
from tests.guide.letters import read_letters

from aiotask import AioTask, AsyncResult, Ignore, Reject, WorkerLost
from aiotask.brokers.amqp.subscription import AmqpSubscription
from aiotask.message import DeadLetter, Delivery, Start, Verdict

DeadLetters = Callable[[], Awaitable[list[DeadLetter]]]


SHORT_LEASE = {"worker_lease": 1.2, "worker_lease_renewal": 0.3}
"""So that a worker looks for what others have lost more often than every five seconds."""


async def states_of(result: AsyncResult[Any]) -> list[str]:
    """Follow a task to its end."""
    return [meta.state async for meta in result.updates()]


async def start_and_lose(app: AioTask, *, acks_late: bool, lease: float = 0.2) -> Delivery:
    """Start the next message as a worker does that is killed then: its lease is not renewed any more."""
    await app.connect()
    doomed = await app.broker.subscribe(["default"], consumer="doomed", lease=lease, max_losses=4)
    [delivery] = await doomed.receive(1, 5.0)
    assert await doomed.begin([Start(delivery, acks_late)]) == [Verdict.RUN]
    lose(doomed)
    return delivery


def lose(doomed: Any) -> None:
    """Let a subscription be that of a killed worker: RabbitMQ sees that by its connection, others by its lease."""
    if isinstance(doomed, AmqpSubscription):
        doomed.link.cut()


@pytest.mark.parametrize("acks_late", [False, True])
async def test_message_is_gone_when_its_task_has_ended_well_or_badly(
    app: AioTask, depth: Depth, dead_letters: DeadLetters, acks_late: bool
) -> None:
    @app.task(acks_late=acks_late)
    async def run(fails: bool) -> None:
        if fails:
            raise ValueError

    results = [await run.delay(False), await run.delay(True)]
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert [await result.state() for result in results] == ["SUCCESS", "FAILURE"]
    found = await depth()
    assert (found.ready, found.delayed, found.reserved, found.dead) == (0, 0, 0, 0)
    assert await dead_letters() == []


async def test_message_of_a_lost_worker_runs_again_when_it_is_acknowledged_late(app: AioTask) -> None:
    @app.task(acks_late=True, bind=True)
    async def run(self) -> list[Any]:  # type: ignore[no-untyped-def]
        info = self.request.delivery_info
        return [info["redelivered"], info["delivery_count"]]

    result = await run.delay()
    await start_and_lose(app, acks_late=True)
    app.conf.update(**SHORT_LEASE)
    async with app.worker():
        assert await result.get(timeout=10) == [True, 2]


@pytest.mark.not_on("amqp", "RabbitMQ has nothing left of what was acknowledged early: its server forgets it at once")
async def test_message_of_a_lost_worker_fails_and_never_runs_again_when_it_is_acknowledged_early(
    app: AioTask, dead_letters: DeadLetters
) -> None:
    runs = []

    @app.task
    async def run() -> None:
        runs.append(1)

    result = await run.delay()
    await start_and_lose(app, acks_late=False)
    app.conf.update(**SHORT_LEASE)
    async with app.worker():
        with pytest.raises(WorkerLost, match="The worker that had started it was lost"):
            await result.get(timeout=10)
        [letter] = await dead_letters()
    assert (letter.id, letter.reason) == (result.id, "WorkerLost")
    assert runs == []


async def test_message_runs_no_more_when_it_has_lost_its_workers_too_often(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = AioTask("proj", broker=url, task_max_deliveries=2, **SHORT_LEASE)
    runs = []

    @app.task(acks_late=True)
    async def run() -> None:
        runs.append(1)

    result = await run.delay()
    for _ in range(2):
        await start_and_lose(app, acks_late=True)
    async with app.worker():
        with pytest.raises(WorkerLost, match=r"Workers were lost 2 times after starting it \(task_max_deliveries\)"):
            await result.get(timeout=10)
        [letter] = await read_letters(app)
    assert runs == []
    assert (letter.id, letter.reason) == (result.id, "WorkerLost")
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert f"{run.name}[{result.id}] was dead-lettered after " in record.getMessage()


async def test_message_that_was_received_and_not_started_is_never_lost(app: AioTask) -> None:
    @app.task
    async def run() -> int:
        return 5

    result = await run.delay()
    doomed = await app.broker.subscribe(["default"], consumer="doomed", lease=0.2, max_losses=4)
    assert len(await doomed.receive(1, 5.0)) == 1
    lose(doomed)
    app.conf.update(**SHORT_LEASE)
    async with app.worker():
        assert await result.get(timeout=10) == 5


async def test_message_of_a_long_task_stays_with_its_worker(url: str) -> None:
    app = AioTask("proj", broker=url, worker_lease=0.4, worker_lease_renewal=0.1)
    runs, release = [], threading.Event()

    @app.task(acks_late=True)
    def run() -> None:
        runs.append(1)
        release.wait(10)

    async with app.worker(name="a"), app.worker(name="b"):
        result = await run.delay()
        with pytest.raises(TimeoutError):
            await result.get(timeout=1.2)  # three leases long
        release.set()
        await result.get(timeout=10)
    assert runs == [1]


# Stopping


async def test_late_acknowledged_task_is_handed_back_when_the_worker_stops_at_once(app: AioTask, depth: Depth) -> None:
    started, runs = asyncio.Event(), []

    @app.task(acks_late=True, bind=True)
    async def run(self) -> bool:  # type: ignore[no-untyped-def]
        runs.append(self.request.delivery_info["redelivered"])
        if len(runs) == 1:
            started.set()
            await asyncio.Event().wait()
        return bool(self.request.delivery_info["redelivered"])

    result = await run.delay()
    async with app.worker() as worker:
        await started.wait()
        worker.stop()
        worker.stop()
    assert worker.left_behind == 1
    assert (await depth()).ready == 1
    assert not await result.ready()
    async with app.worker():
        assert await result.get(timeout=10) is True
    assert runs == [False, True]


async def test_early_acknowledged_task_ends_as_worker_lost_when_the_worker_stops_at_once(
    app: AioTask, depth: Depth, dead_letters: DeadLetters
) -> None:
    started, ended = asyncio.Event(), []

    @app.task
    async def run() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(1)

    result = await run.delay()
    async with app.worker() as worker:
        await started.wait()
        worker.stop()
        worker.stop()
    assert ended == [1]
    async with app:
        with pytest.raises(WorkerLost, match="The worker was stopped before it was done"):
            await result.get(timeout=10)
        assert [letter.id for letter in await dead_letters()] == [result.id]
        assert (await depth()).ready == 0


async def test_task_may_end_in_order_when_it_is_cancelled_by_a_stop(app: AioTask) -> None:
    started = asyncio.Event()

    @app.task
    async def run() -> str:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "saved what there was"
        return "not reached"

    result = await run.delay()
    async with app.worker() as worker:
        await started.wait()
        worker.stop()
        worker.stop()
    async with app:
        assert await result.get(timeout=10) == "saved what there was"


async def test_reserved_messages_are_handed_back_unharmed_when_the_worker_stops(app: AioTask, depth: Depth) -> None:
    started, release, runs = asyncio.Event(), asyncio.Event(), []

    @app.task
    async def run(number: int) -> int:
        runs.append(number)
        started.set()
        await release.wait()
        return number

    app.conf.worker_prefetch_multiplier = 3
    results = await run.send_many([(number,) for number in range(5)])
    async with app.worker(concurrency=1) as worker:
        await started.wait()
        worker.stop()
        release.set()
    assert runs == [0]
    assert worker.left_behind == 0
    assert (await depth()).ready == 4
    async with app.worker(concurrency=1):
        assert [await result.get(timeout=10) for result in results] == [0, 1, 2, 3, 4]
    assert runs == [0, 1, 2, 3, 4]


async def test_plain_functions_that_wait_for_a_thread_never_start_once_the_worker_was_stopped_at_once(
    app: AioTask, depth: Depth
) -> None:
    started, release, runs = threading.Event(), threading.Event(), []
    before = set(threading.enumerate())

    @app.task(acks_late=True)
    def run(number: int) -> None:
        runs.append(number)
        started.set()
        release.wait(10)

    await run.send_many([(number,) for number in range(4)])
    async with app.worker(threads=1) as worker:
        assert await asyncio.to_thread(started.wait, 10)
        worker.stop()
        worker.stop()
    made = {thread for thread in threading.enumerate() if thread.name.startswith("aiotask-thread")} - before
    release.set()
    for thread in made:
        await asyncio.to_thread(thread.join, 10)
    assert len(made) == 1
    assert runs == [0]
    assert (await depth()).ready == 4


# What a task can say of its own message


async def test_ignore_acknowledges_and_leaves_what_the_task_has_stored(app: AioTask, depth: Depth) -> None:
    @app.task(bind=True, acks_late=True)
    async def run(self, stores: bool) -> None:  # type: ignore[no-untyped-def]
        if stores:
            self.update_state("DONE_BY_HAND", {"at": "noon"})
        raise Ignore

    stored, silent = await run.delay(True), await run.delay(False)
    async with app.worker(burst=True) as worker:
        await worker.wait()
        assert (await stored.state(), await stored.info()) == ("DONE_BY_HAND", {"at": "noon"})
        assert await silent.state() == "PENDING"
        assert (await depth()).ready == (await depth()).reserved == 0


@pytest.mark.parametrize("reason", ["no such account", ValueError("no such account")])
async def test_reject_dead_letters_and_fails_so_that_nobody_waits(
    app: AioTask, dead_letters: DeadLetters, reason: object
) -> None:
    @app.task(acks_late=True)
    async def run() -> None:
        raise Reject(reason)

    async with app.worker():
        result = await run.delay()
        with pytest.raises(Reject) as raised:
            await result.get(timeout=10)
        assert raised.value.reason == "no such account"
        assert await result.state() == "FAILURE"
        [letter] = await dead_letters()
    assert (letter.id, letter.queue, letter.reason, letter.detail) == (
        result.id,
        "default",
        "Reject",
        "no such account",
    )


async def test_reject_gives_the_message_back_when_it_asks_for_that(app: AioTask, dead_letters: DeadLetters) -> None:
    @app.task(acks_late=True, bind=True)
    def run(self) -> list[Any]:  # type: ignore[no-untyped-def]
        if not self.request.delivery_info["redelivered"]:
            raise Reject("later", requeue=True)
        return [self.request.retries, self.request.delivery_info["delivery_count"]]

    result = await run.delay()
    following = asyncio.create_task(states_of(result))
    async with app.worker():
        assert await result.get(timeout=10) == [0, 2]
        assert await following == ["SUCCESS"]  # of the first time nothing is recorded
        assert await dead_letters() == []


@pytest.mark.parametrize("requeue", [False, True])
async def test_reject_only_fails_when_the_message_is_acknowledged_already(
    app: AioTask, dead_letters: DeadLetters, requeue: bool
) -> None:
    runs = []

    @app.task
    async def run() -> None:
        runs.append(1)
        raise Reject("why", requeue=requeue)

    result = await run.delay()
    async with app.worker(burst=True) as worker:
        await worker.wait()
        with pytest.raises(Reject):
            await result.get(timeout=10)
        assert await dead_letters() == []
    assert runs == [1]


async def test_failed_task_is_dead_lettered_too_when_the_setting_says_so(url: str) -> None:
    app = AioTask("proj", broker=url, task_acks_late=True, task_acks_on_failure_or_timeout=False)

    @app.task
    async def run() -> None:
        raise ValueError("no money")

    async with app.worker():
        result = await run.delay()
        with pytest.raises(ValueError, match="no money"):
            await result.get(timeout=10)
        [letter] = await read_letters(app)
    assert (letter.id, letter.reason, letter.detail) == (result.id, "ValueError", "no money")
