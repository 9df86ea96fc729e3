"""What the contracts don't see of the memory backend."""

import asyncio

import pytest

from aiotask.connections.memory import MemoryLink
from aiotask.exceptions import BackendConnectionError
from aiotask.outcome import TaskMeta
from aiotask.protocols import ResultBackend
from aiotask.results.memory import MemoryBackend
from aiotask.states import STARTED, SUCCESS


async def opened() -> MemoryBackend:
    backend = MemoryBackend(MemoryLink())
    await backend.open()
    return backend


async def test_backend_says_so_when_it_is_not_open() -> None:
    backend: ResultBackend = MemoryBackend(MemoryLink())
    row = backend.encode(TaskMeta(id="a"), None)
    for call in (backend.store([row]), backend.fetch(["a"]), backend.forget(["a"])):
        with pytest.raises(BackendConnectionError, match="not open"):
            await call


async def test_expiry_counts_from_encoding_when_the_clock_is_given() -> None:
    now = 1000.0
    backend = MemoryBackend(MemoryLink(lambda: now))
    await backend.open()
    await backend.store([backend.encode(TaskMeta(id="a"), 10.0)])
    now = 1009.9
    assert await backend.fetch(["a"]) != [None]
    now = 1010.0
    assert await backend.fetch(["a"]) == [None]


async def test_watch_keeps_the_last_only_when_its_reader_is_slow() -> None:
    backend = await opened()
    async with backend.watch(["a", "b"]) as changes:
        for step in range(100):
            await backend.store([backend.encode(TaskMeta(id="a", state="PROGRESS", result=step), None)])
        await backend.store([backend.encode(TaskMeta(id="b", state=STARTED), None)])
        assert (await anext(changes)).result == 99
        assert (await anext(changes)).id == "b"


async def test_nothing_is_kept_when_watches_are_closed() -> None:
    backend = await opened()
    async with backend.watch(["a", "b", "a"]), backend.watch(["b"]):
        assert sorted(backend.link.rows._watchers) == ["a", "b"]
    assert not backend.link.rows._watchers


async def test_reader_ends_when_another_task_closes_the_watch() -> None:
    backend = await opened()
    watch = backend.watch(["a"])
    changes = await watch.__aenter__()
    reading = asyncio.create_task(anext(changes, None))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await watch.__aexit__(None, None, None)
    assert await reading is None


async def test_watch_reads_on_when_a_reader_was_cancelled() -> None:
    backend = await opened()
    async with backend.watch(["a"]) as changes:
        reading = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await backend.store([backend.encode(TaskMeta(id="a", state=SUCCESS), None)])
        assert (await anext(changes)).state == SUCCESS
