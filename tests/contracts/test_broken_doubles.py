"""Every clause of the contracts is seen to fail against an adapter that is broken in just that."""

import asyncio

import pytest

from aiotask.brokers.memory import MemoryBroker
from aiotask.connections.memory import MemoryLink
from aiotask.results.memory import MemoryBackend
from aiotask.testing import (
    admin_contract,
    backend_contract,
    broker_contract,
    finish_contract,
    headers_contract,
    remote_contract,
    revoke_contract,
    start_contract,
)
from aiotask.testing.harness import BackendHarness, BrokerHarness

from .doubles import DOUBLES, Double

CLAUSES = [
    *broker_contract.CLAUSES,
    *broker_contract.UNREACHABLE_CLAUSES,
    *finish_contract.CLAUSES,
    *start_contract.CLAUSES,
    *admin_contract.CLAUSES,
    *headers_contract.CLAUSES,
    *revoke_contract.CLAUSES,
    *revoke_contract.START_CLAUSES,
    *remote_contract.CLAUSES,
    *backend_contract.CLAUSES,
    *backend_contract.UNREACHABLE_CLAUSES,
]


@pytest.mark.parametrize("double", DOUBLES, ids=lambda double: f"{double.clause.__name__}-{double.part.__name__}")
async def test_clause_fails_when_the_adapter_is_broken(double: Double) -> None:
    harness = double.harness()
    # Memory can't be out of reach; an adapter that opens all the same is one that does not say so.
    if isinstance(harness, BrokerHarness):
        harness.unreachable = lambda: MemoryBroker(MemoryLink())
    if isinstance(harness, BackendHarness):
        harness.unreachable = lambda: MemoryBackend(MemoryLink())
    with pytest.raises(AssertionError):
        async with asyncio.timeout(10), harness:
            await double.clause(harness)


def test_clauses_all_have_a_double() -> None:
    broken = {double.clause for double in DOUBLES}
    assert [clause.__name__ for clause in CLAUSES if clause not in broken] == []


def test_clauses_all_have_names_of_their_own_and_a_sentence() -> None:
    assert len({(clause.__module__, clause.__name__) for clause in CLAUSES}) == len(CLAUSES)
    assert [clause.__name__ for clause in CLAUSES if not clause.__doc__ or "_when_" not in clause.__name__] == []
