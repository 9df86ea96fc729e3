"""The scene of each fault test."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from .harness import Scene


@pytest.fixture
async def scene_on(tmp_path: Path) -> AsyncIterator[Callable[[Path], Awaitable[Scene]]]:
    """Makes a scene whose file lies in a folder that the test names."""
    scenes: list[Scene] = []

    async def make(folder: Path) -> Scene:
        scene = Scene(folder, record=tmp_path / "record")
        scenes.append(scene)
        await scene.app.connect()
        return scene

    try:
        yield make
    finally:
        for scene in scenes:
            await scene.close()


@pytest.fixture
async def scene(tmp_path: Path, scene_on: Callable[[Path], Awaitable[Scene]]) -> Scene:
    return await scene_on(tmp_path)
