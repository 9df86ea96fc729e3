"""Sends by many callers at once, and round trips one after the other."""

import asyncio
import time

from aiotask import AioTask


async def concurrent_sends(broker_url: str, callers: int = 100, each: int = 200) -> float:
    """Return confirmed sends per second of `callers` coroutines that each await one `delay` after the other."""
    app = AioTask("bench", broker=broker_url)

    @app.task(name="bench.add")
    async def add(x: int, y: int) -> int:
        return x + y

    async def caller() -> None:
        for number in range(each):
            await add.delay(number, 1)

    async with app:
        started = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        elapsed = time.perf_counter() - started
        depth = (await app.broker.depths(["default"]))[0]  # type: ignore[attr-defined]
        assert depth.ready == callers * each, depth
    return callers * each / elapsed


async def round_trips(broker_url: str, count: int = 500) -> list[float]:
    """Return the milliseconds of `count` calls awaited one after the other, worker and caller in one process."""
    app = AioTask("bench", broker=broker_url)

    @app.task(name="bench.add")
    async def add(x: int, y: int) -> int:
        return x + y

    times = []
    async with app.worker():
        for number in range(count + 20):
            started = time.perf_counter()
            assert await (await add.delay(number, 1)).get(timeout=10) == number + 1
            times.append((time.perf_counter() - started) * 1e3)
    return sorted(times[20:])
