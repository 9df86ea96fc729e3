"""A worker that waits: how soon it starts what another process sends, and what its waiting costs."""

import asyncio
import statistics

from .harness import Scene, cpu_seconds, until

TYPICAL_S = 0.15
"""50 ms on a machine with nothing else to do."""
IDLE_S = 5.0


async def test_task_starts_soon_when_another_process_sends_it(scene: Scene) -> None:
    await scene.worker()
    delays = []
    for number in range(1, 21):
        sent = asyncio.create_task(scene.send("nap", 0))
        await sent
        confirmed = scene.now()
        starts = await until(lambda number=number: s if len(s := scene.record.starts()) == number else None, "started")
        delays.append(starts[-1].at_mono - confirmed)
        await scene.drained()
    median, worst = statistics.median(delays), max(delays)
    await scene.tell("woken", median=f"{median * 1000:.0f} ms", worst=f"{worst * 1000:.0f} ms")
    assert median < TYPICAL_S


async def test_worker_costs_next_to_nothing_when_it_is_idle(scene: Scene) -> None:
    worker = await scene.worker()
    await scene.send("nap", 0)
    await scene.all_done()
    await scene.drained()
    used, at = cpu_seconds(worker.pid), scene.now()
    await asyncio.sleep(IDLE_S)
    share = (cpu_seconds(worker.pid) - used) / (scene.now() - at)
    await scene.tell("idle", processor=f"{share:.2%} of a core")
    assert share < 0.03
