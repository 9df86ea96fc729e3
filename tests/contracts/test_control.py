"""The brokers that keep revokes and carry commands to workers, under the clauses of the library."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotask.testing import remote_contract, revoke_contract
from aiotask.testing.harness import missing

from .adapters import BROKERS, LACKS
from .doubles.registry import harness_of
from .doubles.starts import StartingSubscription

Clause = Callable[[Any], Awaitable[None]]


def _on_each(clauses: tuple[Clause, ...]) -> list[Any]:
    return [
        pytest.param(clause, adapter, id=f"{clause.__name__}-{adapter}")
        for adapter in BROKERS
        for clause in clauses
        if not missing(clause, LACKS.get(adapter, frozenset()))
    ]


@pytest.mark.parametrize(("clause", "adapter"), _on_each(revoke_contract.CLAUSES))
async def test_clause_of_revoking_holds(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize(("clause", "adapter"), _on_each(remote_contract.CLAUSES))
async def test_clause_of_remote_control_holds(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", ["redis", "starting"])
@pytest.mark.parametrize("clause", revoke_contract.START_CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_of_revoking_holds_when_handing_out_starts(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with harness_of(StartingSubscription) if adapter == "starting" else BROKERS[adapter](tmp_path) as harness:
        await clause(harness)
