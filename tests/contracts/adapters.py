"""Harnesses of the adapters that are held to the contracts, by name; each call is a storage of its own."""

import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.servers.rabbitmq import server_of_this_process
from tests.servers.redis import RedisServer, free_port

from aiotask.brokers.amqp import AmqpBroker
from aiotask.brokers.memory import MemoryBroker
from aiotask.brokers.redis import RedisBroker
from aiotask.brokers.sqlite import SqliteBroker
from aiotask.connections.amqp import AmqpLink
from aiotask.connections.memory import MemoryLink
from aiotask.connections.redis import RedisLink
from aiotask.connections.sqlite import SqliteLink
from aiotask.message import new_id
from aiotask.protocols import Broker, ResultBackend
from aiotask.results.memory import MemoryBackend
from aiotask.results.redis import RedisBackend
from aiotask.results.sqlite import SqliteBackend
from aiotask.testing.harness import Ability, BackendHarness, BrokerHarness, FinishHarness

MEMORY_PATIENCE_S = 0.5
"""The same for the sound adapters as for the broken ones: that a double fails is never a lack of patience."""


class SteppingClock:
    """The time, and a way to go ahead of it."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


def memory_broker_harness(
    link_type: type[MemoryLink] = MemoryLink, broker_type: type[MemoryBroker] = MemoryBroker
) -> FinishHarness:
    clock = SteppingClock()
    link = link_type(clock)
    harness = FinishHarness(
        connect_pair=lambda: (broker_type(link), MemoryBackend(link)),
        now=clock,
        patience=MEMORY_PATIENCE_S,
        quiet=0.05,
    )

    async def sleep_over_lease() -> None:
        clock.ahead_s += harness.lease + 0.01

    harness.sleep_over_lease = sleep_over_lease
    return harness


def memory_backend_harness(
    link_type: type[MemoryLink] = MemoryLink, backend_type: type[MemoryBackend] = MemoryBackend
) -> BackendHarness:
    link = link_type(time.time)
    return BackendHarness(connect=lambda: backend_type(link), patience=MEMORY_PATIENCE_S, quiet=0.05)


def sqlite_pair(path: Path) -> tuple[Broker, ResultBackend]:
    link = SqliteLink(path)
    return SqliteBroker(link), SqliteBackend(link)


def sqlite_broker(folder: Path) -> FinishHarness:
    return FinishHarness(
        quiet=0.1,
        connect_pair=lambda: sqlite_pair(folder / "aiotask.db"),
        unreachable=lambda: sqlite_pair(folder / "missing" / "aiotask.db")[0],
    )


def sqlite_backend(folder: Path) -> BackendHarness:
    return BackendHarness(
        connect=lambda: sqlite_pair(folder / "aiotask.db")[1],
        unreachable=lambda: sqlite_pair(folder / "missing" / "aiotask.db")[1],
    )


@functools.cache
def redis_url() -> str:
    """Return the URL of a server that the tests of this process share; it is gone with the process."""
    folder = Path(tempfile.mkdtemp(prefix="aiotask-redis-"))
    server = RedisServer(folder).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill9)
    return server.url()


def redis_pair(url: str, key_prefix: str) -> tuple[Broker, ResultBackend]:
    link = RedisLink(url, key_prefix=key_prefix)
    return RedisBroker(link), RedisBackend(link)


def redis_broker(_: Path) -> FinishHarness:
    url, key_prefix = redis_url(), f"test-{new_id()}"
    return FinishHarness(
        connect_pair=lambda: redis_pair(url, key_prefix),
        unreachable=lambda: RedisBroker(RedisLink(f"redis://127.0.0.1:{free_port()}/0")),
    )


def redis_backend(_: Path) -> BackendHarness:
    url = redis_url()
    return BackendHarness(
        connect=lambda: RedisBackend(RedisLink(url)),
        unreachable=lambda: RedisBackend(RedisLink(f"redis://127.0.0.1:{free_port()}/0")),
    )


ALL_AMQP_LACKS = frozenset(Ability)
AMQP_PRIORITIES_LACK = ALL_AMQP_LACKS - {Ability.PRIORITIES}


class RabbitHarness(BrokerHarness):
    """Brokers in a virtual host of their own. Leases end there with their connection: `lapse` cuts it."""

    def __init__(self, *, max_priority: int | None = None) -> None:
        server = server_of_this_process()
        self._vhost = server.make_vhost()
        self._brokers: list[AmqpBroker] = []

        def connect() -> AmqpBroker:
            broker = AmqpBroker(AmqpLink(server.url(self._vhost)), max_priority=max_priority)
            self._brokers.append(broker)
            return broker

        super().__init__(
            connect=connect,
            unreachable=lambda: AmqpBroker(AmqpLink(f"amqp://127.0.0.1:{free_port()}/")),
            lease=0.3,
            quiet=0.1,
            lacks=ALL_AMQP_LACKS if max_priority is None else AMQP_PRIORITIES_LACK,
        )

    async def lapse(self) -> None:
        for broker in self._brokers:
            for subscription in tuple(broker._subscriptions):
                if subscription.lease == self.lease:
                    subscription.link.cut()
        await super().lapse()

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        server_of_this_process().drop_vhost(self._vhost)


BROKERS: dict[str, Callable[[Path], BrokerHarness]] = {
    "memory": lambda _: memory_broker_harness(),
    "sqlite": sqlite_broker,
    "redis": redis_broker,
    "amqp": lambda _: RabbitHarness(),
    "amqp-priorities": lambda _: RabbitHarness(max_priority=9),
}
LACKS = {"amqp": ALL_AMQP_LACKS, "amqp-priorities": AMQP_PRIORITIES_LACK}
"""What those that are not among them lack is nothing."""
FUSED = ("memory", "sqlite", "redis")
BACKENDS: dict[str, Callable[[Path], BackendHarness]] = {
    "memory": lambda _: memory_backend_harness(),
    "sqlite": sqlite_backend,
    "redis": redis_backend,
}
