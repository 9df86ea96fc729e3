"""Links that are half open: nothing comes through, one way or both, and nobody is told."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask import AioTask
from aiotask.states import FAILURE, SUCCESS

from .harness import ACKS_EARLY_LONG, LEASE_S, ON_REDIS, SCAN_S, SLACK_S, Scene, Worker, done_mono, until
from .stores import RedisStore

pytestmark = ON_REDIS

TIMEOUT_S = 1.0
"""Of connecting and of commands; 5 s by default."""
LINK = {"broker_connection_timeout": TIMEOUT_S, "broker_command_timeout": TIMEOUT_S}
NOTICED_S = 2 * TIMEOUT_S
"""10 s by default: a wait that is just answered for, and the timeout of what comes next."""
WAYS = {"to the server": ["to_server"], "from the server": ["to_client"], "both ways": []}
NAP_S = LEASE_S + SCAN_S + 1.5
"""Longer than it takes others to get hold of what the owner has."""


@pytest.fixture
def proxies(redis_server: RedisServer) -> Iterator[Callable[[], FaultProxy]]:
    """Makes proxies in front of the server."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(FaultProxy(redis_server.port))


@ACKS_EARLY_LONG
async def test_late_outcome_is_refused_when_the_link_was_half_open_past_the_lease(
    scene: Scene, proxies: Callable[[], FaultProxy], acks_late: bool
) -> None:
    """Three workers at once, each cut off in another way."""
    other = await scene.frozen("-c", "10", task_acks_late=acks_late)
    cut_off: dict[str, tuple[Worker, FaultProxy]] = {}
    for way in WAYS:
        proxy = proxies()
        worker = await scene.worker("-c", "2", broker_url=proxy.url(), task_acks_late=acks_late, **LINK)
        cut_off[way] = worker, proxy
    await scene.send("nap_once" if acks_late else "nap", NAP_S, times=6)
    await until(lambda: len(scene.record.starts()) == 6, "each has started two")
    begun = scene.begun()
    at = other.thaw()
    for way, (_, proxy) in cut_off.items():
        proxy.black_hole(*WAYS[way])  # type: ignore[arg-type]
    noticed = 0.0
    for worker, _ in cut_off.values():
        await until(lambda worker=worker: "Lost the connection" in worker.said, "it has noticed")
        noticed = scene.now() - at
    outcomes = await scene.all_done()
    recovery = max(map(done_mono, outcomes.values())) - at
    pids = {worker.pid for worker, _ in cut_off.values()}
    await until(lambda: sum(e.pid in pids for e in scene.record.ends()) == 6, "the cut-off bodies have ended, too")
    for _, proxy in cut_off.values():
        proxy.heal()
    for worker, _ in cut_off.values():
        await until(lambda worker=worker: worker.said.count("was refused") == 2, "its two outcomes are refused")
    await scene.tell(
        f"half-open past the lease, acks {'late' if acks_late else 'early'}",
        begun=len(begun),
        recovery=recovery,
        noticed=f"{noticed:.2f} s",
        refused=6,
    )

    assert len(begun) == 6
    assert noticed < NOTICED_S + SLACK_S
    assert recovery < LEASE_S + SCAN_S + SLACK_S
    assert await scene.outcomes() == outcomes
    assert {meta.state for meta in outcomes.values()} == {SUCCESS if acks_late else FAILURE}  # L 0
    assert scene.stored_outcomes() == 6
    assert scene.record.started_twice() <= (len(begun) if acks_late else 0)  # D <= E, D 0
    assert set(await scene.dead()) == (set() if acks_late else set(begun))
    other.send(signal.SIGTERM)
    await other.ended()
    await scene.send("nap", 0.05, times=12)
    again = await scene.all_done(scene.sent[6:])
    assert {meta.state for meta in again.values()} == {SUCCESS}
    assert {meta.result for meta in again.values()} <= pids
    await scene.drained()


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
async def test_half_open_link_is_noticed_within_ten_seconds_when_nothing_is_set(
    scene: Scene, proxy: FaultProxy, way: str, busy: bool
) -> None:
    worker = await scene.worker(broker_url=proxy.url(), worker_lease=60, worker_lease_renewal=5, task_acks_late=True)
    ids = await scene.send("nap", 2.0 if busy else 0)
    await until(scene.record.starts, "it has started")
    if not busy:
        await scene.all_done()
    at = scene.now()
    proxy.black_hole(*WAYS[way])  # type: ignore[arg-type]
    await until(lambda: "Lost the connection" in worker.said, "it has noticed")
    noticed = scene.now() - at
    proxy.heal()
    ids += await scene.send("nap", 0)
    outcomes = await scene.all_done()
    recovery = scene.now() - at - noticed
    await scene.tell(f"half-open {way}, defaults", noticed=f"{noticed:.2f} s", recovery=recovery)
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert noticed < 10.0
    assert len(scene.record.starts()) == len(ids)


