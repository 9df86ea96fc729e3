"""Every broker under the contract suites of the library."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from aiotask.testing import admin_contract, broker_contract, finish_contract, start_contract
from aiotask.testing.harness import Ability, missing

from .adapters import BROKERS, FUSED, LACKS
from .doubles.registry import harness_of
from .doubles.starts import StartingSubscription

Clause = Callable[[Any], Awaitable[None]]

_BROKER_CLAUSES = [*broker_contract.CLAUSES, *admin_contract.CLAUSES]


@pytest.mark.parametrize(
    ("clause", "adapter"),
    [
        pytest.param(clause, adapter, id=f"{clause.__name__}-{adapter}")
        for adapter in BROKERS
        for clause in _BROKER_CLAUSES
        if not missing(clause, LACKS.get(adapter, frozenset()))
    ],
)
async def test_clause_holds(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", FUSED)
@pytest.mark.parametrize("clause", finish_contract.CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds_when_fused(clause: Clause, adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


def test_abilities_that_an_adapter_lacks_are_in_its_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "rabbitmq.md").read_text()
    assert [ability.name for ability in Ability if ability.value not in " ".join(page.split())] == []


def test_few_clauses_do_not_apply_to_an_adapter() -> None:
    left_out = [clause.__name__ for clause in _BROKER_CLAUSES if missing(clause, LACKS["amqp-priorities"])]
    assert len(left_out) <= 7, left_out


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
