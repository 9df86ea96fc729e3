"""Waits for conditions that nothing announces."""

import asyncio
from collections.abc import Callable

PATIENCE_S = 25.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)
