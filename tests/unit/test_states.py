"""The states have Celery's members and order, with ABORTED and IGNORED where the contract puts them."""

import pytest

from aiotask import states


def test_states_are_their_own_names() -> None:
    names = ["PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "REJECTED", "IGNORED"]
    names += ["ABORTED"]
    assert all(getattr(states, name) == name for name in names)
    assert frozenset(names) == states.ALL_STATES


@pytest.mark.parametrize(
    ("group", "members"),
    [
        ("READY_STATES", "SUCCESS FAILURE REVOKED ABORTED"),
        ("UNREADY_STATES", "PENDING RECEIVED STARTED REJECTED RETRY"),
        ("EXCEPTION_STATES", "RETRY FAILURE REVOKED"),
        ("PROPAGATE_STATES", "FAILURE REVOKED"),
        ("FAILURE_STATES", "FAILURE REVOKED"),
    ],
)
def test_group_has_celery_s_members(group: str, members: str) -> None:
    assert getattr(states, group) == frozenset(members.split())


def test_ignored_is_in_no_group() -> None:
    groups = (states.READY_STATES, states.UNREADY_STATES, states.EXCEPTION_STATES, states.PROPAGATE_STATES)
    assert not any(states.IGNORED in group for group in groups)


def test_groups_can_not_be_changed_by_a_user() -> None:
    with pytest.raises(AttributeError):
        states.READY_STATES.add("DONE")  # type: ignore[attr-defined]


def test_precedence_is_smaller_when_a_state_is_later() -> None:
    life = ["PENDING", "RETRY", "REJECTED", "RECEIVED", "STARTED", "REVOKED", "PROGRESS", "FAILURE", "SUCCESS"]
    ranks = [states.precedence(state) for state in life]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) == len(ranks)


def test_precedence_is_one_when_states_are_custom() -> None:
    assert states.precedence("PROGRESS") == states.precedence("UPLOADING")
