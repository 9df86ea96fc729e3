"""When a failed execution runs again, and how long it waits; no clock, no randomness but what is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.retry import RetryPolicy, autoretries, backoff_delay, exhausted


def no_jitter(low: float, high: float) -> float:
    raise AssertionError("no randomness was to be used")


@pytest.mark.parametrize(
    ("limit", "retries", "over"),
    [(3, 0, False), (3, 2, False), (3, 3, True), (3, 4, True), (0, 0, True), (None, 10**9, False)],
)
def test_limit_is_reached_when_there_were_as_many_retries(limit: int | None, retries: int, over: bool) -> None:
    assert exhausted(limit, retries) is over


def test_autoretry_looks_at_classes_and_their_subclasses() -> None:
    policy = RetryPolicy(autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,))
    assert autoretries(policy, OSError())
    assert autoretries(policy, TimeoutError())
    assert not autoretries(policy, FileNotFoundError())
    assert not autoretries(policy, ValueError())
    assert not autoretries(RetryPolicy(), Exception())


def test_backoff_is_the_usual_delay_when_it_is_off() -> None:
    policy = RetryPolicy(default_retry_delay=7.0)
    assert [backoff_delay(policy, retries, no_jitter) for retries in (0, 5)] == [7.0, 7.0]


def test_backoff_doubles_from_one_second_up_to_the_cap_when_it_is_true() -> None:
    policy = RetryPolicy(retry_backoff=True, retry_backoff_max=10.0, retry_jitter=False)
    assert [backoff_delay(policy, retries, no_jitter) for retries in range(6)] == [1, 2, 4, 8, 10, 10]


def test_backoff_doubles_from_the_first_delay_when_it_is_a_number() -> None:
    policy = RetryPolicy(retry_backoff=0.25, retry_jitter=False)
    assert [backoff_delay(policy, retries, no_jitter) for retries in range(4)] == [0.25, 0.5, 1.0, 2.0]


def test_backoff_caps_at_ten_minutes_when_nothing_else_is_said() -> None:
    assert backoff_delay(RetryPolicy(retry_backoff=True, retry_jitter=False), 5000, no_jitter) == 600.0


def test_backoff_draws_between_nothing_and_the_delay_when_jitter_is_on() -> None:
    drawn = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return 1.5

    assert backoff_delay(RetryPolicy(retry_backoff=2), 3, uniform) == 1.5
    assert drawn == [(0.0, 16.0)]


@given(st.integers(0, 10**6), st.floats(0.001, 10**6), st.floats(0, 10**6))
def test_backoff_never_leaves_its_bounds_however_often_it_was_retried(retries: int, first: float, most: float) -> None:
    policy = RetryPolicy(retry_backoff=first, retry_backoff_max=most, retry_jitter=False)
    assert 0 <= backoff_delay(policy, retries, no_jitter) <= most
