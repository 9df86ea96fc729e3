"""What is published within its time, and what is said of each message when it isn't."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from aiotask.exceptions import BrokerFull, PublishError
from aiotask.message import Envelope
from aiotask.publishing import Publisher
from aiotask.settings import Settings


class Confirming:
    """A broker that confirms when the test lets it."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.asked = asyncio.Event()
        self.failure: Exception | None = None
        self.published: list[str] = []

    async def publish(self, batch: Sequence[Envelope]) -> None:
        self.asked.set()
        await self.free.wait()
        if self.failure is not None:
            raise self.failure
        self.published += [envelope.id for envelope in batch]


def envelopes(*ids: str) -> list[Envelope]:
    return [Envelope(id_, "q", b"", "") for id_ in ids]


@pytest.fixture
def broker() -> Confirming:
    return Confirming()


def publisher(broker: Any, limit: float = 60.0) -> Publisher:
    return Publisher(broker, Settings(broker_publish_timeout=limit))


async def test_nothing_is_said_when_all_is_durable(broker: Confirming) -> None:
    assert await publisher(broker).publish(envelopes("a", "b")) is None
    assert broker.published == ["a", "b"]


async def test_each_unsent_message_gets_the_error_and_no_other(broker: Confirming) -> None:
    broker.failure = PublishError("not all", ["b"])
    assert await publisher(broker).publish(envelopes("a", "b")) == [None, broker.failure]


async def test_all_get_the_error_that_names_none(broker: Confirming) -> None:
    broker.failure = BrokerFull("no room")
    assert await publisher(broker).publish(envelopes("a", "b")) == [broker.failure] * 2


async def test_every_message_is_late_when_the_broker_does_not_confirm_and_the_next_are_not(broker: Confirming) -> None:
    publishing = publisher(broker, 0.02)
    broker.free.clear()
    for _ in range(2):
        errors = await publishing.publish(envelopes("a", "b"))
        assert errors is not None
        for error in errors:
            assert isinstance(error, PublishError)
            assert error.unsent == ("a", "b")
            assert "within 0.02 s (broker_publish_timeout); the messages may or may not be stored" in str(error)
    broker.free.set()
    assert await publishing.publish(envelopes("c")) is None
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_batches_that_follow_one_another_share_a_timer(
    broker: Confirming, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_at = loop.call_at

    def noted(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **kwargs)

    monkeypatch.setattr(loop, "call_at", noted)
    publishing = publisher(broker)
    for _ in range(100):
        assert await publishing.publish(envelopes("a")) is None
    assert len(timers) == 1


async def test_limit_counts_for_each_batch_from_its_own_beginning(broker: Confirming) -> None:
    loop = asyncio.get_running_loop()
    publishing = publisher(broker, 0.05)
    began = loop.time()
    while loop.time() < began + 0.03:
        await publishing.publish(envelopes("a"))
        await asyncio.sleep(0)
    broker.free.clear()
    began = loop.time()
    assert await publishing.publish(envelopes("b")) is not None
    assert loop.time() - began >= 0.05


async def test_lower_limit_holds_at_once(broker: Confirming) -> None:
    conf = Settings(broker_publish_timeout=60)
    publishing = Publisher(broker, conf)  # type: ignore[arg-type]
    await publishing.publish(envelopes("a"))
    conf.broker_publish_timeout = 0.02
    broker.free.clear()
    async with asyncio.timeout(20):
        assert await publishing.publish(envelopes("b")) is not None


async def test_caller_that_is_cancelled_is_told_of_that_and_not_of_the_limit(broker: Confirming) -> None:
    broker.free.clear()
    call = asyncio.create_task(publisher(broker).publish(envelopes("a")))
    await broker.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_caller_that_is_cancelled_at_the_very_end_of_its_time_is_cancelled(broker: Confirming) -> None:
    broker.free.clear()
    publishing = publisher(broker, 0.02)
    call = asyncio.create_task(publishing.publish(envelopes("a")))
    await broker.asked.wait()
    publishing._limit._due = 0.0
    publishing._limit._look()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_no_timer_is_left_when_nothing_is_published_any_more(broker: Confirming) -> None:
    publishing = publisher(broker, 0.02)
    await publishing.publish(envelopes("a"))
    async with asyncio.timeout(20):
        while publishing._limit._timer is not None:
            await asyncio.sleep(0.005)
