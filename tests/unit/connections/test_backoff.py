"""The pauses between attempts to connect."""

import random

from aiotask.connections.backoff import Backoff


def test_pauses_double_up_to_a_second_and_a_half_with_full_jitter(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(random, "uniform", lambda low, high: asked.append((low, high)) or high)
    backoff = Backoff()
    assert [backoff.next() for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5, 1.5]
    assert {low for low, _ in asked} == {0}
    backoff.reset()
    assert backoff.next() == 0.1


def test_pauses_of_two_differ() -> None:
    assert len({Backoff().next() for _ in range(20)}) > 1
