"""What nobody can run is kept with the reason; whoever waits for it learns so, and the worker goes on."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from aiotask import AioTask, AioTaskError, ContentDisallowed, DecodeError, NotRegistered
from aiotask.message import DEAD_BODY_BYTES, DeadLetter, QueueDepth, TaskMessage

Post = Callable[..., Awaitable[str]]
DeadLetters = Callable[[], Awaitable[list[DeadLetter]]]


@pytest.fixture
def add(app: AioTask) -> Any:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add


async def test_unknown_task_is_kept_and_its_caller_told(
    app: AioTask, add: Any, post: Post, dead_letters: DeadLetters, caplog: pytest.LogCaptureFixture
) -> None:
    async with app.worker():
        id_ = await post(TaskMessage("proj.ad", "id-1", b"[[1,2],{}]"))
        with pytest.raises(NotRegistered, match=r"No task 'proj\.ad' is registered\. Did you mean 'proj\.add'\?"):
            await app.result(id_).get(timeout=10)
        [letter] = await dead_letters()
        assert (letter.id, letter.queue, letter.reason) == ("id-1", "default", "NotRegistered")
        assert "Does the worker import the module that defines it?" in letter.detail
        assert app.codec.decode(letter.body).task == "proj.ad"
        assert letter.body_bytes == len(letter.body)
        assert await (await add.delay(2, 3)).get(timeout=10) == 5
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage().startswith("Task proj.ad[id-1] was dead-lettered after ")
    assert "NotRegistered: No task 'proj.ad' is registered. Did you mean 'proj.add'?" in record.getMessage()


REFUSED: list[tuple[str, bytes | TaskMessage, str | None, type[AioTaskError]]] = [
    ("pickle", b"\x80\x04cos\nsystem\n(S'true'\ntR.", "application/x-python-serialize", ContentDisallowed),
    ("celery's json", b"[[1, 2], {}, {}]", "application/json", ContentDisallowed),
    (
        "yaml inside",
        TaskMessage("proj.add", "id-1", b"- 1", content_type="application/x-yaml"),
        None,
        ContentDisallowed,
    ),
    ("garbage", b"\xc1garbage", None, DecodeError),
    ("nothing", b"", None, DecodeError),
    ("deep", b"\x91" * 50_000, None, DecodeError),
    ("half a message", msgspec.msgpack.encode(["proj.add"]), None, DecodeError),
    ("no pair", TaskMessage("proj.add", "id-1", b"[1, 2]"), None, DecodeError),
    ("no JSON", TaskMessage("proj.add", "id-1", b"[[1, 2]"), None, DecodeError),
    ("deep JSON", TaskMessage("proj.add", "id-1", b"[" * 50_000), None, DecodeError),
    ("bad tag", TaskMessage("proj.add", "id-1", b'[[{"__type__":"bytes","__value__":5}],{}]'), None, DecodeError),
    (
        "worse tag",
        TaskMessage("proj.add", "id-1", b'[[{"__type__":"uuid","__value__":{"hex":5}}],{}]'),
        None,
        DecodeError,
    ),
]


@pytest.mark.parametrize(
    ("body", "content_type", "kind"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
async def test_unreadable_message_is_kept_raw_and_its_caller_told(
    app: AioTask,
    add: Any,
    post: Post,
    dead_letters: DeadLetters,
    caplog: pytest.LogCaptureFixture,
    body: bytes | TaskMessage,
    content_type: str | None,
    kind: type[AioTaskError],
) -> None:
    raw = app.codec.encode(body) if isinstance(body, TaskMessage) else body
    with caplog.at_level(logging.INFO, "aiotask"):
        async with app.worker(concurrency=1):
            id_ = await post(body, task_id="id-1", content_type=content_type)
            with pytest.raises(kind):
                await app.result(id_).get(timeout=10)
            [letter] = await dead_letters()
            assert (letter.id, letter.reason, letter.body) == ("id-1", kind.__name__, raw)
            assert letter.content_type == (content_type or app.codec.content_type)
            assert await (await add.delay(2, 3)).get(timeout=10) == 5
    [record] = [record for record in caplog.records if "id-1" in record.getMessage()]
    assert record.levelno == logging.ERROR
    assert "was dead-lettered" in record.getMessage()
    assert "\n" not in record.getMessage()


async def test_message_is_refused_when_it_is_larger_than_the_worker_allows(
    app: AioTask, dead_letters: DeadLetters
) -> None:
    @app.task
    async def take(text: str) -> int:
        return len(text)

    large = await take.delay("x" * 100_000)
    app.conf.message_max_bytes = 10_000
    async with app.worker():
        with pytest.raises(DecodeError, match=r"has 100,\d\d\d bytes, more than message_max_bytes \(10,000\)"):
            await large.get(timeout=10)
        [letter] = await dead_letters()
        assert await (await take.delay("small")).get(timeout=10) == 5
    assert len(letter.body) == DEAD_BODY_BYTES
    assert letter.body_bytes > 100_000


async def test_dead_letter_runs_when_it_is_replayed_to_a_worker_that_knows_it(
    app: AioTask, post: Post, dead_letters: DeadLetters
) -> None:
    broker: Any = app.broker
    async with app.worker():
        result = app.result(await post(TaskMessage("proj.new", "id-1", b"[[],{}]")))
        with pytest.raises(NotRegistered):
            await result.get(timeout=10)
        await result.forget()

        @app.task(name="proj.new")
        async def new() -> str:
            return "known by now"

        assert [letter.id for letter in await dead_letters()] == ["id-1"]
        assert await broker.replay_dead(["id-1"]) == ["id-1"]
        assert await result.get(timeout=10) == "known by now"
        assert await dead_letters() == []


async def test_many_bad_messages_among_good_ones_harm_none_of_them(
    app: AioTask, add: Any, post: Post, depth: Callable[..., Awaitable[QueueDepth]]
) -> None:
    results = []
    for number in range(20):
        results.append(await add.delay(number, 1))
        await post(b"bad", task_id=f"bad-{number}")
        await post(TaskMessage("proj.none", f"unknown-{number}", b"[[],{}]"))
    async with app.worker(concurrency=2, burst=True) as worker:
        await worker.wait()
        assert [await result.get(timeout=10) for result in results] == list(range(1, 21))
    found = await depth()
    assert (found.ready, found.reserved, found.dead) == (0, 0, 40)
