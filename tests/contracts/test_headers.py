"""The brokers that carry headers beside the body, under the clauses of `aiotask.testing.headers_contract`."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aiotask.protocols import HeaderCarrier
from aiotask.testing import headers_contract
from aiotask.testing.harness import BrokerHarness

from .adapters import BROKERS

CARRIERS = [name for name in BROKERS if name not in ("sqlite", "redis")]


@pytest.mark.parametrize("adapter", CARRIERS)
@pytest.mark.parametrize("clause", headers_contract.CLAUSES, ids=lambda clause: clause.__name__)
async def test_clause_holds(clause: Callable[[BrokerHarness], Awaitable[None]], adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        await clause(harness)


@pytest.mark.parametrize("adapter", [name for name in BROKERS if name not in CARRIERS])
async def test_others_don_t_say_that_they_carry_them(adapter: str, tmp_path: Path) -> None:
    async with BROKERS[adapter](tmp_path) as harness:
        assert not isinstance(harness.connect(), HeaderCarrier)
