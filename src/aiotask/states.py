"""The states of a task, their sets and their order, as Celery's users know them. Values only."""

from typing import Final

PENDING: Final = "PENDING"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
RETRY: Final = "RETRY"
REVOKED: Final = "REVOKED"
REJECTED: Final = "REJECTED"
IGNORED: Final = "IGNORED"
ABORTED: Final = "ABORTED"

READY_STATES: Final = frozenset({SUCCESS, FAILURE, REVOKED, ABORTED})
UNREADY_STATES: Final = frozenset({PENDING, RECEIVED, STARTED, REJECTED, RETRY})
EXCEPTION_STATES: Final = frozenset({RETRY, FAILURE, REVOKED})
PROPAGATE_STATES: Final = frozenset({FAILURE, REVOKED})
FAILURE_STATES: Final = PROPAGATE_STATES
ALL_STATES: Final = frozenset(
    {PENDING, RECEIVED, STARTED, SUCCESS, FAILURE, RETRY, REVOKED, REJECTED, IGNORED, ABORTED}
)

# Celery's order; None stands where every custom state has its place.
_LATEST_FIRST: Final = (
    SUCCESS,
    FAILURE,
    ABORTED,
    None,
    REVOKED,
    STARTED,
    RECEIVED,
    REJECTED,
    IGNORED,
    RETRY,
    PENDING,
)
_RANK: Final = {state: rank for rank, state in enumerate(_LATEST_FIRST)}


def precedence(state: str) -> int:
    """Return the rank of a state: the later in a task's life, the smaller; custom states share one rank."""
    return _RANK.get(state, _RANK[None])
