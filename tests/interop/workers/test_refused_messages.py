"""Messages of Celery's that our worker can't or won't run: dead-lettered, its client is told, and it goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import ContentDisallowed as CelerysContentDisallowed
from kombu.exceptions import DecodeError as CelerysDecodeError
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.shared_queue import QUEUE, dead_letters, send_raw

from aiotask import AioTask


@pytest.mark.parametrize("body", [b"[[1], {}]", b"42", b"\xff", b"{}"])
async def test_malformed_body_is_dead_lettered(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], call: Callable[..., Any], body: bytes
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.add", body))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        assert type(found) is CelerysDecodeError
        assert await call("ours.add", 1, 2) == 3
        [letter] = await dead_letters(app)
    assert (letter.id, letter.reason, letter.body) == (result.id, "DecodeError", body)


async def test_pickle_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], tmp_path: Path
) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    @app.task(name="ours.add")
    async def add(x: Any) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: celery_app.send_task("ours.add", (Bomb(),), serializer="pickle"))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        [letter] = await dead_letters(app)
    assert type(found) is CelerysContentDisallowed
    assert (letter.id, letter.reason) == (result.id, "ContentDisallowed")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("content_type", ["application/x-yaml", "application/x-msgpack", "text/plain"])
async def test_content_that_is_not_accepted_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], content_type: str
) -> None:
    @app.task(name="ours.add")
    async def add(x: Any) -> None: ...

    async with app.worker():
        result = await in_celery(lambda: send_raw(celery_app, "ours.add", b"[[1], {}, {}]", content_type=content_type))
        found = await in_celery(lambda: result.get(timeout=PATIENCE_S, propagate=False))
        [letter] = await dead_letters(app)
    assert type(found) is CelerysContentDisallowed
    assert (letter.id, letter.reason) == (result.id, "ContentDisallowed")
    assert content_type in letter.detail


async def test_message_of_protocol_1_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.add")
    async def add(x: int, y: int) -> None: ...

    celery_app.conf.task_protocol = 1
    async with app.worker():
        sent = await in_celery(lambda: celery_app.send_task("ours.add", (1, 2)))
        [letter] = await dead_letters(app)
        found = await in_celery(lambda: sent.get(timeout=PATIENCE_S, propagate=False))
    assert type(found) is CelerysDecodeError
    assert (letter.id, letter.reason) == (sent.id, "DecodeError")
    assert "protocol 1 is not read" in letter.detail


@pytest.mark.parametrize("wrong", [{"retries": "twice"}, {"eta": "noon"}])
async def test_message_with_headers_that_can_t_be_read_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], wrong: dict[str, Any]
) -> None:
    async with app.worker():
        sent = await in_celery(lambda: send_raw(celery_app, "ours.add", **wrong))
        [letter] = await dead_letters(app)
        found = await in_celery(lambda: sent.get(timeout=PATIENCE_S, propagate=False))
    assert type(found) is CelerysDecodeError
    assert (letter.id, letter.reason) == (sent.id, "DecodeError")


async def test_message_larger_than_message_max_bytes_is_dead_lettered_and_the_client_is_told(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    @app.task(name="ours.length")
    async def length(text: str) -> int:
        return len(text)

    async with app.worker():
        sent = await in_celery(lambda: celery_app.send_task("ours.length", ("x" * (1 << 20),)))
        [letter] = await dead_letters(app)
        found = await in_celery(lambda: sent.get(timeout=PATIENCE_S, propagate=False))
    assert type(found) is CelerysDecodeError
    assert "more than message_max_bytes (1,048,576)" in str(found)
    assert (letter.id, letter.reason) == (sent.id, "DecodeError")


# ---- canvas: what is embedded in a message is not carried out here, and never dropped ----


def chain(app: Celery) -> Any:
    return (app.signature("ours.add", (1, 2)) | app.signature("ours.add", (3,))).apply_async()


def link(app: Celery) -> Any:
    return app.send_task("ours.add", (1, 2), link=app.signature("ours.add", (3,)))


def link_error(app: Celery) -> Any:
    return app.send_task("ours.add", (1, 2), link_error=app.signature("ours.add", (3,)))


def chord(app: Celery) -> Any:
    body = app.signature("ours.add", (3,), app=app)
    app.send_task("ours.add", (1, 2), task_id="in-a-header", group_id="a-group", group_index=0, chord=body)
    return app.AsyncResult("in-a-header")


@pytest.mark.parametrize(
    ("apply", "embedded"),
    [(chain, "chain"), (link, "callbacks"), (link_error, "errbacks"), (chord, "chord")],
    ids=["chain", "link", "link_error", "chord"],
)
async def test_message_that_embeds_what_is_to_follow_is_dead_lettered_and_can_be_replayed_to_celery(
    app: AioTask,
    celery_app: Celery,
    in_celery: InCelery[Any],
    apply: Callable[[Celery], Any],
    embedded: str,
) -> None:
    ran: list[int] = []

    @app.task(name="ours.add")
    async def add(x: int, y: int) -> None:
        ran.append(1)

    async with app.worker():
        last = await in_celery(lambda: apply(celery_app))
        first = last.parent or last
        [letter] = await dead_letters(app)
        if embedded != "chord":  # its client has not asked for the result of a part
            found = await in_celery(lambda: first.get(timeout=PATIENCE_S, propagate=False))
            assert type(found) is CelerysDecodeError
            assert f"The message embeds {embedded}" in str(found)
    assert (letter.id, letter.reason, ran) == (first.id, "DecodeError", [])
    assert "let a worker of Celery take it" in letter.detail
    async with app:
        broker: Any = app.broker
        assert await broker.replay_dead([letter.id]) == [letter.id]

    def raw() -> Any:
        with celery_app.connection() as connection:
            message = connection.default_channel.basic_get(QUEUE, no_ack=True)
            return message.properties["application_headers"]["id"], json.loads(message.body)[2][embedded]

    id_, signatures = await in_celery(raw)
    assert id_ == first.id
    assert signatures
