"""What a contract clause works with: adapters on one storage, and waits that are for conditions.

An adapter's author makes one harness for each clause, on a storage of its own, and runs
`async with harness: await clause(harness)` for each clause of the suites that apply.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol, Self, TypeVar, cast

from aiotask.message import Delivery, Envelope, Finish, Settlement, Start, Verdict, new_id
from aiotask.outcome import TaskMeta
from aiotask.protocols import (
    Broker,
    FusedFinish,
    FusedStart,
    QueueAdmin,
    RemoteControlled,
    ResultBackend,
    Revoking,
    Subscription,
)

T = TypeVar("T")

DUE_LATE_S: Final = 0.25
"""A due message comes so late at most, when a consumer waits."""

LONG_LEASE_S: Final = 60.0
"""For consumers whose leases must not lapse, however slow the machine."""


LINE: Final = "proj.täsks:add 'it'"
"""A waiting line; a task's name may be anything."""


class AdministeredBroker(Broker, QueueAdmin, Protocol):
    """A broker with the optional ability `QueueAdmin`."""


class RevokingBroker(Broker, Revoking, Protocol):
    """A broker with the optional ability `Revoking`."""


class RemoteBroker(Broker, RemoteControlled, Protocol):
    """A broker with the optional ability `RemoteControlled`."""


class FusedSubscription(Subscription, FusedFinish, Protocol):
    """A subscription with the optional ability `FusedFinish`."""


class StartingSubscription(Subscription, FusedStart, Protocol):
    """A subscription with the optional ability `FusedStart`."""


