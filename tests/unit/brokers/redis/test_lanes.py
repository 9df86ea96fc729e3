"""Batches under way at once have lanes of their own, and on each lane the numbers rise."""

from aiotask.brokers.redis.lanes import Lanes


def test_batches_under_way_have_different_lanes() -> None:
    lanes = Lanes()
    (one, first), (other, second) = lanes.take(), lanes.take()
    assert one != other
    assert second > first


def test_lane_is_used_again_with_a_higher_number_when_it_is_given_back() -> None:
    lanes = Lanes()
    lane, first = lanes.take()
    lanes.give(lane)
    again, second = lanes.take()
    assert again == lane
    assert second > first


def test_lanes_of_two_senders_differ() -> None:
    assert Lanes().take()[0] != Lanes().take()[0]
