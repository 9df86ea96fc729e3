"""A link to a SQLite file of each test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiotask.connections.sqlite import SqliteLink


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "aiotask.db"


@pytest.fixture
async def link(path: Path) -> AsyncIterator[SqliteLink]:
    link = SqliteLink(path)
    await link.open()
    yield link
    await link.close()
