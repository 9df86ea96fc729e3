from collections.abc import Sequence
from typing import Any

import pytest

from aiotask import AioTask
from aiotask.cli import dead as module
from aiotask.cli.dead import _document, _replay_all
from aiotask.connections.memory import MemoryLink
from aiotask.message import DeadLetter, TaskMessage
from aiotask.outcome import TaskMeta
from aiotask.results.memory import MemoryBackend
from aiotask.wire.payload import put_call
from aiotask.wire.serialization import JSON


def letter(number: int, *, cut: bool = False, **facts: Any) -> DeadLetter:
    made = DeadLetter(f"id-{number}", "default", "Reject", "", float(number), b"body", 4 + cut, "x/y")
    for name, value in facts.items():
        setattr(made, name, value)
    return made


class Admin:
    """Dead letters, the newest first. What is replayed dies again at once when `again`."""

    def __init__(self, letters: Sequence[DeadLetter], *, again: bool = False) -> None:
        self.letters = sorted(letters, key=lambda letter: -letter.died_at)
        self.replayed: list[str] = []
        self._again = again
        self._now = 1e6

    async def dead_letters(self, queues: Sequence[str] | None, limit: int) -> list[DeadLetter]:
        return self.letters[:limit]

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        self.replayed += ids
        back = [letter for letter in self.letters if letter.id in ids]
        self.letters = [letter for letter in self.letters if letter.id not in ids]
        if self._again:
            for one in back:
                self._now += 1
                one.died_at = self._now
                self.letters.insert(0, one)
        return list(ids)


@pytest.fixture
def app() -> AioTask:
    return AioTask("x", broker="memory://")


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BATCH", 3)


async def replay_all(app: AioTask, admin: Admin) -> tuple[list[str], list[DeadLetter]]:
    async with app:
        return await _replay_all(app, admin, None)  # type: ignore[arg-type]


async def test_replay_all_takes_every_letter_when_there_are_many(app: AioTask) -> None:
    admin = Admin([letter(number) for number in range(10)])

    replayed, cut = await replay_all(app, admin)

    assert sorted(replayed) == sorted(f"id-{number}" for number in range(10))
    assert (cut, admin.letters) == ([], [])


async def test_replay_all_takes_each_letter_once_when_they_die_again(app: AioTask) -> None:
    admin = Admin([letter(number) for number in range(10)], again=True)

    await replay_all(app, admin)

    assert sorted(admin.replayed) == sorted(f"id-{number}" for number in range(10))


async def test_replay_all_looks_past_what_was_cut(app: AioTask) -> None:
    admin = Admin([letter(number, cut=number >= 4) for number in range(20)])

    replayed, cut = await replay_all(app, admin)

    assert sorted(replayed) == ["id-0", "id-1", "id-2", "id-3"]
    assert len(cut) == 16


async def test_replay_all_does_nothing_when_there_is_no_letter(app: AioTask) -> None:
    assert await replay_all(app, Admin([])) == ([], [])


def test_document_has_the_arguments_when_they_can_be_read(app: AioTask) -> None:
    message = TaskMessage("add", "the-id", JSON.encode_call((1,), {"b": 2}), retries=3)
    body = app.codec.encode(message)

    document = _document(app, letter(1, body=body, body_bytes=len(body), content_type=app.codec.content_type))

    assert (document["task"], document["args"], document["kwargs"]) == ("add", [1], {"b": 2})
    assert (document["retries"], document["replayable"]) == (3, True)


@pytest.mark.parametrize(
    "facts",
    [
        {"content_type": "application/x-python-serialize"},
        {"body": b"\xff\x00", "body_bytes": 2},
        {"cut": True},
    ],
)
def test_document_says_why_when_the_body_can_not_be_read(app: AioTask, facts: dict[str, Any]) -> None:
    document = _document(app, letter(1, **{"content_type": app.codec.content_type} | facts))

    assert document["task"] is None
    assert document["unreadable"]
    assert document["body"].startswith("b'")


def test_document_says_why_when_the_payload_is_no_pair_of_arguments(app: AioTask) -> None:
    body = app.codec.encode(TaskMessage("add", "the-id", b"[1, 2, 3]"))

    document = _document(app, letter(1, body=body, body_bytes=len(body), content_type=app.codec.content_type))

    assert document["task"] == "add"
    assert "unreadable" in document


def document_of(app: AioTask, message: TaskMessage) -> dict[str, Any]:
    body = app.codec.encode(message)
    return _document(app, letter(1, body=body, body_bytes=len(body), content_type=app.codec.content_type))


def test_document_shows_what_the_caller_gave_in_place_of_the_arguments(app: AioTask) -> None:
    message = TaskMessage("add", "the-id", JSON.encode_call((1,), {"password": "secret"}), kwargsrepr="{...}")

    assert [document_of(app, message)[name] for name in ("args", "kwargs")] == [[1], "{...}"]

    message.argsrepr, message.payload = "(...)", b"unreadable"

    assert [document_of(app, message)[name] for name in ("args", "kwargs")] == ["(...)", "{...}"]


def test_document_has_arguments_that_were_compressed(app: AioTask) -> None:
    message = TaskMessage("add", "the-id", b"")
    put_call(message, (1,), {}, "json", "gzip", 1000)

    assert document_of(app, message)["args"] == [1]


def test_document_has_no_pickled_arguments_when_pickle_is_not_accepted(app: AioTask) -> None:
    message = TaskMessage("add", "the-id", b"")
    put_call(message, (1,), {}, "pickle", None, 1000)

    assert "accept_content allows json" in document_of(app, message)["unreadable"]

    app.conf.accept_content = ["pickle"]

    assert document_of(app, message)["args"] == [1]


async def test_replay_resets_each_result_where_its_task_keeps_it(app: AioTask) -> None:
    own = MemoryBackend(MemoryLink())
    app.task(name="apart", backend=own)(print)
    letters = []
    for number, name in enumerate(("apart", "usual")):
        body = app.codec.encode(TaskMessage(name, f"id-{number}", b"[[],{}]"))
        letters.append(letter(number, body=body, body_bytes=len(body), content_type=app.codec.content_type))
    async with app:
        for backend in (own, app.backend):
            done = [TaskMeta(id=f"id-{number}", state="FAILURE") for number in range(2)]
            await backend.store([backend.encode(meta, None) for meta in done])

        await _replay_all(app, Admin(letters), None)  # type: ignore[arg-type]

        assert [meta is None for meta in await own.fetch(["id-0", "id-1"])] == [True, False]
        assert [meta is None for meta in await app.backend.fetch(["id-0", "id-1"])] == [False, True]
