"""A SQLite file that is locked, out of room or closed: what waits, what fails, and what goes on."""

import asyncio
import os
import sqlite3

import pytest
from tests.integration.sqlite_file import Here, envelope, success

from aiotask.connections.sqlite import database
from aiotask.exceptions import BackendError, BrokerConnectionError, BrokerError, BrokerFull, PublishError
from aiotask.message import Finish, Settlement, Start, Verdict
from aiotask.outcome import TaskMeta
from aiotask.states import SUCCESS

# ---- locked ----


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)


async def test_publish_names_what_was_not_sent_when_the_file_is_locked(here: Here, impatient: None) -> None:
    batch = [envelope(), envelope()]
    async with here.locked():
        with pytest.raises(PublishError, match="locked") as failure:
            await here.broker.publish(batch)
    assert failure.value.unsent == tuple(each.id for each in batch)
    assert isinstance(failure.value.__cause__, sqlite3.OperationalError)
    assert await (await here.consumer()).receive(1, 0) == []


async def test_settlement_is_repeated_when_the_file_is_locked(here: Here, impatient: None) -> None:
    await here.broker.publish([envelope(), envelope()])
    consumer = await here.consumer()
    acked, finished = await consumer.receive(2, 5)
    async with here.locked():
        begun = asyncio.create_task(consumer.begin([Start(acked)]))
        settled = asyncio.create_task(consumer.settle([Settlement(acked)]))
        ended = asyncio.create_task(consumer.finish([success(here.backend, finished)]))
        await asyncio.sleep(0.3)
        assert not settled.done()
        assert not ended.done()
    assert await begun == [Verdict.RUN]
    assert await settled == []
    assert await ended == []
    (meta,) = await here.backend.fetch([finished.id])
    assert meta is not None
    assert await here.broker.queues() == []


async def test_reads_go_on_when_the_file_is_locked(here: Here, impatient: None) -> None:
    consumer = await here.consumer()
    await here.backend.store([here.backend.encode(TaskMeta(id="a", state=SUCCESS), None)])
    async with here.locked():
        assert await consumer.receive(1, 0.05) == []
        assert [meta is not None for meta in await here.backend.fetch(["a", "b"])] == [True, False]
        with pytest.raises(BackendError, match="locked"):
            await here.backend.store([here.backend.encode(TaskMeta(id="b"), None)])


async def test_receive_goes_on_when_the_file_was_locked(
    here: Here, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    await here.broker.publish([envelope()])
    consumer = await here.consumer()
    async with here.locked():
        waiting = asyncio.create_task(consumer.receive(1, 10))
        while "No messages can be taken" not in caplog.text:
            await asyncio.sleep(0.01)
        assert not waiting.done()
    assert len(await waiting) == 1


# ---- full ----


async def test_nothing_is_stored_when_the_disk_is_full(here: Here) -> None:
    small, large = envelope(), envelope(body=os.urandom(1_000_000))
    await here.broker.publish([envelope()])
    await here.limit_pages(20)
    with pytest.raises(BrokerFull, match="no room"):
        await here.broker.publish([small, large])
    (depth,) = await here.broker.depths(["q"])
    assert depth.ready == 1
    outcomes = await asyncio.gather(
        here.broker.publish([small]), here.broker.publish([large]), return_exceptions=True
    )  # in one transaction: one must not spoil the other
    assert outcomes[0] is None
    assert isinstance(outcomes[1], BrokerFull)
    consumer = await here.consumer()
    taken = await consumer.receive(10, 0)
    assert await consumer.finish([success(here.backend, delivery) for delivery in taken]) == []
    assert await here.broker.queues() == []


async def test_finish_waits_when_the_disk_is_full(here: Here) -> None:
    await here.broker.publish([envelope()])
    consumer = await here.consumer()
    (delivery,) = await consumer.receive(1, 5)
    await here.limit_pages(3)
    row = here.backend.encode(TaskMeta(id=delivery.id, state=SUCCESS, result="x" * 100_000), None)
    ending = asyncio.create_task(consumer.finish([Finish(Settlement(delivery), row)]))
    await asyncio.sleep(0.2)
    assert not ending.done()
    assert await here.backend.fetch([delivery.id]) == [None]
    await here.limit_pages(1000)
    assert await ending == []
    (meta,) = await here.backend.fetch([delivery.id])
    assert meta is not None


# ---- closed ----


async def test_receive_returns_when_the_broker_is_closed(here: Here) -> None:
    consumer = await here.consumer()
    waiting = asyncio.create_task(consumer.receive(1, 60))
    await asyncio.sleep(0.05)
    await here.broker.close()
    assert await asyncio.wait_for(waiting, 5) == []
    with pytest.raises(BrokerError):
        await here.broker.publish([envelope()])


async def test_keeper_says_so_when_the_link_is_closed(here: Here) -> None:
    keeper = (await here.consumer()).lease_keeper()
    await here.broker.close()
    await here.backend.close()
    with pytest.raises(BrokerConnectionError):
        keeper.renew([1])


async def test_watcher_is_told_when_the_backend_is_open_again(here: Here) -> None:
    async with here.backend.watch(["a"]):
        await here.backend.close()
        await here.backend.open()
        async with here.backend.watch(["a"]) as changes:
            await here.backend.store([here.backend.encode(TaskMeta(id="a", state=SUCCESS), None)])
            assert (await asyncio.wait_for(anext(changes), 5)).state == SUCCESS


async def test_watcher_is_told_when_the_backend_is_closed(here: Here) -> None:
    async with here.backend.watch(["a"]) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.05)
        await here.backend.close()
        with pytest.raises(BackendError, match="closed"):
            await asyncio.wait_for(waiting, 5)
