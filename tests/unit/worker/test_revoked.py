"""What a worker was told to revoke: Celery's arguments, Celery's answers, and no more than so many ids."""

from collections.abc import Collection
from typing import Any

import pytest

from aiotask.worker import revoked
from aiotask.worker.revoked import RevokedIds


class Runner:
    """Ends what runs of some ids."""

    def __init__(self, *running: str) -> None:
        self.running = running

    def terminate(self, ids: Collection[str]) -> list[str]:
        return [id_ for id_ in self.running if id_ in ids]


@pytest.mark.parametrize("task_id", ["a", ["a"], ["a", "a"]])
def test_id_is_kept_and_said_when_it_is_revoked(task_id: Any) -> None:
    ids = RevokedIds(Runner("a").terminate)
    assert "a" not in ids.known
    assert ids.revoke({"task_id": task_id}) == {"ok": "tasks {'a'} flagged as revoked"}
    assert "a" in ids.known
    assert "b" not in ids.known


@pytest.mark.parametrize(
    ("running", "answer"),
    [((), "terminate: tasks unknown"), (("a", "c"), "terminate: a"), (("b", "a"), "terminate: b, a")],
)
def test_answer_names_what_was_ended_when_it_is_terminated(running: tuple[str, ...], answer: str) -> None:
    ids = RevokedIds(Runner(*running).terminate)
    arguments = {"task_id": ["a", "b"], "terminate": True, "signal": "SIGKILL"}
    assert ids.revoke(arguments) == {"ok": answer}
    assert "a" in ids.known
    assert "b" in ids.known


def test_newest_are_kept_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoked, "KEPT", 2)
    ids = RevokedIds(Runner().terminate)
    for task_id in ("a", "b", "a", "c"):
        ids.revoke({"task_id": task_id})
    assert [task_id in ids.known for task_id in ("a", "b", "c")] == [True, False, True]


@pytest.mark.parametrize(
    "arguments", [{}, {"task_id": None}, {"task_id": 7}, {"task_id": ["a", 7]}, {"task_id": [["a"]]}]
)
def test_nothing_is_kept_when_the_arguments_are_no_ids(arguments: dict[str, Any]) -> None:
    ids = RevokedIds(Runner().terminate)
    with pytest.raises((TypeError, KeyError)):
        ids.revoke(arguments)
    assert "a" not in ids.known
