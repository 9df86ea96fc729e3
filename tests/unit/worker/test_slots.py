"""An integer, and a way to wait for room in it."""

import asyncio

import pytest

from aiotask.worker.slots import Slots


async def settled(waiting: "asyncio.Task[None]") -> bool:
    """Give a woken task its turn, and tell whether it is done."""
    for _ in range(3):
        await asyncio.sleep(0)
    return waiting.done()


def test_free_is_what_is_left_and_never_negative() -> None:
    slots = Slots(3)
    assert slots.free == 3
    slots.take(2)
    assert (slots.used, slots.free) == (2, 1)
    slots.take(2)
    assert (slots.used, slots.free) == (4, 0)
    slots.give()
    slots.give(3)
    assert (slots.used, slots.free) == (0, 3)


async def test_wait_returns_at_once_when_there_is_room() -> None:
    slots = Slots(2)
    await asyncio.wait_for(slots.wait_for(2), 1)


async def test_wait_ends_when_there_is_as_much_room_as_asked_for() -> None:
    slots = Slots(3)
    slots.take(3)
    waiting = asyncio.create_task(slots.wait_for(2))
    assert not await settled(waiting)
    slots.give()
    assert not await settled(waiting)
    slots.give()
    assert await settled(waiting)


async def test_wait_goes_on_when_the_room_is_gone_again_before_the_waiter_runs() -> None:
    slots = Slots(1)
    slots.take(1)
    waiting = asyncio.create_task(slots.wait_for(1))
    assert not await settled(waiting)
    slots.give()
    slots.take(1)
    assert not await settled(waiting)
    slots.give()
    assert await settled(waiting)


async def test_wait_can_be_cancelled_and_begun_again() -> None:
    slots = Slots(1)
    slots.take(1)
    waiting = asyncio.create_task(slots.wait_for(1))
    await settled(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    slots.give()
    await asyncio.wait_for(slots.wait_for(1), 1)
