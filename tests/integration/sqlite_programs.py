"""Programs in processes of their own, with a broker and a backend on a SQLite file; they answer line by line."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PREAMBLE = """
import asyncio, json, os, sys, time
from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.sqlite import SqliteLink
from aiotask.message import Envelope, Finish, Settlement, Start, new_id
from aiotask.outcome import TaskMeta
from aiotask.results.sqlite import SqliteBackend

link = SqliteLink(sys.argv[1])
broker, backend = SqliteBroker(link), SqliteBackend(link)

def say(value):
    print(json.dumps(value), flush=True)

async def hear():
    return json.loads(await asyncio.to_thread(sys.stdin.readline))

async def run():
    await broker.open()
    await backend.open()
    await main()
    await broker.close()
    await backend.close()
"""


class Process:
    """A program in a process of its own."""

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child

    async def hear(self) -> Any:
        """Return the next thing that it says."""
        assert self._child.stdout is not None
        async with asyncio.timeout(30):
            line = await self._child.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def say(self, value: Any) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(value).encode() + b"\n")

    async def kill(self) -> None:
        self._child.send_signal(signal.SIGKILL)
        await self._child.wait()

    async def end(self) -> None:
        async with asyncio.timeout(30):
            assert await self._child.wait() == 0


@asynccontextmanager
async def process(path: Path, program: str) -> AsyncIterator[Process]:
    """Run `program`, which defines `main()`."""
    text = f"{PREAMBLE}\n{program}\nasyncio.run(run())\n"
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        text,
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield Process(child)
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
