"""The Redis backend against a server and a listener that do what the test says, in the order that it says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from aiotask.connections.redis import LinkClosed, LinkDown, ReplyError, Translation
from aiotask.connections.redis.errors import translating
from aiotask.exceptions import BackendConnectionError, BackendError, DecodeError
from aiotask.outcome import TaskMeta
from aiotask.results.redis import RedisBackend, watching
from aiotask.states import FAILURE, STARTED, SUCCESS

PREFIX = "celery-task-meta-"


class Server:
    """A link that answers by itself, or when it is told to."""

    def __init__(self) -> None:
        self.place = "redis://:***@h:6379/0"
        self.command_timeout_s = 5.0
        self.connected = True
        self.opened = 0
        self.rows: dict[str, bytes] = {}
        self.commands: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.opened -= 1

    def translating(self, translation: Translation) -> AbstractContextManager[None]:
        return translating(self.place, translation)

    async def command(self, *words: Any, wait: float = 0.0) -> Any:
        self.commands.append(words)
        replies = self._read(*words)  # what was true when it was asked
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        return replies

    def reply(self, *words: Any) -> list[bytes | None]:
        """Answer at once, on another connection."""
        self.commands.append(words)
        if self.error is not None:
            raise self.error
        return self._read(*words)

    def _read(self, command: str, *keys: str) -> list[bytes | None]:
        assert command == "MGET"
        return [self.rows.get(key) for key in keys]


class Listening:
    """A listener that hears what the test tells it."""

    made: "list[Listening]"
    mixes: bool
    """Whether it takes other commands, too."""

    def __init__(self, link: Any, on_message: Callable[[str, bytes], None], on_gap: Callable[[], None]) -> None:
        self.link: Server = link
        self.on_message = on_message
        self.on_gap = on_gap
        self.calls: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.closed = False
        self.made.append(self)

    async def subscribe(self, *channels: str, then: tuple[Any, ...], wait: float) -> Any:
        self.calls.append(("subscribe", *channels))
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        return self.link.reply(*then) if then and self.mixes else None

    async def unsubscribe(self, *channels: str) -> None:
        self.calls.append(("unsubscribe", *channels))

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True, params=[True, False], ids=["one connection", "two connections"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Listening]:
    monkeypatch.setattr(watching, "Listener", Listening)
    Listening.made = []
    Listening.mixes = request.param
    return Listening.made


@pytest.fixture
async def backend(server: Server) -> AsyncIterator[RedisBackend]:
    backend = RedisBackend(server)  # type: ignore[arg-type]
    await backend.open()
    yield backend
    await backend.close()


async def quiet() -> None:
    """Let everything happen that can."""
    for _ in range(30):
        await asyncio.sleep(0)


def row(state: str, id_: str = "a", result: Any = None) -> bytes:
    return watched_row(TaskMeta(id=id_, state=state, result=result))


def watched_row(meta: TaskMeta) -> bytes:
    return RedisBackend(Server()).encode(meta, None).data  # type: ignore[arg-type]


def keys(*ids: str) -> tuple[str, ...]:
    return tuple(PREFIX + id_ for id_ in ids)


async def came(changes: AsyncIterator[TaskMeta]) -> list[str]:
    """Return the states that are there to be read."""
    states = []
    while True:
        reading = asyncio.ensure_future(anext(changes))
        await quiet()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return states
        states.append(reading.result().state)


# ---- rows ----


@pytest.mark.parametrize(
    ("expires", "expires_ms"), [(None, None), (86400.0, 86_400_000), (0.0501, 51), (0.0, 1), (-1.0, 1)]
)
async def test_row_is_celery_s_and_expires(
    backend: RedisBackend, expires: float | None, expires_ms: int | None
) -> None:
    encoded = backend.encode(TaskMeta(id="a", state=SUCCESS, result=3), expires)
    assert encoded.key == "celery-task-meta-a"
    assert encoded.data.startswith(b'{"status":"SUCCESS","result":3,')
    assert encoded.final
    assert encoded.expires_ms == expires_ms
    assert not backend.encode(TaskMeta(id="a", state=STARTED), expires).final


async def test_backend_says_so_when_it_is_not_open(server: Server) -> None:
    backend = RedisBackend(server)  # type: ignore[arg-type]
    server.error = LinkClosed("The link is not open.")
    with pytest.raises(BackendConnectionError, match="not open"):
        await backend.fetch(["a"])
    with pytest.raises(BackendConnectionError, match=r"redis://:\*\*\*@h:6379/0 is not open"):
        async with backend.watch(["a"]):
            pass


async def test_link_is_opened_once_and_closed_once(server: Server) -> None:
    backend = RedisBackend(server)  # type: ignore[arg-type]
    await backend.open()
    await backend.open()
    assert server.opened == 1
    assert backend.connected
    await backend.close()
    await backend.close()
    assert server.opened == 0
    assert not backend.connected


async def test_fetch_names_the_key_when_a_row_is_none(backend: RedisBackend, server: Server) -> None:
    server.rows[PREFIX + "b"] = b"\x80\x04pickle"
    with pytest.raises(DecodeError, match=r"'celery-task-meta-b' of Redis redis://:\*\*\*@h:6379/0"):
        await backend.fetch(["a", "b"])


async def test_fetch_repeats_when_the_connection_was_lost_meanwhile(backend: RedisBackend, server: Server) -> None:
    server.rows[PREFIX + "a"] = row(SUCCESS)
    server.error = LinkDown("lost", sent=True)
    fetching = asyncio.create_task(backend.fetch(["a"]))
    await quiet()
    server.error = None
    assert [meta and meta.state for meta in await fetching] == [SUCCESS]
    assert len(server.commands) >= 2


async def test_fetch_says_so_when_there_was_no_connection(backend: RedisBackend, server: Server) -> None:
    server.error = LinkDown("There is no connection.", sent=False)
    with pytest.raises(BackendConnectionError, match="There is no connection"):
        await backend.fetch(["a"])


# ---- watching: what is asked ----


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


# ---- watching: what comes, in which order ----


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


# ---- watching: when something fails ----


async def test_watch_waits_on_when_the_link_is_lost_after_it_has_begun(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        await quiet()
        server.connected = False
        server.error = LinkDown("There is no connection.", sent=False)
        made[0].on_gap()
        assert await came(changes) == []
        server.error, server.rows = None, {PREFIX + "a": row(SUCCESS)}
        made[0].on_gap()
        assert await came(changes) == [SUCCESS]


async def test_watch_fails_when_nothing_could_be_read_for_lack_of_a_connection(
    backend: RedisBackend, server: Server
) -> None:
    server.error = LinkDown("There is no connection.", sent=False)
    async with backend.watch(["a"]) as changes:
        with pytest.raises(BackendConnectionError, match="There is no connection"):
            await anext(changes)


async def test_watch_fails_when_nothing_could_be_subscribed_for_lack_of_a_connection(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["x"]):
        await quiet()
    server.connected = False
    server.error = made[0].error = LinkDown("There is no connection.", sent=False)
    async with backend.watch(["a"]) as changes:
        with pytest.raises(BackendConnectionError, match="There is no connection"):
            await anext(changes)


async def test_result_comes_when_only_listening_fails(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["x"]):
        await quiet()
    made[0].error = LinkDown("There is no connection to listen on.", sent=False)
    server.rows[PREFIX + "a"] = row(STARTED)
    async with backend.watch(["a"]) as changes:
        assert await came(changes) == [STARTED]
        made[0].error = None
        made[0].calls.clear()
        server.rows[PREFIX + "a"] = row(SUCCESS)
        watching_hub(backend)._catch_up()  # as every five seconds
        assert await came(changes) == [SUCCESS]
        assert made[0].calls == [("subscribe", *keys("a"))]


async def test_watch_says_so_when_the_user_may_not_subscribe(
    backend: RedisBackend, server: Server, made: list[Listening]
) -> None:
    async with backend.watch(["x"]) as others:
        await quiet()
        made[0].error = ReplyError("NOPERM No permissions to access a channel")
        async with backend.watch(["a"]) as changes:
            with pytest.raises(BackendError, match="does not allow this user what is needed"):
                await anext(changes)
        made[0].error = None
        server.rows[PREFIX + "x"] = row(SUCCESS, "x")
        async with backend.watch(["a"]) as again, backend.watch(["x"]):
            assert await came(again) == []
            assert await came(others) == [SUCCESS]


async def test_watch_says_so_when_the_user_may_not_read(backend: RedisBackend, server: Server) -> None:
    server.error = ReplyError("NOPERM this user has no permissions to access one of the keys")
    async with backend.watch(["a"]) as changes:
        with pytest.raises(BackendError, match="does not allow this user what is needed"):
            await anext(changes)


async def test_watch_ends_with_an_error_when_the_backend_is_closed(
    backend: RedisBackend, made: list[Listening]
) -> None:
    async with backend.watch(["a"]) as changes:
        waiting = asyncio.ensure_future(anext(changes))
        await quiet()
        await backend.close()
        with pytest.raises(BackendConnectionError, match="closed while a result was waited for"):
            await waiting
    assert made[0].closed


async def test_nobody_hangs_when_following_has_a_fault(
    backend: RedisBackend, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.error = ZeroDivisionError("a fault of ours")
    async with backend.watch(["a"]) as changes:
        with pytest.raises(BackendError, match="a fault of ours"):
            await anext(changes)
    async with backend.watch(["b"]) as changes:
        with pytest.raises(BackendError, match="a fault of ours"):
            await anext(changes)
    assert "has failed" in caplog.text


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


def test_backend_can_be_closed_when_its_loop_is_gone(server: Server) -> None:
    backend = RedisBackend(server)  # type: ignore[arg-type]

    async def begin() -> None:
        await backend.open()
        await backend.watch(["a"]).__aenter__()
        await quiet()

    asyncio.run(begin())
    asyncio.run(backend.close())
    assert server.opened == 0


def watching_hub(backend: RedisBackend) -> watching.Hub:
    assert backend._hub is not None
    return backend._hub
