"""What the contracts don't see of the SQLite broker: what parking, revokes and commands cost, and who is there."""

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.connections.sqlite.steps import traced

from aiotask.brokers.sqlite import SqliteBroker, questions, revoked
from aiotask.brokers.sqlite.subscription import SqliteSubscription
from aiotask.connections.sqlite import SqliteLink, database
from aiotask.message import Delivery, Envelope, Settlement, Start, Verdict, new_id

LEASE_S = 20.0


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[SqliteBroker]:
    broker = SqliteBroker(SqliteLink(tmp_path / "aiotask.db"))
    await broker.open()
    yield broker
    await broker.close()


@pytest.fixture
async def consumer(broker: SqliteBroker) -> SqliteSubscription:
    return await subscribed(broker)


async def subscribed(broker: SqliteBroker, *queues: str) -> SqliteSubscription:
    return await broker.subscribe(queues or ["q"], consumer=new_id(), lease=LEASE_S, max_losses=3)


async def park(broker: SqliteBroker, consumer: SqliteSubscription, count: int = 1) -> list[str]:
    """Park messages in the line `a`; return their ids, in that order."""
    await broker.publish([Envelope(new_id(), "q", b"", "x") for _ in range(count)])
    taken = await consumer.receive(count, 5)
    await consumer.settle([Settlement(delivery, "park", line="a") for delivery in taken])
    return ids(taken)


def ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.id for delivery in deliveries]


async def change(broker: SqliteBroker, sql: str) -> None:
    await broker.link.run(lambda connection: connection.execute(sql).rowcount)


def look_for_lapses(consumer: SqliteSubscription) -> None:
    """Let it be time for that."""
    consumer._scan_at = 0.0


class Lock:
    """Keeps the file locked, as another process may."""

    def __init__(self, broker: SqliteBroker) -> None:
        self._other = sqlite3.connect(broker.link.path, isolation_level=None)

    def __enter__(self) -> None:
        self._other.execute("BEGIN IMMEDIATE")

    def __exit__(self, *_: object) -> None:
        self._other.execute("ROLLBACK")
        self._other.close()


# ---- parking ----


@pytest.mark.parametrize("lines", [{}, {"a": 0}, {"a": -1}, {"b": 1}, {"": 1}])
async def test_unpark_takes_no_lock_when_there_is_nothing_to_take(
    broker: SqliteBroker, consumer: SqliteSubscription, lines: Mapping[str, int]
) -> None:
    await park(broker, consumer)
    seen = await traced(broker.link)
    with Lock(broker):
        assert await consumer.unpark(lines) == []
    assert "BEGIN IMMEDIATE" not in seen


