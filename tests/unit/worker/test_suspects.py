"""What was lost with its workers starts so that a further crash names its culprit."""

from types import SimpleNamespace
from typing import Any

import pytest

from aiotask.message import Delivery
from aiotask.worker.execution import Execution
from aiotask.worker.suspects import SOLITUDE_S, Suspects


def execution(losses: int, *, acks_late: bool = True) -> Execution:
    task: Any = SimpleNamespace(acks_late=acks_late)
    return Execution(Delivery("id", "mail", b"", "application/x", 5, receipt=1, losses=losses), None, task)


@pytest.mark.parametrize(
    ("max_losses", "losses", "suspect", "alone"),
    [
        (4, 0, False, False),
        (4, 1, False, False),
        (4, 2, True, False),
        (4, 3, True, True),
        (4, 9, True, True),
        (3, 2, True, True),
        (2, 1, True, True),
        (1, 0, False, False),
        (1, 1, True, True),
    ],
)
def test_execution_is_suspect_by_how_often_it_was_lost(
    max_losses: int, losses: int, suspect: bool, alone: bool
) -> None:
    suspects = Suspects(max_losses)
    it = execution(losses)
    assert suspects.take(it) is suspect
    assert suspects.pending is suspect
    started, held_s = suspects.next(0.0, others_run=False)
    assert started is (it if suspect else None)
    assert held_s == (SOLITUDE_S if alone else 0.0)


def test_early_acknowledged_execution_is_no_suspect() -> None:
    assert not Suspects(4).take(execution(3, acks_late=False))


def test_nothing_is_held_once_the_last_start_has_ended() -> None:
    suspects = Suspects(4)
    suspects.take(last := execution(3))
    assert suspects.next(0.0, others_run=True) == (None, SOLITUDE_S)
    assert suspects.next(1.0, others_run=True) == (None, SOLITUDE_S - 1)
    assert suspects.next(2.0, others_run=False) == (last, SOLITUDE_S)
    assert suspects.next(3.0, others_run=True) == (None, SOLITUDE_S - 1)
    suspects.left(execution(3))
    assert suspects.pending
    suspects.left(last)
    assert not suspects.pending
    assert suspects.next(4.0, others_run=True) == (None, 0.0)


def test_withdrawn_executions_hold_nobody() -> None:
    suspects = Suspects(4)
    first, second = execution(2), execution(3)
    suspects.take(first)
    suspects.take(second)
    suspects.next(0.0, others_run=True)
    assert suspects.withdraw() == [second, first]
    assert not suspects.pending
