"""Watching results in Redis: what is asked of the server, what comes to whom, and in which order."""

import asyncio

import pytest
from tests.unit.results.redis.doubles import PREFIX, Listening, Server, came, keys, quiet, row, watching_hub

from aiotask.exceptions import DecodeError
from aiotask.results.redis import RedisBackend, watching
from aiotask.states import FAILURE, STARTED, SUCCESS

# ---- what is asked ----


async def test_watches_share_their_subscription_and_their_read(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    server.rows = dict(zip(keys("a", "b", "c"), [row(SUCCESS, id_) for id_ in "abc"], strict=True))

    async def first(*ids: str) -> list[str]:
        async with backend.watch(ids) as changes:
            return [(await anext(changes)).id for _ in ids]

    assert await asyncio.gather(first("a"), first("b", "c"), first("c")) == [["a"], ["b", "c"], ["c"]]
    assert made[0].calls == [("subscribe", *keys("a", "b", "c"))]
    assert server.commands == [("MGET", *keys("a", "b", "c"))]


async def test_channels_are_left_with_the_next_subscription_when_they_are_many(
    backend: RedisBackend, made: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LEAVE_AT_ONCE", 2)
    async with backend.watch(["a", "b", "d"]), backend.watch(["b"]):
        await quiet()
    async with backend.watch(["b"]):  # heard still: nothing to subscribe
        await quiet()
        async with backend.watch(["c"]):
            await quiet()
        async with backend.watch(["e"]):
            await quiet()
    assert made[0].calls == [
        ("subscribe", *keys("a", "b", "d")),
        ("unsubscribe", *keys("a", "d")),
        ("subscribe", *keys("c")),
        ("subscribe", *keys("e")),
    ]


async def test_channels_are_left_when_nothing_else_is_subscribed(
    backend: RedisBackend, made: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.0)
    async with backend.watch(["a"]):
        await quiet()
    await quiet()
    assert made[0].calls == [("subscribe", *keys("a")), ("unsubscribe", *keys("a"))]


async def test_channel_is_left_when_its_watch_ends_while_it_is_subscribed(
    backend: RedisBackend, server: Server, made: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LEAVE_AT_ONCE", 1)
    async with backend.watch(["x"]):
        await quiet()
    made[0].answering.clear()
    async with backend.watch(["a"]):
        await quiet()
    async with backend.watch(["b"]):
        made[0].answering.set()
        await quiet()
    assert made[0].calls[-2:] == [("unsubscribe", *keys("a")), ("subscribe", *keys("b"))]
    assert made[0].mixes or ("MGET", *keys("a")) not in server.commands


async def test_key_that_is_watched_once_more_is_read_again(backend: RedisBackend, server: Server) -> None:
    async with backend.watch(["a"]) as changes:
        assert await came(changes) == []
        server.rows[PREFIX + "a"] = row(SUCCESS)  # and what was published is not heard
        async with backend.watch(["a"]) as others:
            assert await came(others) == [SUCCESS]
        assert await came(changes) == [SUCCESS]


async def test_nothing_is_asked_when_nothing_is_watched(
    backend: RedisBackend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.0)
    async with backend.watch(["a"]):
        await quiet()
    before = len(server.commands)
    await quiet()
    assert len(server.commands) == before


async def test_look_finds_what_was_not_heard_in_slices(
    backend: RedisBackend, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "READ_AT_ONCE", 2)
    async with backend.watch(["a", "b", "c"]) as changes:
        assert await came(changes) == []
        server.rows = {PREFIX + "c": row(SUCCESS, "c")}
        server.commands.clear()
        watching_hub(backend)._catch_up()
        assert await came(changes) == [SUCCESS]
        assert server.commands == [("MGET", *keys("a", "b")), ("MGET", *keys("c"))]


async def test_all_is_read_again_when_some_was_missed(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as one, backend.watch(["b"]) as other:
        assert await came(one) == []
        server.rows = {PREFIX + "a": row(STARTED), PREFIX + "b": row(SUCCESS, "b")}
        made[0].on_gap()
        assert await came(one) == [STARTED]
        assert await came(other) == [SUCCESS]


async def test_nothing_is_kept_when_watches_are_closed(
    backend: RedisBackend, made: list[Listening], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backend.watch(["a", "b", "a"]), backend.watch(["b"]):
        await quiet()
    hub = watching_hub(backend)
    await hub._leave()
    kept = [hub._watches, hub._new, hub._joining, hub._heard, hub._left, hub._unread, hub._reading]
    assert not any(kept)


# ---- what comes, in which order ----


async def test_final_row_comes_as_it_was_published(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.commands.clear()
        made[0].on_message(PREFIX + "a", row(SUCCESS))
        assert await came(changes) == [SUCCESS]
        assert server.commands == []


async def test_state_comes_as_it_is_stored_when_another_one_is_published(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.rows[PREFIX + "a"] = row("PROGRESS", result=2)
        made[0].on_message(PREFIX + "a", row("PROGRESS", result=1))
        made[0].on_message(PREFIX + "a", row("PROGRESS", result=2))
        assert (await anext(changes)).result == 2
        assert await came(changes) == []


async def test_older_state_does_not_come_when_a_final_one_overtakes_its_read(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.rows[PREFIX + "a"] = row(STARTED)
        server.answering.clear()
        made[0].on_gap()
        await quiet()  # the read is under way
        made[0].on_message(PREFIX + "a", row(SUCCESS))
        server.answering.set()
        assert await came(changes) == [SUCCESS]


async def test_no_older_state_comes_when_a_look_overtakes_the_subscription(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["x"]):
        await quiet()
    made[0].answering.clear()
    server.rows[PREFIX + "a"] = row("SECOND")  # what the subscription will tell may be older than this
    async with backend.watch(["a"]) as changes:
        await quiet()
        watching_hub(backend)._catch_up()
        assert await came(changes) == []
        server.rows[PREFIX + "a"] = row("FIRST")
        made[0].answering.set()
        assert await came(changes) == ["FIRST"]


async def test_no_older_state_comes_when_the_subscription_overtakes_a_look(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    Listening.mixes = True  # elsewhere one read follows the other
    async with backend.watch(["x"]):
        await quiet()
    made[0].answering.clear()
    server.rows[PREFIX + "a"] = row("FIRST")
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.answering.clear()
        watching_hub(backend)._catch_up()
        await quiet()  # the look is under way, and has found the first
        server.rows[PREFIX + "a"] = row("SECOND")
        made[0].answering.set()
        await quiet()
        server.answering.set()
        assert await came(changes) == ["SECOND"]


async def test_final_row_comes_by_the_look_when_the_subscription_does_not_come_about(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["x"]):
        await quiet()
    made[0].answering.clear()
    server.rows[PREFIX + "a"] = row(SUCCESS)
    async with backend.watch(["a"]) as changes:
        await quiet()
        watching_hub(backend)._catch_up()
        assert await came(changes) == [SUCCESS]


async def test_many_are_read_by_the_connection_for_commands(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    ids = [f"{number}" for number in range(watching.READ_ALONG + 1)]
    server.rows = {key: row(SUCCESS, id_) for key, id_ in zip(keys(*ids), ids, strict=True)}
    server.answering.clear()
    async with backend.watch(ids) as changes:
        assert await came(changes) == []
        server.answering.set()
        assert await came(changes) == [SUCCESS] * len(ids)
    assert made[0].calls == [("subscribe", *keys(*ids))]
    assert server.commands == [("MGET", *keys(*ids))]


async def test_nothing_is_read_any_more_when_a_final_row_was_published(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.commands.clear()
        made[0].on_message(PREFIX + "a", row(STARTED))
        made[0].on_message(PREFIX + "a", row(SUCCESS))
        assert await came(changes) == [SUCCESS]
        assert server.commands == []


async def test_state_comes_once_when_it_is_read_and_published(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    server.rows[PREFIX + "a"] = row(FAILURE)
    async with backend.watch(["a"]) as changes:
        assert await came(changes) == [FAILURE]
        made[0].on_message(PREFIX + "a", row(FAILURE))
        made[0].on_gap()
        assert await came(changes) == []


async def test_state_comes_once_when_it_changed_and_changed_back_unseen(
    backend: RedisBackend, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        made[0].on_message(PREFIX + "a", row(SUCCESS, result=1))
        assert await came(changes) == [SUCCESS]
        made[0].on_message(PREFIX + "a", row(SUCCESS, result=2))
        made[0].on_message(PREFIX + "a", row(SUCCESS, result=1))
        assert await came(changes) == []


async def test_last_row_only_is_kept_when_the_reader_is_slow(backend: RedisBackend, made: list[Listening]) -> None:
    async with backend.watch(["a", "b"]) as changes:
        await quiet()
        for result in range(100):
            made[0].on_message(PREFIX + "a", row(SUCCESS, result=result))
        made[0].on_message(PREFIX + "b", row(SUCCESS, "b"))
        assert (await anext(changes)).result == 99
        assert (await anext(changes)).id == "b"


async def test_garbage_hurts_nobody_else(backend: RedisBackend, server: Server, made: list[Listening]) -> None:
    server.rows = {PREFIX + "a": b"\x80garbage", PREFIX + "b": row(SUCCESS, "b")}
    async with backend.watch(["a", "b"]) as changes, backend.watch(["b"]) as others:
        with pytest.raises(DecodeError, match="celery-task-meta-a"):
            await anext(changes)
        assert (await anext(changes)).id == "b"
        assert (await anext(others)).id == "b"
        made[0].on_message(PREFIX + "b", b"\xff")  # a hint like any other: what is stored counts
        assert await came(others) == []


async def test_id_that_is_no_text_hurts_nobody_else(backend: RedisBackend, server: Server) -> None:
    server.rows = {PREFIX + "a": row(SUCCESS)}
    async with backend.watch(["a"]) as changes:
        with pytest.raises(UnicodeEncodeError):
            await backend.watch(["b", "\ud800"]).__aenter__()
        assert await came(changes) == [SUCCESS]


async def test_reader_ends_when_another_task_closes_the_watch(backend: RedisBackend) -> None:
    watch = backend.watch(["a"])
    changes = await watch.__aenter__()
    reading = asyncio.create_task(anext(changes, None))  # type: ignore[arg-type]
    await quiet()
    await watch.__aexit__(None, None, None)
    assert await reading is None


async def test_watch_reads_on_when_a_reader_was_cancelled(backend: RedisBackend, made: list[Listening]) -> None:
    async with backend.watch(["a"]) as changes:
        reading = asyncio.ensure_future(anext(changes))
        await quiet()
        reading.cancel()
        await asyncio.wait([reading])
        made[0].on_message(PREFIX + "a", row(SUCCESS))
        assert await came(changes) == [SUCCESS]
