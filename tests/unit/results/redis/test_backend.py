"""The Redis backend's rows, and what becomes of a fetch; it opens its link once, and closes it once."""

import asyncio

import pytest
from tests.unit.results.redis.doubles import PREFIX, Server, quiet, row

from aiotask.connections.redis import LinkClosed, LinkDown
from aiotask.exceptions import BackendConnectionError, DecodeError
from aiotask.outcome import TaskMeta
from aiotask.results.redis import RedisBackend
from aiotask.states import STARTED, SUCCESS


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


def test_backend_can_be_closed_when_its_loop_is_gone(server: Server) -> None:
    backend = RedisBackend(server)  # type: ignore[arg-type]

    async def begin() -> None:
        await backend.open()
        await backend.watch(["a"]).__aenter__()
        await quiet()

    asyncio.run(begin())
    asyncio.run(backend.close())
    assert server.opened == 0
