"""Waking all who wait for one thing."""

import asyncio

import pytest

from aiotask.connections.signals import Signal


async def test_all_who_wait_go_on_when_it_fires() -> None:
    signal = Signal()
    waiting = [asyncio.create_task(signal.wait(60)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.fire()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)


async def test_who_waits_goes_on_after_its_time() -> None:
    await asyncio.wait_for(Signal().wait(0.01), 5)


async def test_who_comes_after_it_fired_waits_for_the_next() -> None:
    signal = Signal()
    signal.fire()
    waiting = asyncio.create_task(signal.wait(60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.fire()
    await asyncio.wait_for(waiting, 5)


async def test_who_is_cancelled_is_forgotten() -> None:
    signal = Signal()
    waiting = asyncio.create_task(signal.wait(60))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    signal.fire()
    assert not signal._waiters
