"""Several processes on one SQLite file: nothing lost, nothing twice, whoever is killed, locked out or out of room.

The other processes are real ones. Each is a few lines of program that answer line by line on their output.
"""

import asyncio
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aiotask.brokers.sqlite import SqliteBroker
from aiotask.brokers.sqlite.subscription import SqliteSubscription
from aiotask.connections.sqlite import SqliteLink, database
from aiotask.connections.sqlite.rows import Row, store_rows
from aiotask.exceptions import BackendError, BrokerConnectionError, BrokerError, BrokerFull, PublishError
from aiotask.message import Delivery, Envelope, Finish, Settlement, Start, Verdict, new_id
from aiotask.outcome import TaskMeta
from aiotask.results.sqlite import SqliteBackend
from aiotask.states import SUCCESS

PREAMBLE = """
import asyncio, json, os, sys, time
from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink
from aiotask.message import Envelope, Finish, Settlement, Start, new_id
from aiotask.outcome import TaskMeta
from aiotask.results.sqlite import SqliteBackend

link = SqliteLink(sys.argv[1])
broker, backend = SqliteBroker(link), SqliteBackend(link)

def say(value):
    print(json.dumps(value), flush=True)

async def hear():
    return json.loads(await asyncio.to_thread(sys.stdin.readline))

async def run():
    await broker.open()
    await backend.open()
    await main()
    await broker.close()
    await backend.close()
"""


class Process:
    """A program in a process of its own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def hear(self) -> Any:
        """Return the next thing that it says."""
        assert self._child.stdout is not None
        async with asyncio.timeout(30):
            line = await self._child.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def say(self, value: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(value).encode() + b"\n")

    async def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        await self._child.wait()

    async def end(self) -> None:
        async with asyncio.timeout(30):
            assert await self._child.wait() == 0


@asynccontextmanager
async def process(path: Path, program: str) -> AsyncIterator[Process]:
    """Run `program`, which defines `main()`."""
    text = f"{PREAMBLE}\n{program}\nasyncio.run(run())\n"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        text,
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


class Here:
    """A broker and a backend of this process, and a second connection that can lock the file as another would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.link = SqliteLink(path)
        self.broker = SqliteBroker(self.link)
        self.backend = SqliteBackend(self.link)

    async def consumer(self, lease: float = 60.0, max_losses: int = 3) -> SqliteSubscription:
        return await self.broker.subscribe(["q"], consumer=new_id(), lease=lease, max_losses=max_losses)

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")
            other.close()

    async def limit_pages(self, pages: int) -> None:
        """Let the file have so many pages more: what a full disk does."""

        def step(connection: sqlite3.Connection) -> None:
            (used,) = connection.execute("PRAGMA page_count").fetchone()
            connection.execute(f"PRAGMA max_page_count={used + pages}")

        await self.link.run(step, writes=False)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    here = Here(tmp_path / "aiotask.db")
    await here.broker.open()
    await here.backend.open()
    yield here
    await here.broker.close()
    await here.backend.close()


def envelope(**fields: Any) -> Envelope:
    return Envelope(**{"id": new_id(), "queue": "q", "body": b"body", "content_type": "x", **fields})


def success(backend: SqliteBackend, delivery: Delivery) -> Finish:
    return Finish(Settlement(delivery), backend.encode(TaskMeta(id=delivery.id, state=SUCCESS, result=1), None))


# ---- killed ----


async def test_messages_come_to_another_when_their_owner_is_killed(here: Here) -> None:
    batch = [envelope() for _ in range(6)]
    await here.broker.publish(batch)
    program = """
async def main():
    subscription = await broker.subscribe(["q"], consumer="doomed", lease=1.0, max_losses=3)
    taken = await subscription.receive(4, 5)
    await subscription.begin([Start(delivery) for delivery in taken[:2]])
    say([delivery.id for delivery in taken])
    await asyncio.sleep(60)
"""
    heir = await here.consumer(lease=1.0)
    async with process(here.path, program) as doomed:
        owned = await doomed.hear()
        assert owned == [each.id for each in batch[:4]]
        await doomed.kill()
        killed = time.monotonic()
        waiting = await heir.receive(10, 5)  # what it did not own
        assert [delivery.id for delivery in waiting] == [each.id for each in batch[4:]]
        reclaimed: list[Delivery] = []
        while len(reclaimed) < 4:
            reclaimed += await heir.receive(10, 5)
    assert time.monotonic() - killed < 1.0 + 0.25 + 0.5  # lease, scan, and a slow machine
    assert [delivery.id for delivery in reclaimed] == owned
    assert [delivery.losses for delivery in reclaimed] == [1, 1, 0, 0]
    assert [delivery.delivery_count for delivery in reclaimed] == [2] * 4
    verdicts = await heir.begin([Start(delivery) for delivery in reclaimed])
    assert verdicts == [Verdict.STARTED_BEFORE] * 2 + [Verdict.RUN] * 2


