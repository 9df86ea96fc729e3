"""Every broker under the contract suites of the library."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiotask.testing import admin_contract, broker_contract, finish_contract, start_contract
from aiotask.testing.harness import FinishHarness

from .adapters import BROKERS
from .doubles.registry import harness_of
from .doubles.starts import StartingSubscription

Clause = Callable[[FinishHarness], Awaitable[None]]


@pytest.mark.parametrize("adapter", BROKERS)
@pytest.mark.parametrize(
    "clause",
    [*broker_contract.CLAUSES, *finish_contract.CLAUSES, *admin_contract.CLAUSES],
    ids=lambda clause: clause.__name__,
)
async def test_clause_holds(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", ["redis", "starting"])
@pytest.mark.parametrize("clause", start_contract.CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds_when_handing_out_starts(clause: Clause, adapter: str, tmp_path: Path) -> None:
    # Of the brokers that there are one has the ability: the other is what the broken doubles are made of.
    async with harness_of(StartingSubscription) if adapter == "starting" else BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", [name for name in BROKERS if name != "memory"])
@pytest.mark.parametrize("clause", broker_contract.UNREACHABLE_CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds_when_unreachable(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)
