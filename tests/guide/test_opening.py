"""An app is opened, closed and opened again: by hand, by scopes within scopes, on one event loop after another."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.guide.conftest import Depth
from tests.guide.program import Program

from aiotask import AioTask, AioTaskError
from aiotask.exceptions import BackendConnectionError


async def test_app_may_be_opened_several_times_over_and_closes_with_the_last(app: AioTask) -> None:
    async with app as outer:
        assert outer is app
        async with app, app.worker():
            assert app.broker.connected
        assert app.broker.connected
    assert not app.broker.connected


async def test_app_connects_at_the_first_call_and_is_closed_by_hand(app: AioTask, program: Program) -> None:
    await program.add.delay(2, 3)
    assert app.broker.connected
    await app.close()
    await app.close()
    assert not app.broker.connected
    result = await program.add.delay(3, 4)
    async with app.worker():
        assert await result.get(timeout=10) == 7


async def test_first_calls_may_come_all_at_once(app: AioTask, program: Program) -> None:
    results = await asyncio.gather(*(program.add.delay(number, 1) for number in range(50)))
    async with app.worker():
        assert [await result.get(timeout=10) for result in results] == list(range(1, 51))


async def test_close_sends_what_waits_to_be_sent(app: AioTask, program: Program, depth: Depth) -> None:
    await app.connect()
    sending = [asyncio.create_task(program.add.delay(number, 1)) for number in range(10)]
    await asyncio.sleep(0)
    await app.close()
    await asyncio.gather(*sending)
    assert (await depth()).ready == 10


async def test_who_waits_for_a_result_is_told_when_the_app_is_closed(app: AioTask, program: Program) -> None:
    result = await program.add.delay(2, 3)
    waiting = asyncio.create_task(result.get(timeout=10))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(waiting), 0.1)
    await app.close()
    with pytest.raises(BackendConnectionError, match="result backend was closed while a result was waited for"):
        await waiting
    async with app.worker():
        assert await result.get(timeout=10) == 5


async def test_app_that_was_closed_inside_its_scope_is_opened_and_closed_again_later(app: AioTask) -> None:
    async with app:
        await app.close()
    for _ in range(2):
        async with app:
            assert app.broker.connected
        assert not app.broker.connected


def test_app_can_be_used_by_one_event_loop_after_another(url: str) -> None:
    app = AioTask("proj", broker=url)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def run_all(results: list[str]) -> list[int]:
        async with app.worker():
            return [await app.result(id_).get(timeout=10) for id_ in results]

    async def send(count: int) -> list[str]:
        results = await asyncio.gather(*(add.delay(number, 1) for number in range(count)))
        return [result.id for result in results]

    # Neither of the first two closes the app: the loop is gone with its connections.
    first, second = asyncio.run(send(3)), asyncio.run(send(20))
    assert asyncio.run(run_all(first + second)) == [1, 2, 3, *range(1, 21)]
    asyncio.run(app.close())


async def test_app_says_so_when_it_is_used_from_another_loop(app: AioTask, program: Program) -> None:
    def elsewhere(use: Callable[[], Any]) -> str:
        async def run() -> None:
            await use()

        with pytest.raises(AioTaskError) as raised:
            asyncio.run(run())
        return str(raised.value)

    async with app:
        result = await program.add.delay(2, 3)
        uses: list[Callable[[], Any]] = [
            lambda: program.add.delay(2, 3),
            lambda: program.add.send_many([(2, 3)]),
            result.get,
            result.state,
            app.connect,
            app.close,
            lambda: app.worker().__aenter__(),
        ]
        for use in uses:
            said = await asyncio.to_thread(elsewhere, use)
            assert said.startswith("This app is open on another event loop, and its connections belong to that one.")
        assert app.broker.connected
        assert await result.state() == "PENDING"


async def test_file_of_a_relative_url_is_found_from_everywhere_in_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "web").mkdir()
    monkeypatch.chdir(tmp_path)
    worker_app = AioTask("proj", broker="sqlite:///tasks.db")

    async def add(x: int, y: int) -> int:
        return x + y

    worker_app.task(name="proj.add")(add)
    async with worker_app.worker():
        monkeypatch.chdir(tmp_path / "web")
        web_app = AioTask("proj", broker="sqlite:///tasks.db")
        async with web_app:
            result = await web_app.task(name="proj.add")(add).delay(2, 3)
            assert await result.get(timeout=10) == 5
    assert (tmp_path / "tasks.db").exists()