async def test_parked_messages_stay_in_order_when_who_parked_and_who_took_them_is_killed(here: Here) -> None:
    batch = [envelope() for _ in range(6)]
    await here.broker.publish(batch)
    program = """
async def main():
    subscription = await broker.subscribe(["q"], consumer="doomed", lease=3.0, max_losses=3)
    taken = await subscription.receive(6, 5)
    await subscription.settle([Settlement(delivery, "park", line="a") for delivery in taken])
    say([delivery.id for delivery in await subscription.unpark({"a": 2})])
    await asyncio.sleep(60)
"""
    async with process(here.path, program) as doomed:
        owned = await doomed.hear()
        assert owned == [each.id for each in batch[:2]]
        assert await here.broker.consumers(["q"]) == [1]
        await doomed.kill()
    async with asyncio.timeout(30):
        while (await here.broker.depths(["q"]))[0].ready < 2:
            await asyncio.sleep(0.05)
    heir = await here.consumer()
    assert [delivery.id for delivery in await heir.unpark({"a": 10})] == [each.id for each in batch[2:]]
    assert [delivery.id for delivery in await heir.receive(10, 5)] == owned
    assert await here.broker.consumers(["q"]) == [1]  # its lease has ended with the others


async def test_nothing_is_half_done_when_workers_are_killed_at_random(here: Here) -> None:
    """Each message that is finished has its result and its follow-up, and each that isn't has neither."""
    batch = [envelope() for _ in range(3000)]
    await here.broker.publish(batch)
    program = """
async def main():
    subscription = await broker.subscribe(["q"], consumer=new_id(), lease=0.5, max_losses=99)
    while True:
        taken = await subscription.receive(20, 5)
        await subscription.begin([Start(delivery, acks_late=True) for delivery in taken])
        say(len(taken))
        await subscription.finish([
            Finish(
                Settlement(delivery),
                backend.encode(TaskMeta(id=delivery.id, state="SUCCESS", result=1), None),
                (Envelope(f"after {delivery.id}", "after", b"", "x"),),
            )
            for delivery in taken
        ])
"""
    ids = [each.id for each in batch]
    for _ in range(6):
        async with process(here.path, program) as worker:
            for _ in range(5):
                await worker.hear()
            await worker.kill()
        metas = await here.backend.fetch(ids)
        stored = {meta.id for meta in metas if meta is not None}
        depth, after = await here.broker.depths(["q", "after"])
        assert len(stored) >= 20
        assert depth.ready + depth.reserved == len(batch) - len(stored)
        assert after.ready == len(stored)
    heir = await here.consumer(lease=0.5)
    left: set[str] = set()
    while len(left) < len(batch) - len(stored):
        taken = await heir.receive(100, 5)
        left.update(delivery.id for delivery in taken)
        await heir.settle([Settlement(delivery) for delivery in taken])
    assert left == set(ids) - stored


# ---- at the same time ----


async def test_each_comes_once_when_two_processes_receive(here: Here) -> None:
    batch = [envelope() for _ in range(5000)]
    for at in range(0, len(batch), 500):
        await here.broker.publish(batch[at : at + 500])
    program = """
async def main():
    subscription = await broker.subscribe(["q"], consumer=new_id(), lease=60, max_losses=3)
    got = []
    say("ready")
    await hear()
    while taken := await subscription.receive(7, 0.5):
        got += [delivery.id for delivery in taken]
        await subscription.settle([Settlement(delivery) for delivery in taken])
    say(got)
"""
    async with process(here.path, program) as one, process(here.path, program) as other:
        for worker in (one, other):
            await worker.hear()
        one.say("go")
        other.say("go")
        shares = [set(await one.hear()), set(await other.hear())]
        await one.end()
        await other.end()
    assert all(shares)
    assert not shares[0] & shares[1]
    assert shares[0] | shares[1] == {each.id for each in batch}
    assert await here.broker.queues() == []


async def test_nothing_is_lost_when_many_processes_publish(here: Here) -> None:
    program = """
async def main():
    say("ready")
    await hear()
    for at in range(200):
        await broker.publish([Envelope(f"{os.getpid()}-{at}-{n}", "q", b"body", "x") for n in range(3)])
    say(os.getpid())
"""
    async with (
        process(here.path, program) as one,
        process(here.path, program) as two,
        process(here.path, program) as three,
    ):
        publishers = (one, two, three)
        for publisher in publishers:
            await publisher.hear()
            publisher.say("go")
        pids = [await publisher.hear() for publisher in publishers]
    consumer = await here.consumer()
    got = [delivery.id for _ in range(20) for delivery in await consumer.receive(100, 0)]
    assert sorted(got) == sorted(f"{pid}-{at}-{n}" for pid in pids for at in range(200) for n in range(3))
    for pid in pids:  # and each publisher's in its order
        own = [id_ for id_ in got if id_.startswith(f"{pid}-")]
        assert own == [f"{pid}-{at}-{n}" for at in range(200) for n in range(3)]


