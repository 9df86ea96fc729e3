"""Every result backend under the contract suites of the library."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiotask.testing import backend_contract
from aiotask.testing.harness import BackendHarness

from .adapters import BACKENDS

Clause = Callable[[BackendHarness], Awaitable[None]]


@pytest.mark.parametrize("adapter", BACKENDS)
@pytest.mark.parametrize("clause", backend_contract.CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BACKENDS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", [name for name in BACKENDS if name != "memory"])
@pytest.mark.parametrize("clause", backend_contract.UNREACHABLE_CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds_when_unreachable(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BACKENDS[adapter](tmp_path) as harness:
        await clause(harness)