class _Opened(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(kw_only=True)
class Harness:
    """What both kinds share: how long to wait for what, and closing what was opened.

    Attributes:
        patience: Seconds after which something that has to happen counts as not happening.
        quiet: Seconds after which something that must not happen counts as not happening.
        now: The clock of the storage, epoch seconds.
    """

    patience: float = 5.0
    quiet: float = 0.15
    now: Callable[[], float] = time.time
    _opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._opened.aclose()

    async def opened(self, adapter: _Opened) -> None:
        """Open `adapter`, to be closed with the harness."""
        await adapter.open()
        self._opened.push_async_callback(adapter.close)

    async def entered(self, context: AbstractAsyncContextManager[object]) -> None:
        """Enter `context`, to be left with the harness."""
        await self._opened.enter_async_context(context)

    async def soon(self, outcome: Awaitable[T]) -> T:
        """Return `outcome`; fail when it does not come in time."""
        try:
            async with asyncio.timeout(self.patience):
                return await outcome
        except TimeoutError as error:
            raise AssertionError(f"nothing came of it in {self.patience} s") from error

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Wait until `condition` holds; fail with `what` when it does not in time."""
        deadline = time.monotonic() + self.patience
        while not await condition():
            assert time.monotonic() < deadline, f"not in {self.patience} s: {what}"
            await asyncio.sleep(0.01)


class Ability(Enum):
    """What most brokers can do, and a server may leave no way to do. The value says what a broker without it does.

    A clause that is held to one names it (`needs`); a harness says which its adapter `lacks`, and `missing` tells why a
    clause does not apply. An adapter's documentation has to say what it lacks.
    """

    LEASE_ENDS = "a message is its consumer's for as long as the connection lives: no lease of it ends by time"
    SEES_STARTS = "the server does not know what was started: what is lost unstarted counts as lost for late ones alone"
    PRIORITIES = "messages have no priorities"
    AHEAD_AT_ONCE = "what is lost or given back takes its place among what waits a moment later, not at once"
    ONE_ORDER = "there is no order over several queues"
    LINE_LEFT = "what is lost after it was unparked comes ahead when its line is looked at next"
    COUNTS_HELD = "nobody can tell how many messages of a queue are handed out or delayed, nor purge the delayed ones"


Clause = TypeVar("Clause", bound=Callable[..., Awaitable[None]])


def needs(*abilities: Ability) -> Callable[[Clause], Clause]:
    """Mark a clause as one that an adapter is held to that has these abilities."""

    def mark(clause: Clause) -> Clause:
        vars(clause)["needs"] = frozenset(abilities)
        return clause

    return mark


def missing(clause: Callable[..., Awaitable[None]], lacks: AbstractSet[Ability]) -> str:
    """Return why an adapter that lacks abilities is not held to a clause; empty when it is."""
    wanting: AbstractSet[Ability] = vars(clause).get("needs", frozenset())
    return "; ".join(sorted(ability.value for ability in wanting & lacks))


@dataclass(kw_only=True)
class BrokerHarness(Harness):
    """Brokers on one storage.

    Attributes:
        connect: Makes another broker on the storage, not open, as another process would.
        lease: The shortest lease, in seconds, that the adapter keeps reliably on this machine.
        sleep_over_lease: Waits until leases of `lease` seconds have lapsed; None waits for as long.
        unreachable: Makes a broker whose server isn't there; for `UNREACHABLE_CLAUSES`.
        queue: A name that nobody else uses.
        lacks: What the adapter can't do, by its server's nature.
    """

    connect: Callable[[], Broker]
    lease: float = 0.5
    sleep_over_lease: Callable[[], Awaitable[None]] | None = None
    unreachable: Callable[[], Broker] | None = None
    queue: str = field(default_factory=lambda: f"queue-{new_id()[:8]}")
    lacks: AbstractSet[Ability] = frozenset()

    async def broker(self) -> Broker:
        """Return another open broker."""
        broker = self.connect()
        await self.opened(broker)
        return broker

    async def admin(self) -> AdministeredBroker:
        """Return another open broker that is a `QueueAdmin`."""
        broker = await self.broker()
        assert isinstance(broker, QueueAdmin)
        return cast("AdministeredBroker", broker)

    async def consumer(
        self, *queues: str, lease: float = LONG_LEASE_S, max_losses: int = 3, broker: Broker | None = None
    ) -> Subscription:
        """Subscribe as another worker process would: by a broker of its own, unless one is given."""
        broker = broker or await self.broker()
        return await broker.subscribe(queues or [self.queue], consumer=new_id(), lease=lease, max_losses=max_losses)

    def envelope(self, **fields: Any) -> Envelope:
        """Return a message with a fresh id in `queue`, but for `fields`; with no priority where there are none."""
        defaults = {"id": new_id(), "queue": self.queue, "body": b"body", "content_type": "application/x-test"}
        if Ability.PRIORITIES in self.lacks:
            fields = {name: value for name, value in fields.items() if name != "priority"}
        return Envelope(**{**defaults, **fields})

    async def publish(self, *envelopes: Envelope) -> None:
        """Publish by a broker of its own."""
        await (await self.broker()).publish(envelopes)

    async def lapse(self) -> None:
        """Wait until leases of `lease` seconds that began before have lapsed and a scan has had time to see it."""
        if self.sleep_over_lease is not None:
            await self.sleep_over_lease()
            return
        late = self.lease  # a lapse after which nobody was there to look may be believed only half a lease later
        while late > self.lease / 4:
            began = time.monotonic()
            await asyncio.sleep(self.lease * 1.3)
            late = time.monotonic() - began - self.lease * 1.3

    async def pass_by(self, at: float) -> None:
        """Wait until the storage's clock is past `at`."""
        while self.now() <= at:
            await self.lapse()

    async def take(self, subscription: Subscription, count: int = 1) -> list[Delivery]:
        """Receive until there are `count`."""
        taken: list[Delivery] = []
        deadline = time.monotonic() + self.patience
        while len(taken) < count and (left := deadline - time.monotonic()) > 0:
            taken += await subscription.receive(count - len(taken), left)
        assert len(taken) == count, f"{count} messages were to come in {self.patience} s, {len(taken)} came"
        return taken

    async def nothing_comes(self, subscription: Subscription) -> None:
        """Make sure that there is nothing to receive."""
        came = await subscription.receive(10, self.quiet)
        assert came == [], f"nothing was to come, {len(came)} came"

    async def nothing_is_left(self) -> None:
        """Make sure that a new consumer finds nothing."""
        await self.nothing_comes(await self.consumer())

    async def park(self, *envelopes: Envelope, line: str = LINE) -> None:
        """Publish `envelopes` and let a consumer, which leaves then, park them in that order."""
        await self.publish(*envelopes)
        consumer = await self.consumer(*{envelope.queue for envelope in envelopes})
        taken = {delivery.id: delivery for delivery in await self.take(consumer, len(envelopes))}
        assert taken.keys() == set(ids(envelopes)), "other messages came than were published"
        await settle(consumer, *(Settlement(taken[envelope.id], "park", line=line) for envelope in envelopes))
        await consumer.close()

    async def lost(self, *, times: int = 1, max_losses: int = 3, **fields: Any) -> tuple[Subscription, Delivery]:
        """Publish a message, let `times` consumers be lost after starting it; return the next one and its delivery."""
        await self.publish(self.envelope(**fields))
        for _ in range(times):
            doomed = await self.consumer(lease=self.lease, max_losses=100)
            await begin(doomed, await self.take(doomed))
            await self.lapse()
        heir = await self.consumer(max_losses=max_losses)
        return heir, (await self.take(heir))[0]


@dataclass(kw_only=True)
class FinishHarness(BrokerHarness):
    """Brokers and the backends that share their links.

    Attributes:
        connect_pair: Makes another broker and another backend on one link, not open.
    """

    connect_pair: Callable[[], tuple[Broker, ResultBackend]]
    connect: Callable[[], Broker] = field(init=False)

    def __post_init__(self) -> None:
        self.connect = lambda: self.connect_pair()[0]

    async def pair(self, *, lease: float = LONG_LEASE_S) -> tuple[FusedSubscription, ResultBackend]:
        """Return a consumer of `queue` and the backend that it fuses with."""
        broker, backend = self.connect_pair()
        await self.opened(broker)
        await self.opened(backend)
        subscription = await self.consumer(broker=broker, lease=lease)
        assert isinstance(subscription, FusedFinish)
        return cast("FusedSubscription", subscription), backend


@dataclass(kw_only=True)
class BackendHarness(Harness):
    """Backends on one storage.

    Attributes:
        connect: Makes another backend on the storage, not open, as another process would.
        unreachable: Makes a backend whose server isn't there; for `UNREACHABLE_CLAUSES`.
    """

    connect: Callable[[], ResultBackend]
    unreachable: Callable[[], ResultBackend] | None = None

    async def backend(self) -> ResultBackend:
        """Return another open backend."""
        backend = self.connect()
        await self.opened(backend)
        return backend

    async def next(self, changes: AsyncIterator[TaskMeta]) -> TaskMeta:
        """Return the next change that a watch tells of."""
        try:
            return await self.soon(anext(changes))
        except StopAsyncIteration as error:
            raise AssertionError("a change was to come, the watch ended") from error

    async def nothing_changes(self, changes: AsyncIterator[TaskMeta]) -> None:
        """Make sure that a watch has nothing more to tell. It can't be read afterwards."""
        try:
            async with asyncio.timeout(self.quiet):
                meta = await anext(changes)
        except TimeoutError:
            return
        raise AssertionError(f"nothing was to change, {meta.state} came")


async def begin(subscription: Subscription, deliveries: Sequence[Delivery], *, acks_late: bool = True) -> None:
    """Start `deliveries`, which must be allowed."""
    verdicts = await subscription.begin([Start(delivery, acks_late) for delivery in deliveries])
    assert verdicts == [Verdict.RUN] * len(deliveries), verdicts


async def settle(subscription: Subscription, *settlements: Settlement) -> None:
    """Carry out `settlements`, none of which may be refused."""
    refused = await subscription.settle(settlements)
    assert refused == [], f"{len(refused)} refused"


async def finish(subscription: FusedSubscription, *finishes: Finish) -> None:
    """Carry out `finishes`, none of which may be refused."""
    refused = await subscription.finish(finishes)
    assert refused == [], f"{len(refused)} refused"


async def store(backend: ResultBackend, *metas: TaskMeta, expires: float | None = None) -> None:
    """Store `metas` as rows of `backend`."""
    await backend.store([backend.encode(meta, expires) for meta in metas])


def ids(deliveries: Sequence[Delivery | Envelope]) -> list[str]:
    """Return the task ids, in order."""
    return [delivery.id for delivery in deliveries]


def meta(state: str, id_: str, result: Any = None) -> TaskMeta:
    """Return an outcome to store."""
    return TaskMeta(id=id_, state=state, result=result)
