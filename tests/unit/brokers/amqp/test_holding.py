from typing import Any

import pytest

from aiotask.brokers.amqp.holding import Holding
from aiotask.brokers.amqp.names import Kind, Source
from aiotask.brokers.amqp.packing import Receipt
from aiotask.connections.amqp.received import Properties, Received

CHANNEL: Any = object()


def receipt(tag: int, message_id: str = "", channel: Any = CHANNEL) -> Receipt:
    properties = Properties("x/y", correlation_id="id", message_id=message_id or f"m{tag}", app_id="aiotask")
    return Receipt(channel, Source("q", Kind.MAIN), Received(tag, False, properties, b""), None, None)


@pytest.fixture
def holding() -> Holding:
    return Holding()


def delivered(holding: Holding, count: int) -> list[Receipt]:
    receipts = [receipt(tag) for tag in range(1, count + 1)]
    for each in receipts:
        holding.deliver(each)
    return receipts


def test_what_is_in_a_row_is_acknowledged_by_one_tag(holding: Holding) -> None:
    receipts = delivered(holding, 5)
    assert holding.acknowledge(receipts[:3]) == [(CHANNEL, [(3, True)])]
    assert holding.acknowledge(receipts[3:4]) == [(CHANNEL, [(4, False)])]


def test_what_has_finished_behind_a_slow_one_is_acknowledged_singly(holding: Holding) -> None:
    receipts = delivered(holding, 5)
    assert holding.acknowledge([receipts[4], receipts[2]]) == [(CHANNEL, [(3, False), (5, False)])]
    assert holding.acknowledge([receipts[1], receipts[0]]) == [(CHANNEL, [(2, True)])]
    assert holding.acknowledge([receipts[3]]) == [(CHANNEL, [(4, False)])]


def test_what_is_acknowledged_already_is_not_acknowledged_again(holding: Holding) -> None:
    [one] = delivered(holding, 1)
    holding.acknowledge([one])
    assert holding.acknowledge([one]) == []
    assert holding.was_settled(one.message_id)


def test_channels_have_tags_of_their_own(holding: Holding) -> None:
    other: Any = object()
    receipts = [receipt(1), receipt(1, channel=other)]
    for each in receipts:
        holding.deliver(each)
    assert sorted(acks for _, acks in holding.acknowledge(receipts)) == [[(1, False)], [(1, False)]]


def test_what_runs_takes_its_message_over_when_it_comes_again(holding: Holding) -> None:
    [running] = delivered(holding, 1)
    running.begun = True
    holding.lose(CHANNEL, 100.0)
    assert holding.ours(running, 119.0, 20.0)
    other: Any = object()
    again = receipt(7, running.message_id, other)
    assert holding.attach(again, 119.0, 20.0) is running
    assert holding.acknowledge([running]) == [(other, [(7, False)])]


def of_celery(tag: int, retries: int = 0, channel: Any = CHANNEL) -> Receipt:
    """Return a receipt of a message without an id of its own."""
    properties = Properties("x/y", headers={"id": "task", "retries": retries}, correlation_id="task")
    return Receipt(channel, Source("q", Kind.MAIN), Received(tag, False, properties, b"body"), None, None)


def test_message_without_an_id_is_known_by_what_it_says_when_it_comes_again(holding: Holding) -> None:
    running, other = of_celery(1), of_celery(2, retries=1)
    for each in (running, other):
        holding.deliver(each)
        each.begun = True
    holding.lose(CHANNEL, 100.0)
    new: Any = object()
    assert holding.attach(of_celery(7, retries=2, channel=new), 101.0, 20.0) is None
    assert holding.attach(of_celery(8, retries=1, channel=new), 101.0, 20.0) is other
    assert holding.attach(of_celery(9, channel=new), 101.0, 20.0) is running
    holding.leave(running)
    assert not holding.void


def test_message_without_an_id_is_not_taken_for_another_that_says_the_same_and_was_settled(holding: Holding) -> None:
    settled, another = of_celery(1), of_celery(2)
    holding.deliver(settled)
    holding.acknowledge([settled])
    assert not holding.was_settled(another.message_id)


def test_what_ended_long_ago_is_forgotten(holding: Holding) -> None:
    for number in range(10_001):
        holding.remember(str(number))
    assert not holding.was_settled("0")
    assert holding.was_settled("1")
    assert holding.was_settled("10000")


def test_what_was_given_up_does_not_take_its_message_over(holding: Holding) -> None:
    [running] = delivered(holding, 1)
    running.begun = True
    holding.lose(CHANNEL, 100.0)
    again = receipt(7, running.message_id, object())
    assert holding.attach(again, 121.0, 20.0) is None
    assert not holding.ours(running, 101.0, 20.0)


def test_what_runs_is_lost_when_its_message_does_not_come_again(holding: Holding) -> None:
    [running] = delivered(holding, 1)
    running.begun = True
    holding.lose(CHANNEL, 100.0)
    assert not holding.ours(running, 120.0, 20.0)


def test_what_had_not_begun_is_lost_with_its_channel(holding: Holding) -> None:
    [waiting] = delivered(holding, 1)
    holding.lose(CHANNEL, 100.0)
    assert not holding.ours(waiting, 100.0, 20.0)
    assert waiting.identity in holding.unstarted


def test_stranger_is_not_ours(holding: Holding) -> None:
    assert not holding.ours("a receipt of another broker", 0.0, 20.0)
