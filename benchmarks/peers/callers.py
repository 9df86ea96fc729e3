"""Ways to call: a hundred callers at once, be they coroutines or threads, and one after the other."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CALLERS = 100


async def settled(value: Awaitable[Any] | Any) -> Any:
    """Return what a call gave, awaited where it is a coroutine; one that blocks has blocked."""
    return await value if inspect.isawaitable(value) else value


async def at_once(call: Callable[..., Any], inputs: list[Any], *, threads: bool, callers: int = CALLERS) -> list[Any]:
    """Return `call` of each input, in their order, by so many callers that each do one after the other."""
    outputs: list[Any] = [None] * len(inputs)
    if threads:

        def caller(first: int) -> None:
            for position in range(first, len(inputs), callers):
                outputs[position] = call(inputs[position])

        with ThreadPoolExecutor(callers) as pool:
            for _ in pool.map(caller, range(callers)):
                pass  # raises what a caller raised
    else:

        async def coroutine(first: int) -> None:
            for position in range(first, len(inputs), callers):
                outputs[position] = await call(inputs[position])

        async with asyncio.TaskGroup() as group:
            for first in range(callers):
                group.create_task(coroutine(first))
    return outputs
