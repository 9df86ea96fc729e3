"""The storage thread: steps share transactions, observers look when something has changed, chores come in time."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.connections.sqlite.steps import Hold, Lookout, names, put, traced

from aiotask.connections.sqlite import SqliteLink, storage
from aiotask.connections.sqlite.rows import Row, store_rows, sweep_rows

# ---- group commit ----


def fail(connection: sqlite3.Connection) -> str:
    put("failed")(connection)
    raise ZeroDivisionError


async def test_steps_share_a_transaction_when_they_wait_together(link: SqliteLink) -> None:
    statements = await traced(link)
    async with Hold(link):
        stored = asyncio.gather(*(link.run(put(f"{at}")) for at in range(50)))
    assert await stored == [f"{at}" for at in range(50)]
    assert statements.count("COMMIT") == 1
    assert await link.run(names, writes=False) == [f"{at}" for at in range(50)]


async def test_others_are_stored_when_one_step_fails(link: SqliteLink) -> None:
    async with Hold(link):
        stored = asyncio.gather(link.run(put("a")), link.run(fail), link.run(put("b")), return_exceptions=True)
    a, error, b = await stored
    assert (a, type(error), b) == ("a", ZeroDivisionError, "b")
    assert await link.run(names, writes=False) == ["a", "b"]


async def test_step_is_left_out_when_its_caller_is_cancelled_before(link: SqliteLink) -> None:
    async with Hold(link):
        cancelled, kept = link.run(put("a")), link.run(put("b"))
        cancelled.cancel()
    await kept
    assert await link.run(names, writes=False) == ["b"]


async def test_step_is_undone_when_its_caller_is_cancelled_after(link: SqliteLink) -> None:
    undone: list[str] = []
    stored = link.run(put("a"), undo=undone.append)
    while not link.call(names, timeout=5):  # blocks the loop, so that the answer can't arrive
        pass
    assert stored.cancel()
    while not undone:
        await asyncio.sleep(0)
    assert undone == ["a"]


async def test_no_write_lock_is_taken_when_the_probe_has_an_answer(link: SqliteLink, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await link.run(put("a"), probe=lambda _: "nothing to do") == "nothing to do"
    assert await link.run(names, writes=False) == []
    other.execute("ROLLBACK")
    other.close()
    assert await link.run(put("a"), probe=lambda _: None) == "a"


async def test_commit_waits_for_the_disk_when_any_step_of_it_is_durable(link: SqliteLink) -> None:
    async def modes(*durable: bool) -> list[str]:
        statements = await traced(link)
        async with Hold(link):
            stored = asyncio.gather(*(link.run(put("a"), durable=each) for each in durable))
        await stored
        return [statement for statement in statements if statement.startswith("PRAGMA synchronous")]

    assert await modes(True) == []  # as it is opened
    assert await modes(False, False) == ["PRAGMA synchronous=NORMAL"]
    assert await modes(False) == []
    assert await modes(False, True) == ["PRAGMA synchronous=FULL"]


async def test_step_of_a_thread_is_done_when_the_loop_is_blocked(link: SqliteLink) -> None:
    done: list[str] = []
    thread = threading.Thread(target=lambda: done.append(link.call(put("a"), timeout=5)))
    thread.start()
    thread.join()  # blocks the loop
    assert done == ["a"]


async def test_thread_is_told_when_its_step_takes_too_long(link: SqliteLink) -> None:
    async with Hold(link):
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(link.call, put("a"), timeout=0.01)


# ---- waking ----


async def test_observer_looks_when_this_process_commits(link: SqliteLink) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    await link.run(put("a"))
    await asyncio.wait_for(lookout.changed.wait(), 5)
    link.unobserve(lookout)


async def test_observer_looks_when_another_process_commits(link: SqliteLink, path: Path) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    await link.run(names, writes=False)
    lookout.changed.clear()
    other = sqlite3.connect(path)
    with other:
        put("a")(other)
    await asyncio.wait_for(lookout.changed.wait(), 5)
    link.unobserve(lookout)
    calls = lookout.calls
    with other:
        put("b")(other)
    other.close()
    await asyncio.sleep(3 * storage.POLL_S)
    assert lookout.calls == calls


async def test_patient_observer_looks_later_when_it_has_just_looked(link: SqliteLink) -> None:
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout, every_s=0.3)
    begun = time.monotonic()
    for _ in range(5):
        await link.run(put("a"))
    assert lookout.calls == 1
    lookout.changed.clear()
    await asyncio.wait_for(lookout.changed.wait(), 5)  # what it has missed, though nothing more happens
    assert time.monotonic() - begun >= 0.29
    assert lookout.calls == 2
    link.unobserve(lookout)


async def test_changes_are_looked_for_less_often_when_all_who_wait_are_patient(link: SqliteLink) -> None:
    statements = await traced(link)
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout, every_s=0.25)
    begun = time.monotonic()
    while statements.count("PRAGMA data_version") < 4:
        await asyncio.sleep(storage.POLL_S)
    assert time.monotonic() - begun >= 0.7
    link.unobserve(lookout)


async def test_nothing_is_polled_when_nobody_waits(link: SqliteLink) -> None:
    statements = await traced(link)
    lookout = Lookout(asyncio.get_running_loop())
    link.observe(lookout)
    while len(statements) < 3:
        await asyncio.sleep(storage.POLL_S)
    link.unobserve(lookout)
    await link.run(names, writes=False)
    statements.clear()
    await asyncio.sleep(4 * storage.POLL_S)
    assert statements == []


async def test_answers_come_when_an_observer_raises(link: SqliteLink, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Lookout):
        def look(self, _: sqlite3.Connection) -> Callable[[], None]:
            raise ZeroDivisionError

    broken = Broken(asyncio.get_running_loop())
    link.observe(broken)
    assert await link.run(put("a")) == "a"
    link.unobserve(broken)
    assert "goes on after an error" in caplog.text


async def test_chores_are_done_when_it_is_time(link: SqliteLink) -> None:
    rows = [Row(f"{at}", True, b"{}", -1.0) for at in range(1200)]
    await link.run(lambda connection: store_rows(connection, [*rows, Row("kept", True, b"{}", 60.0)]))
    link.add_chore(sweep_rows)
    link._opened()._next_chore = 0.0
    while len(await link.run(names, writes=False)) > 1:
        await asyncio.sleep(0.01)
    assert await link.run(names, writes=False) == ["kept"]


async def test_chore_is_done_no_more_when_it_was_removed(link: SqliteLink) -> None:
    done: list[str] = []

    def chore_a(_: sqlite3.Connection) -> bool:
        done.append("a")
        return False

    def chore_b(_: sqlite3.Connection) -> bool:
        done.append("b")
        return False

    link.add_chore(chore_a)
    link.add_chore(chore_b)
    link.remove_chore(chore_a)
    link.remove_chore(chore_a)
    link._opened()._next_chore = 0.0
    await link.run(names, writes=False)
    assert done == ["b"]