async def test_unpark_returns_nothing_when_the_file_is_locked(
    broker: SqliteBroker,
    consumer: SqliteSubscription,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    parked = await park(broker, consumer)
    with Lock(broker):
        assert await consumer.unpark({"a": 1}) == []
    assert "No messages can be taken" in caplog.text
    assert ids(await consumer.unpark({"a": 1})) == parked


async def test_unpark_returns_nothing_when_the_subscription_is_closed(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    parked = await park(broker, consumer)
    await consumer.close()
    assert await consumer.unpark({"a": 1}) == []
    assert ids(await (await subscribed(broker)).unpark({"a": 1})) == parked
    await broker.close()
    assert await consumer.unpark({"a": 1}) == []


async def test_unparked_is_handed_back_when_the_subscription_closes_meanwhile(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    parked = await park(broker, consumer)
    unparking = consumer.unpark({"a": 1})
    unparking.send(None)  # it is on its way through the storage thread
    await consumer.close()
    with pytest.raises(StopIteration) as ended:
        unparking.send(None)
    assert ended.value.value == []
    assert ids(await (await subscribed(broker)).receive(1, 5)) == parked


async def test_parking_costs_as_many_statements_as_acknowledging_when_there_are_many(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    counts: dict[tuple[str, int], int] = {}
    for action in ("ack", "park"):
        for count in (1, 30):
            await broker.publish([Envelope(new_id(), "q", b"", "x") for _ in range(count)])
            taken = await consumer.receive(count, 5)
            seen = await traced(broker.link)
            await consumer.settle([Settlement(delivery, action, line="a") for delivery in taken])  # type: ignore[arg-type]
            counts[action, count] = len(seen)
    assert len(set(counts.values())) == 1, counts


async def test_unparking_costs_the_same_when_much_is_parked(broker: SqliteBroker) -> None:
    """Counted in instructions of SQLite's machine."""
    consumer = await subscribed(broker, "q", "other")

    async def cost() -> int:
        steps = itertools.count()
        await broker.link.run(
            lambda connection: connection.set_progress_handler(lambda: next(steps) and None, 1), writes=False
        )
        assert len(await consumer.unpark({"a": 2, "b": 2})) == 2
        await broker.link.run(lambda connection: connection.set_progress_handler(None, 0), writes=False)
        return next(steps)

    await park(broker, consumer, 20)
    little = await cost()
    await park(broker, consumer, 1000)
    assert await cost() < 2 * little


# ---- who is there ----


async def count(broker: SqliteBroker, queue: str = "q") -> int:
    return (await broker.consumers([queue]))[0]


async def until(broker: SqliteBroker) -> Any:
    def read(connection: sqlite3.Connection) -> Any:
        return connection.execute(f"SELECT until - {database.NOW} FROM aiotask_consumers").fetchone()[0]

    return await broker.link.run(read, writes=False)


async def test_nothing_is_written_when_a_consumer_is_known_for_half_a_lease(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    seen = await traced(broker.link)
    for _ in range(3):
        look_for_lapses(consumer)
        assert await consumer.receive(1, 0) == []
    assert "BEGIN IMMEDIATE" not in seen


async def test_consumer_shows_itself_when_less_than_half_a_lease_is_left(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    await change(broker, f"UPDATE aiotask_consumers SET until = until - {LEASE_S} * 0.6")
    assert await consumer.receive(1, 0) == []
    look_for_lapses(consumer)
    assert await consumer.receive(1, 0) == []
    assert await until(broker) > LEASE_S * 0.9


async def test_nothing_is_written_for_it_when_it_is_no_time_to_look(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    await consumer.receive(1, 0)
    await change(broker, f"UPDATE aiotask_consumers SET until = until - {LEASE_S} * 0.6")
    await consumer.receive(1, 0)
    assert await until(broker) < LEASE_S * 0.5


async def test_consumer_is_forgotten_when_it_has_not_shown_itself_for_a_lease(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    await change(broker, f"UPDATE aiotask_consumers SET until = until - {LEASE_S}")
    assert await count(broker) == 0
    await subscribed(broker, "other")
    rows = await broker.link.run(
        lambda connection: connection.execute("SELECT queues FROM aiotask_consumers").fetchall(), writes=False
    )
    assert rows == [('["other"]',)]
    look_for_lapses(consumer)  # it was only held up
    await consumer.receive(1, 0)
    assert await count(broker) == 1


async def test_consumer_counts_again_when_the_file_was_replaced_meanwhile(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    await change(broker, "DELETE FROM aiotask_consumers")
    look_for_lapses(consumer)
    await consumer.receive(1, 0)
    assert await count(broker) == 1


async def test_consumer_counts_by_and_by_when_the_file_was_locked_at_first(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    with Lock(broker):
        consumer = await subscribed(broker)
        assert await count(broker) == 0
    assert "can't be told who consumes" in caplog.text
    await consumer.receive(1, 0)
    assert await count(broker) == 1
    look_for_lapses(consumer)
    with Lock(broker):
        await consumer.set_queues(["other"])
    await consumer.receive(1, 0)
    assert await broker.consumers(["q", "other"]) == [0, 1]


async def test_closed_consumer_stays_away_when_its_keeper_renews_late(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    keeper = consumer.lease_keeper()
    await consumer.close()
    await consumer.set_queues(["other"])
    keeper.renew([1])
    assert await broker.consumers(["q", "other"]) == [0, 0]


# ---- revokes ----


async def test_one_statement_more_is_executed_when_anything_was_ever_revoked(
    broker: SqliteBroker, consumer: SqliteSubscription
) -> None:
    async def cost() -> int:
        await broker.publish([Envelope(new_id(), "q", b"", "x") for _ in range(50)])
        taken = await consumer.receive(50, 5)
        seen = await traced(broker.link)
        assert await consumer.begin([Start(delivery) for delivery in taken]) == [Verdict.RUN] * 50
        return len([statement for statement in seen if "aiotask_" in statement])

    assert await cost() == 2
    await broker.revoke([new_id()])
    assert await cost() == 3


async def test_oldest_are_forgotten_when_too_many_are_revoked(
    broker: SqliteBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revoked, "REVOKED_KEPT", 3)
    await broker.revoke(["a", "b"])
    await broker.revoke(["a", "c"])
    await broker.revoke(["d"])
    assert await rows(broker, "SELECT id FROM aiotask_revoked ORDER BY number") == [("a",), ("c",), ("d",)]


# ---- commands ----


async def rows(broker: SqliteBroker, sql: str) -> list[Any]:
    return await broker.link.run(lambda connection: connection.execute(sql).fetchall(), writes=False)


async def test_nothing_is_left_when_a_question_was_answered(broker: SqliteBroker) -> None:
    async with broker.answering("a@h", {"ping": lambda _: "pong"}):
        assert await broker.ask("ping", {}, destination=["a@h"], timeout=60) == {"a@h": "pong"}
    for table in ("nodes", "questions", "answers"):
        while await rows(broker, f"SELECT * FROM aiotask_{table}"):
            await asyncio.sleep(0.01)


async def test_node_leaves_at_once_when_the_file_is_locked(broker: SqliteBroker, tmp_path: Path) -> None:
    begun = time.monotonic()
    with closing(sqlite3.connect(tmp_path / "aiotask.db", isolation_level=None)) as other:
        async with broker.answering("a@h", {"ping": lambda _: "pong"}):
            other.execute("BEGIN IMMEDIATE")
        assert time.monotonic() - begun < 4
        other.execute("ROLLBACK")
    while await rows(broker, "SELECT * FROM aiotask_nodes"):
        await asyncio.sleep(0.01)


async def test_nothing_is_left_when_who_asks_is_cancelled(broker: SqliteBroker) -> None:
    await broker.link.run(lambda connection: questions.listen(connection, "a@h#1", "a@h"))
    asking = asyncio.create_task(broker.ask("ping", {}, destination=None, timeout=60))
    while not await rows(broker, "SELECT * FROM aiotask_questions"):
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    assert asking.cancelled()
    while await rows(broker, "SELECT * FROM aiotask_questions"):
        await asyncio.sleep(0.01)


async def test_ask_does_not_wait_when_nobody_is_known_to_listen(broker: SqliteBroker) -> None:
    begun = time.monotonic()
    assert await broker.ask("ping", {}, destination=["a@h"], timeout=60) == {}
    assert await broker.ask("ping", {}, destination=None, timeout=60) == {}
    assert time.monotonic() - begun < 5


async def test_killed_node_is_not_waited_for_when_its_time_is_over(broker: SqliteBroker) -> None:
    await broker.link.run(lambda connection: questions.listen(connection, "a@h#1", "a@h"))
    assert await broker.ask("ping", {}, destination=None, timeout=0.05) == {}  # it is believed to be there
    await change(broker, f"UPDATE aiotask_nodes SET until = {database.NOW}")
    assert await broker.ask("ping", {}, destination=None, timeout=60) == {}
    assert await rows(broker, "SELECT * FROM aiotask_nodes") == []


async def test_old_question_is_removed_when_who_has_asked_was_killed(broker: SqliteBroker) -> None:
    def ask(connection: sqlite3.Connection) -> questions.Asked:
        return questions.ask(connection, "ping", b"{}", None, -59.0)

    asked = await broker.link.run(ask)
    await broker.link.run(lambda connection: questions.answer(connection, "a@h#1", "a@h", [(asked.number, b"1")]))
    await broker.ask("ping", {}, destination=None, timeout=60)
    assert len(await rows(broker, "SELECT * FROM aiotask_answers")) == 1  # who has asked it may be about to take it
    await change(broker, "UPDATE aiotask_questions SET until = until - 2")
    await broker.ask("ping", {}, destination=None, timeout=60)
    assert await rows(broker, "SELECT * FROM aiotask_questions") == []
    assert await rows(broker, "SELECT * FROM aiotask_answers") == []


async def test_answer_is_dropped_when_nobody_waits_for_it(broker: SqliteBroker) -> None:
    await broker.link.run(lambda connection: questions.answer(connection, "a@h#1", "a@h", [(1, b"1")]))
    assert await rows(broker, "SELECT * FROM aiotask_answers") == []


async def test_node_says_again_that_it_listens_when_it_is_time_for_chores(broker: SqliteBroker) -> None:
    async with broker.answering("a@h", {"ping": lambda _: "pong"}):
        await change(broker, "DELETE FROM aiotask_nodes")
        broker.link._opened()._next_chore = 0.0
        while not await rows(broker, "SELECT * FROM aiotask_nodes"):
            await asyncio.sleep(0.01)
        assert await broker.ask("ping", {}, destination=["a@h"], timeout=60) == {"a@h": "pong"}


async def test_node_hears_it_when_the_file_was_replaced(broker: SqliteBroker) -> None:
    async with broker.answering("a@h", {"ping": lambda _: "pong"}):
        for _ in range(3):
            await broker.ask("ping", {}, destination=["a@h"], timeout=60)
        for table in ("nodes", "questions", "answers"):
            await change(broker, f"DELETE FROM aiotask_{table}")
        await change(broker, "DELETE FROM sqlite_sequence")
        broker.link._opened()._next_chore = 0.0
        while not await rows(broker, "SELECT * FROM aiotask_nodes"):
            await asyncio.sleep(0.01)
        assert await broker.ask("ping", {}, destination=["a@h"], timeout=60) == {"a@h": "pong"}