@pytest.mark.long
async def test_task_starts_after_a_while_when_only_the_link_that_waits_is_half_open(
    scene: Scene, proxy: FaultProxy
) -> None:
    worker = await scene.worker(broker_url=proxy.url(), **LINK)
    await until(lambda: b"BLPOP" in proxy.commands, "it waits")
    proxy.black_hole(after=b"BLPOP")
    at = scene.now()
    await scene.send("nap", 0)
    outcomes = await scene.all_done()
    await scene.tell("only the link that waits is half-open", recovery=max(map(done_mono, outcomes.values())) - at)
    assert {meta.result for meta in outcomes.values()} == {worker.pid}
    assert scene.now() - at < 5.0 + TIMEOUT_S + SLACK_S


# ---- a client that waits for a result ----


@pytest.fixture
async def client(scene: Scene, proxy: FaultProxy) -> AsyncIterator[AioTask]:
    """An app behind the proxy, connected."""
    app = AioTask("client", broker=proxy.url(), **LINK)
    await app.connect()
    yield app
    await app.close()


async def listening(store: RedisStore, task_id: str) -> None:
    def subscribed() -> bool:
        [(_, count)] = store.client.pubsub_numsub(f"celery-task-meta-{task_id}")
        return bool(count)

    await until(subscribed, "the client listens")


@pytest.mark.parametrize(
    ("which", "way"),
    [
        pytest.param(b"", "both ways", id="all links, both ways"),
        pytest.param(b"", "from the server", id="all links, from the server", marks=pytest.mark.long),
        pytest.param(b"SUBSCRIBE", "both ways", id="the listening link, both ways", marks=pytest.mark.long),
        pytest.param(b"SUBSCRIBE", "from the server", id="the listening link, from the server"),
    ],
)
async def test_get_ends_with_its_value_when_a_link_that_was_half_open_is_back(
    scene: Scene, store: RedisStore, proxy: FaultProxy, client: AioTask, which: bytes, way: str
) -> None:
    result = await client.send_task("nap", [0.1])
    scene.sent.append(result.id)
    waiting = asyncio.create_task(result.get())
    await listening(store, result.id)
    await until(lambda: b"MGET" in proxy.commands, "it looks for what is stored")
    await client.backend.fetch([result.id])  # and has its answer: before, it would be told that there is no connection
    connections = proxy.connections
    proxy.black_hole(*WAYS[way], after=which)  # type: ignore[arg-type]
    worker = await scene.worker()
    outcomes = await scene.all_done()
    at = scene.now()
    await until(lambda: proxy.connections < connections, "the client has left a link")
    noticed = scene.now() - at
    assert which or not waiting.done()  # by another link it looks for what it has not heard
    proxy.heal()
    at = scene.now()
    assert await asyncio.wait_for(waiting, 10) == outcomes[result.id].result == worker.pid
    await scene.tell(f"get(), {which.decode() or 'all'} {way}", noticed=f"{noticed:.2f} s", recovery=scene.now() - at)
    assert await (await client.send_task("nap", [0])).get(timeout=10) == worker.pid
