"""The apps of the process tasks on each broker, a worker of theirs, and what it has started."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.guide.processes.process_tasks import app, handled, hooked

from aiotask import Worker


@pytest.fixture
async def broker(url: str, request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Let the app use an empty broker, as the command line would."""
    for each in (app, hooked):
        each.conf.broker_url = url
        each.conf.task_queue_max_priority = 9 if request.node.get_closest_marker("priorities") else None
    handled.clear()
    yield
    for each in (app, hooked):
        await each.close()


@pytest.fixture
async def worker(broker: None) -> AsyncIterator[Worker]:
    async with app.worker(concurrency=10) as worker:
        yield worker
    assert processes() == []


def processes() -> list[int]:
    """Return the processes that this one has started for tasks, and what it has not waited for."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            is_ours = int(parent) == os.getpid()
            if is_ours and (state == "Z" or b"aiotask.worker.child" in (folder / "cmdline").read_bytes()):
                found.append(int(folder.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
