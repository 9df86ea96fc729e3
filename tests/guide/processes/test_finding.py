"""Where a process finds the app and its task: in a module that it can import, or in the script that is run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.guide.processes.conftest import processes
from tests.guide.processes.process_tasks import app, sum_up, where

from aiotask import AioTask, AioTaskError, ImproperlyConfigured, Worker


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_app_has_to_be_where_the_process_can_find_it(url: str) -> None:
    local = AioTask("local", broker=url)

    @local.task(name="local.where", offload="process")
    def where() -> int:
        return os.getpid()

    async with local.worker():
        with pytest.raises(ImproperlyConfigured, match=r"<AioTask: local>.*Assign it in a module"):
            await (await where.delay()).get(timeout=10)
    await local.close()


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_task_has_to_be_where_the_process_can_find_it(worker: Worker) -> None:
    @app.task(name="proj.late", offload="process")
    def late() -> int:
        return os.getpid()

    with pytest.raises(ImproperlyConfigured, match=r"no task 'proj.late' there.*not later by a function"):
        await (await late.delay()).get(timeout=10)
    assert await (await where.delay()).get(timeout=10) in processes()


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)
async def test_it_can_send_tasks_and_wait_for_them(worker: Worker) -> None:
    result = await sum_up.delay()
    value, child, own_id = await result.get(timeout=10)
    assert (value, own_id) == (3, result.id)
    assert [each.id for each in await result.children()] == [child]
    assert (await app.result(child).meta()).parent_id == result.id


@pytest.mark.parametrize("url", ["memory"], indirect=True)
async def test_it_is_told_that_memory_is_not_shared(worker: Worker) -> None:
    with pytest.raises(
        AioTaskError, match=r"memory:// is in the worker's process alone.*sqlite:///.*offload=\"thread\""
    ):
        await (await sum_up.delay()).get(timeout=10)


def test_coroutine_function_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'proj\.fetch'.*is for a plain def.*event loop"):

        @app.task(name="proj.fetch", offload="process")
        async def fetch() -> None: ...


def run(folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run script.py there as a program."""
    return subprocess.run(
        [sys.executable, "-W", "error", "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


SCRIPT = """
import asyncio, os
from dataclasses import dataclass
from aiotask import AioTask

app = AioTask({main}, broker="sqlite:///{folder}/tasks.db")

class Gone(Exception):
    pass

@dataclass
class Place:
    pid: int

@app.task(offload="process")
def where(fails: bool) -> Place:
    if fails:
        raise Gone("away")
    return Place(os.getpid())

async def work() -> None:
    async with app.worker():
        place = await (await where.delay(False)).get(timeout=20)
        print(type(place).__name__, place.pid != os.getpid(), where.name)
        error = await (await where.delay(True)).get(timeout=20, propagate=False)
        print(type(error) is Gone, error)

{guard}asyncio.run(work())
"""


@pytest.mark.parametrize(("main", "name"), [("'script'", "script.where"), ("None", "__main__.where")])
def test_task_of_a_script_is_found_when_the_script_is_guarded(tmp_path: Path, main: str, name: str) -> None:
    source = SCRIPT.format(main=main, folder=tmp_path, guard='if __name__ == "__main__": ')
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    ran = run(tmp_path)
    assert (ran.stdout.splitlines(), ran.returncode) == ([f"Place True {name}", "True away"], 0), ran.stderr
    assert "Warning" not in ran.stderr


def test_script_without_a_guard_is_told_so_and_runs_once(tmp_path: Path) -> None:
    source = SCRIPT.format(main="None", folder=tmp_path, guard="")
    (tmp_path / "script.py").write_text(source, encoding="utf-8")
    ran = run(tmp_path)
    assert ran.stdout == ""
    assert 'Put what is to run once under: if __name__ == "__main__":' in ran.stderr.splitlines()[-1]


def test_eager_processes_end_when_nobody_closes_the_app(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        """
import asyncio, os
from aiotask import AioTask

app = AioTask("script", broker="memory://")

@app.task(offload="process")
def where() -> int:
    return os.getpid()

async def once() -> int:
    return await (await where.apply()).get()

if __name__ == "__main__":
    print(asyncio.run(once()), asyncio.run(once()))
""",
        encoding="utf-8",
    )
    ran = run(tmp_path)
    assert ran.stderr == ""
    assert len({*map(int, ran.stdout.split())}) == 2
