"""Watching results in Redis when something fails: the link, listening, the user's rights, or the backend is closed."""

import asyncio

import pytest
from tests.unit.results.redis.doubles import PREFIX, Listening, Server, came, keys, quiet, row, watching_hub

from aiotask.connections.redis import LinkDown, ReplyError
from aiotask.exceptions import BackendConnectionError, BackendError
from aiotask.results.redis import RedisBackend
from aiotask.states import STARTED, SUCCESS


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
