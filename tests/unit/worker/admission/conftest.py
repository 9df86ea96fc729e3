"""Admissions whose neighbours the tests play."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.unit.worker.admission.stage import Stage


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(*args: Any, **options: Any) -> Stage:
        made.append(Stage(*args, **options))
        return made[-1]

    yield make
    for stage in made:
        stage.running.cancel()
        [ended] = await asyncio.gather(stage.running, return_exceptions=True)
        assert ended is None or isinstance(ended, asyncio.CancelledError)


@pytest.fixture
async def stage(make: Callable[..., Stage]) -> Stage:
    return make()
