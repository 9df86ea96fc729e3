"""Several processes on one SQLite file: nothing lost, nothing twice, whoever is killed, and each woken soon.

The other processes are real ones. Each is a few lines of program that answer line by line on their output.
"""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration.sqlite_file import Here, envelope
from tests.integration.sqlite_programs import process

from aiotask.connections.sqlite.rows import Row, store_rows
from aiotask.message import Delivery, Settlement, Start, Verdict, new_id
from aiotask.states import SUCCESS

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
        await heir.settle([Settlement(delivery) for delivery in waiting])  # or their leases would lapse, too
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
