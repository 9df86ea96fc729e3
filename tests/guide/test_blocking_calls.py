"""Code without an event loop calls through `.sync`, which blocks."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from aiotask import AioTask, AioTaskError, Task


async def test_sync_uses_the_loop_of_the_app_when_called_from_another_thread(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    def handler() -> tuple[int, str, bool]:
        result = add.sync.delay(2, 3)
        return result.sync.get(timeout=10), result.sync.state(), result.sync.successful()

    async with app.worker():
        assert await asyncio.to_thread(handler) == (5, "SUCCESS", True)
        results = await asyncio.to_thread(lambda: add.sync.send_many([(1, 1), (2, 2)]))
        assert [await result.get(timeout=10) for result in results] == [2, 4]


async def test_sync_in_a_threads_body_makes_a_child_of_it(app: AioTask) -> None:
    @app.task(bind=True)
    async def child(self: Task) -> tuple[str | None, str | None]:
        return self.request.parent_id, self.request.root_id

    @app.task
    def parent() -> tuple[str, str]:
        return child.sync.apply_async(queue="default").sync.get(timeout=10)  # type: ignore[no-any-return]

    async with app.worker():
        result = await parent.delay()
        assert await result.get(timeout=10) == (result.id, result.id)


async def test_sync_is_refused_on_a_running_loop(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def add(x: int) -> int:
        return x

    with pytest.raises(AioTaskError, match=r"proj\.add\.sync\.delay blocks.*Leave out `\.sync` and await it"):
        add.sync.delay(1)


def test_sync_works_in_a_script_before_and_after_a_loop(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        f"""
import asyncio
from aiotask import AioTask

app = AioTask("script", broker="sqlite:///{tmp_path}/tasks.db")

@app.task
async def add(x: int, y: int) -> int:
    return x + y

first = add.sync.delay(1, 2)

async def work() -> None:
    async with app.worker(burst=True) as worker:
        await worker.wait()

asyncio.run(work())
print(first.sync.get(timeout=10), add.sync.delay(3, 4).sync.state())
""",
        encoding="utf-8",
    )
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
    )
    assert (ran.stdout.split(), ran.stderr) == (["3", "PENDING"], "")
