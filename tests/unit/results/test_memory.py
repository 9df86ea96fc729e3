"""What the contracts don't see of the memory backend."""

import asyncio
import threading

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
    with pytest.raises(BackendConnectionError, match="not open"):
        backend.watch(["a"])


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
    assert not backend._watches


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


async def test_reader_gets_what_had_come_when_the_backend_is_closed() -> None:
    backend = await opened()
    async with backend.watch(["a"]) as changes:
        await backend.store([backend.encode(TaskMeta(id="a", state=SUCCESS), None)])
        await backend.close()
        assert (await anext(changes)).state == SUCCESS
        with pytest.raises(BackendConnectionError, match="was closed while a result was waited for"):
            await anext(changes)


async def test_reader_of_another_thread_is_told_when_the_backend_is_closed() -> None:
    backend = await opened()
    reads = threading.Event()

    async def read() -> None:
        async with backend.watch(["a"]) as changes:
            asyncio.get_running_loop().call_soon(reads.set)
            await anext(changes)

    reading = asyncio.create_task(asyncio.to_thread(asyncio.run, asyncio.wait_for(read(), 10)))
    await asyncio.to_thread(reads.wait, 10)
    await backend.close()
    with pytest.raises(BackendConnectionError, match="was closed"):
        await reading


@pytest.mark.parametrize("closes", [False, True], ids=["stores", "closes"])
async def test_reader_is_not_left_waiting_when_another_thread_comes_as_it_begins_to(
    closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await opened()
    loop = asyncio.get_running_loop()
    row = backend.encode(TaskMeta(id="a", state=SUCCESS), None)

    def create_future() -> "asyncio.Future[None]":
        monkeypatch.undo()
        come = threading.Thread(target=lambda: asyncio.run(backend.close() if closes else backend.store([row])))
        come.start()
        come.join(10)
        return loop.create_future()

    async with backend.watch(["a"]) as changes, asyncio.timeout(10):
        monkeypatch.setattr(loop, "create_future", create_future)
        read = anext(changes)
        if not closes:
            assert (await read).state == SUCCESS
            return
        with pytest.raises(BackendConnectionError, match="was closed"):
            await read