async def test_file_is_made_once_when_many_processes_open_it(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    program = """
async def main():
    await broker.publish([Envelope(new_id(), "q", b"body", "x")])
    say("published")
"""
    async with process(path, program) as one, process(path, program) as two, process(path, program) as three:
        for each in (one, two, three):
            assert await each.hear() == "published"
            await each.end()
    here = Here(path)
    await here.broker.open()
    (depth,) = await here.broker.depths(["q"])
    assert depth.ready == 3
    await here.broker.close()


# ---- waking ----


async def test_waiting_receive_is_woken_soon_when_another_process_publishes(here: Here) -> None:
    program = """
async def main():
    while (word := await hear()) is not None:
        await broker.publish([Envelope(new_id(), "q", b"body", "x")])
        say(time.time())
"""
    consumer = await here.consumer()
    delays = []
    async with process(here.path, program) as publisher:
        for _ in range(15):
            waiting = asyncio.create_task(consumer.receive(1, 10))
            await asyncio.sleep(0.03)
            publisher.say("publish")
            (delivery,) = await waiting
            came = time.time()
            delays.append(came - await publisher.hear())
            await consumer.settle([Settlement(delivery)])
        publisher.say(None)
        await publisher.end()
    assert sorted(delays)[len(delays) // 2] < 0.05, delays


async def test_watcher_is_told_soon_when_another_process_stores(here: Here) -> None:
    program = """
async def main():
    while (word := await hear()) is not None:
        await backend.store([backend.encode(TaskMeta(id=word, state="SUCCESS", result=1), None)])
        say(time.time())
"""
    delays = []
    async with process(here.path, program) as worker:
        for _ in range(15):
            id_ = new_id()
            async with here.backend.watch([id_]) as changes:
                worker.say(id_)
                assert (await anext(changes)).state == SUCCESS
                came = time.time()
            delays.append(came - await worker.hear())
        worker.say(None)
        await worker.end()
    assert sorted(delays)[len(delays) // 2] < 0.05, delays


async def test_loop_sleeps_when_a_receive_waits(here: Here) -> None:
    """While nothing is due neither a poll nor what others do in the file wakes the event loop of a waiting process."""
    consumer = await here.consumer()
    waiting = asyncio.create_task(consumer.receive(1, 0.6))
    await asyncio.sleep(0.1)
    loop: Any = asyncio.get_running_loop()
    turns = 0
    run_once = loop._run_once

    def counted() -> None:
        nonlocal turns
        turns += 1
        run_once()

    def store() -> None:
        other = sqlite3.connect(here.path)
        for at in range(10):
            with other:
                store_rows(other, [Row(f"{at}", True, b"{}", None)])
            time.sleep(0.03)
        other.close()

    thread = threading.Thread(target=store)
    thread.start()
    loop._run_once = counted
    assert await waiting == []
    del loop._run_once
    thread.join()
    assert turns < 10  # the end of the wait takes a few; a wake for each commit would take twenty


# ---- the loop is blocked ----


async def test_lease_is_kept_when_the_loop_is_blocked(here: Here) -> None:
    await here.broker.publish([envelope()])
    owner = await here.consumer(lease=0.4)
    (delivery,) = await owner.receive(1, 5)
    keeper = owner.lease_keeper()
    stop = threading.Event()

    def keep() -> None:
        while not stop.wait(0.1):
            assert not keeper.renew([delivery.receipt]).lost

    thread = threading.Thread(target=keep)
    thread.start()
    program = """
async def main():
    subscription = await broker.subscribe(["q"], consumer="thief", lease=0.4, max_losses=3)
    say("ready")
    say(len(await subscription.receive(1, 1.2)))
"""
    async with process(here.path, program) as thief:
        await thief.hear()
        time.sleep(1.3)
        assert await thief.hear() == 0
    stop.set()
    await asyncio.to_thread(thread.join)
    assert await owner.begin([Start(delivery)]) == [Verdict.RUN]


async def test_keeper_says_so_when_the_link_is_closed(here: Here) -> None:
    keeper = (await here.consumer()).lease_keeper()
    await here.broker.close()
    await here.backend.close()
    with pytest.raises(BrokerConnectionError):
        keeper.renew([1])


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
