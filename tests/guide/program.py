"""An app's tasks for tests of its worker: one that answers, and one that runs until it is let go."""

import asyncio

from aiotask import AioTask


class Program:
    """An app with a task that answers, and one that runs until it is let go."""

    def __init__(self, app: AioTask) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.ended: list[str] = []

        @app.task(name="proj.add")
        async def add(x: int, y: int) -> int:
            return x + y

        @app.task(name="proj.work")
        async def work() -> str:
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            self.ended.append("well")
            return "done"

        self.add, self.work = add, work
