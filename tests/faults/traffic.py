"""Load while a fault comes and goes: senders that go on, and when all workers consume again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .harness import Scene, Worker, until


@asynccontextmanager
async def senders(scene: Scene, count: int, *, delay_s: float | None = None) -> AsyncIterator[list[float]]:
    """Let so many send one task after the other as long as the block runs; yields how long each call took.

    Args:
        scene: Where to.
        count: How many calls are under way at once.
        delay_s: After how many seconds each task is due; at once without.
    """
    enough = asyncio.Event()
    took: list[float] = []

    async def send() -> None:
        while not enough.is_set():
            at = scene.now()
            result = await scene.app.send_task("nap", [0.02], countdown=delay_s)
            scene.sent.append(result.id)
            took.append(scene.now() - at)
            await asyncio.sleep(0.01)

    sending = [asyncio.create_task(send()) for _ in range(count)]
    try:
        yield took
    finally:
        enough.set()
        await asyncio.gather(*sending)


async def consuming_again(scene: Scene, workers: list[Worker], answered: float) -> float:
    """Wait until each worker has started something since the server answered; return how long that took the last."""

    def first(worker: Worker) -> float | None:
        return next((e.at_mono for e in scene.record.starts() if e.pid == worker.pid and e.at_mono > answered), None)

    def all_have() -> bool:
        return None not in [first(worker) for worker in workers]

    await until(all_have, "all workers consume again")
    return max(first(worker) or 0.0 for worker in workers) - answered
