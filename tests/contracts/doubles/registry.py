"""`@breaks(clause)` on a subclass of a part of the memory adapters: what it breaks, and how it is put to use."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from aiotask.brokers.memory import MemoryBroker, MemoryLeaseKeeper, MemorySubscription
from aiotask.connections.memory import MemoryLink, MessageStore, RowStore
from aiotask.results.memory import MemoryBackend, MemoryWatch
from aiotask.testing.harness import BackendHarness, Harness

from ..adapters import memory_backend_harness, memory_broker_harness  # noqa: TID252 - tests are no installed package

Part = TypeVar("Part", bound=type)


class Double(NamedTuple):
    clause: Callable[[Any], Any]
    part: type
    harness: Callable[[], Harness]


DOUBLES: list[Double] = []


def breaks(*clauses: Callable[[Any], Any]) -> Callable[[Part], Part]:
    def register(part: Part) -> Part:
        for clause in clauses:
            of_backend = clause.__annotations__["harness"] is BackendHarness
            DOUBLES.append(Double(clause, part, functools.partial(harness_of, part, of_backend=of_backend)))
        return part

    return register


def harness_of(part: type, *, of_backend: bool = False) -> Any:
    """Return a harness of memory adapters with this part in place of their own."""
    link_type = _with_store(part)
    if of_backend:
        return memory_backend_harness(link_type, _backend(part))
    return memory_broker_harness(link_type, _broker(part))


def _with_store(part: type) -> type[MemoryLink]:
    class Link(MemoryLink):
        def __init__(self, clock: Callable[[], float]) -> None:
            super().__init__(clock)
            if issubclass(part, MessageStore):
                self.messages = part(clock)
            if issubclass(part, RowStore):
                self.rows = part(clock)

    return Link


def _broker(part: type) -> type[MemoryBroker]:
    if issubclass(part, MemoryBroker):
        return part
    if issubclass(part, MemorySubscription):
        return _with_subscription(part)
    if issubclass(part, MemoryLeaseKeeper):

        class Subscription(MemorySubscription):
            def lease_keeper(self) -> MemoryLeaseKeeper:
                return part(self._link, self._holding)

        return _with_subscription(Subscription)
    return MemoryBroker


def _with_subscription(part: type[MemorySubscription]) -> type[MemoryBroker]:
    class Broker(MemoryBroker):
        async def subscribe(
            self, queues: Sequence[str], *, consumer: str, lease: float, max_losses: int
        ) -> MemorySubscription:
            subscription = part(
                self.link,
                queues,
                consumer=consumer,
                lease=lease,
                max_losses=max_losses,
                open_ones=self._subscriptions,
            )
            self._subscriptions.add(subscription)
            return subscription

    return Broker


def _backend(part: type) -> type[MemoryBackend]:
    if issubclass(part, MemoryBackend):
        return part
    if issubclass(part, MemoryWatch):

        class Backend(MemoryBackend):
            def watch(self, ids: Sequence[str]) -> MemoryWatch:
                return part(self._rows, ids, self._watches)

        return Backend
    return MemoryBackend
