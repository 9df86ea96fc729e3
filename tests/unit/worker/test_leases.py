"""Leases are renewed from a thread, whatever the loop does; a blocked loop is found out and named."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from typing import Any

import pytest

from aiotask.exceptions import BrokerError
from aiotask.message import Delivery
from aiotask.protocols import Renewal
from aiotask.worker import leases as module
from aiotask.worker.leases import Leases

PATIENCE_S = 5.0


class Keeper:
    """Renews in memory; says what it is told to say."""

    def __init__(self) -> None:
        self.renewed: list[list[Hashable]] = []
        self.threads: set[int] = set()
        self.lost: list[Hashable] = []
        self.failures = 0
        self.closed = threading.Event()
        self.called = threading.Event()

    def renew(self, receipts: Sequence[Hashable]) -> Renewal:
        self.threads.add(threading.get_ident())
        self.renewed.append(list(receipts))
        self.called.set()
        if self.failures:
            self.failures -= 1
            raise BrokerError("link down")
        return Renewal([receipt for receipt in receipts if receipt in self.lost])

    def close(self) -> None:
        self.closed.set()

    def wait_for_call(self) -> bool:
        """Block until the next renewal."""
        self.called.clear()
        return self.called.wait(PATIENCE_S)


def delivery(receipt: int) -> Delivery:
    return Delivery(f"id-{receipt}", "mail", b"", "application/x", 5, receipt=receipt)


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
async def start(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Leases]]:
    """Make leases that look every few milliseconds and are stopped at the end."""
    monkeypatch.setattr(module, "_LOOK_S", 0.005)
    monkeypatch.setattr(module, "_STALL_NEWS_S", 0.05)
    started: list[Leases] = []

    def start(**options: Any) -> Leases:
        defaults: dict[str, Any] = {
            "renewal": 0.01,
            "stall_limit": 60.0,
            "lost": lambda deliveries: None,
            "describe": lambda task: "somebody",
            "stalled": lambda seconds: None,
        }
        leases = Leases(keeper, **{**defaults, **options})
        leases.start()
        started.append(leases)
        return leases

    yield start
    for leases in started:
        await leases.stop()


async def test_lease_is_renewed_again_and_again_from_another_thread(
    keeper: Keeper, start: Callable[..., Leases]
) -> None:
    leases = start()
    leases.hold([delivery(1), delivery(2)])
    for _ in range(3):
        assert await asyncio.to_thread(keeper.wait_for_call)
    assert keeper.renewed[-1] == [1, 2]
    assert threading.get_ident() not in keeper.threads


async def test_lease_is_renewed_while_the_loop_is_blocked(keeper: Keeper, start: Callable[..., Leases]) -> None:
    start().hold([delivery(1)])
    assert keeper.wait_for_call()  # blocks the loop's own thread
    assert keeper.wait_for_call()


async def test_lease_is_dropped_when_it_is_wanted_no_longer(keeper: Keeper, start: Callable[..., Leases]) -> None:
    leases = start()
    first, second = delivery(1), delivery(2)
    leases.hold([first, second])
    leases.drop([first])
    leases.drop([first])
    assert await asyncio.to_thread(keeper.wait_for_call)
    assert keeper.renewed[-1] == [2]


async def test_keeper_is_left_in_peace_when_nothing_is_held(keeper: Keeper, start: Callable[..., Leases]) -> None:
    leases = start()
    await leases.stop()
    assert keeper.renewed == []
    assert keeper.closed.is_set()


async def test_lost_ones_are_told_on_the_loop_and_kept_no_longer(keeper: Keeper, start: Callable[..., Leases]) -> None:
    told: asyncio.Queue[tuple[list[Delivery], int]] = asyncio.Queue()
    leases = start(lost=lambda deliveries: told.put_nowait((deliveries, threading.get_ident())))
    first, second = delivery(1), delivery(2)
    keeper.lost = [1]
    leases.hold([first, second])
    deliveries, thread = await asyncio.wait_for(told.get(), PATIENCE_S)
    assert deliveries == [first]
    assert thread == threading.get_ident()
    assert await asyncio.to_thread(keeper.wait_for_call)
    assert keeper.renewed[-1] == [2]


async def test_renewal_is_tried_again_when_the_broker_fails(
    keeper: Keeper, start: Callable[..., Leases], caplog: pytest.LogCaptureFixture
) -> None:
    keeper.failures = 1
    start().hold([delivery(1)])
    assert await asyncio.to_thread(keeper.wait_for_call)
    assert await asyncio.to_thread(keeper.wait_for_call)
    assert "Can't renew 1 leases, trying again: link down" in caplog.text


async def test_thread_ends_when_stopped(keeper: Keeper, start: Callable[..., Leases]) -> None:
    leases = start()
    await leases.stop()
    await leases.stop()
    assert keeper.closed.is_set()
    assert "aiotask-leases" not in {thread.name for thread in threading.enumerate()}


def block(until: threading.Event) -> None:
    """Block the loop as a careless body does."""
    assert until.wait(PATIENCE_S)


async def test_blocked_loop_is_logged_once_with_the_culprit_and_its_stack(
    keeper: Keeper, start: Callable[..., Leases], caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[asyncio.Task[Any] | None] = []
    described = threading.Event()

    def describe(task: asyncio.Task[Any] | None) -> str:
        asked.append(task)
        described.set()
        return "task proj.slow[id-1]"

    start(describe=describe).hold([delivery(1)])
    with caplog.at_level(logging.WARNING, "aiotask.worker"):
        block(described)
        for _ in range(3):
            assert keeper.wait_for_call()
    assert asked == [asyncio.current_task()]
    [record] = [record for record in caplog.records if "blocked" in record.message]
    assert "by task proj.slow[id-1]:" in record.message
    assert "in block\n" in record.message


async def test_blocked_loop_is_logged_again_when_it_is_blocked_again(start: Callable[..., Leases]) -> None:
    described = threading.Semaphore(0)

    def describe(task: asyncio.Task[Any] | None) -> str:
        described.release()
        return "somebody"

    start(describe=describe)
    assert described.acquire(timeout=PATIENCE_S)
    assert not described.acquire(timeout=0.1), "once is enough while it is the same block"
    for _ in range(50):
        await asyncio.sleep(0.01)  # the loop answers; the thread may need more than one look to see it
        if described.acquire(timeout=0.1):
            return
    pytest.fail("the second block was not told")


async def test_leases_lapse_when_the_loop_is_blocked_past_the_limit(
    keeper: Keeper, start: Callable[..., Leases]
) -> None:
    stalled: list[tuple[float, int]] = []
    leases = start(stall_limit=0.1, stalled=lambda seconds: stalled.append((seconds, threading.get_ident())))
    leases.hold([delivery(1)])
    block(keeper.closed)
    [(seconds, thread)] = stalled
    assert seconds > 0.1
    assert thread != threading.get_ident()
    renewed = len(keeper.renewed)
    await leases.stop()
    assert len(keeper.renewed) == renewed


def test_thread_ends_when_the_loop_is_closed_under_it(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK_S", 0.005)

    async def abandon() -> None:
        options: dict[str, Any] = {"renewal": 1, "stall_limit": 60, "lost": list, "describe": str, "stalled": float}
        Leases(keeper, **options).start()

    asyncio.run(abandon())
    assert keeper.closed.wait(PATIENCE_S)
