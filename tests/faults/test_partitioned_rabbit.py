"""Links to RabbitMQ that are half open, one way or both, and nobody is told; links that are cut again and again."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.servers.proxy import FaultProxy

from aiotask import AioTask
from aiotask.states import SUCCESS

from .harness import ACKS_EARLY_LONG, ON_RABBITMQ, SLACK_S, Scene, Worker, done_mono, until
from .rabbit_store import RabbitStore

pytestmark = ON_RABBITMQ

TIMEOUT_S = 1.0
"""Of connecting and of commands; 5 s by default."""
LINK = {"broker_connection_timeout": TIMEOUT_S, "broker_command_timeout": TIMEOUT_S}
HEARTBEAT_S = 1
"""The server ends a connection after two or three of them; 60 s by default."""
PROBE_S = 5.0
"""What says nothing is asked so often whether it is there."""
WAYS = {"to the server": ["to_server"], "from the server": ["to_client"], "both ways": []}
NAP_S = 3 * HEARTBEAT_S + 3.0
CONCURRENCY = 10
NONE, THOSE_OF_ONE_STEP = range(1), range(1, 3)
"""How many may be lost. Two slots that are freed at once begin in one step, of which the answer is awaited; when one is
freed a moment before the other, the second message is not acknowledged any more."""


@pytest.fixture
def proxies(store: RabbitStore) -> Iterator[Callable[[], FaultProxy]]:
    """Makes proxies in front of the server."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(FaultProxy(store.server.port))


def through(store: RabbitStore, proxy: FaultProxy, **parameters: str) -> str:
    return store.server.url(store.vhost, port=proxy.port, **parameters)


@ACKS_EARLY_LONG
async def test_others_get_what_a_worker_had_whose_link_was_half_open(
    scene: Scene, store: RabbitStore, proxies: Callable[[], FaultProxy], acks_late: bool
) -> None:
    """Three workers at once, each cut off in another way."""
    cut_off: dict[str, tuple[Worker, FaultProxy]] = {}
    for way in WAYS:
        proxy = proxies()
        url = through(store, proxy, heartbeat=str(HEARTBEAT_S))
        cut_off[way] = await scene.worker("-c", "2", broker_url=url, task_acks_late=acks_late, **LINK), proxy
    await scene.send("nap_once", NAP_S, times=6)
    await until(lambda: len(scene.record.starts()) == 6, "each has started two")
    begun = scene.begun()
    pids = {worker.pid for worker, _ in cut_off.values()}
    other = await scene.worker("-c", "10", task_acks_late=acks_late)
    at = scene.now()
    for way, (_, proxy) in cut_off.items():
        proxy.black_hole(*WAYS[way])  # type: ignore[arg-type]
    for worker, _ in cut_off.values():
        await until(lambda worker=worker: "Lost the connection" in worker.said, "it has noticed")
    noticed = scene.now() - at
    outcomes = await scene.all_done()
    recovery = max(map(done_mono, outcomes.values())) - at
    await until(lambda: sum(e.pid in pids for e in scene.record.ends()) == 6, "the cut-off bodies have ended, too")
    for _, proxy in cut_off.values():
        proxy.heal()
    for worker, _ in cut_off.values():
        await until(lambda worker=worker: "again after" in worker.said, "it has connected again")
    await scene.tell(
        f"half-open, acks {'late' if acks_late else 'early'}",
        begun=len(begun),
        recovery=recovery,
        noticed=f"{noticed:.2f} s",
    )

    assert len(begun) == 6
    assert noticed < PROBE_S + TIMEOUT_S + SLACK_S
    assert await scene.outcomes() == outcomes
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
    assert scene.stored_outcomes() == 6
    assert scene.record.started_twice() <= (len(begun) if acks_late else 0)  # D <= E, D 0
    if acks_late:
        assert {meta.result for meta in outcomes.values()} == {other.pid}
    assert await scene.dead() == {}
    other.send(signal.SIGTERM)
    await other.ended()
    await scene.send("nap", 0.05, times=12)
    again = await scene.all_done(scene.sent[6:])
    assert {meta.result for meta in again.values()} <= pids
    await scene.drained()


@pytest.mark.parametrize(
    ("way", "heartbeat_s", "alone", "lost"),
    [
        pytest.param("to the server", 60, False, NONE, id="to the server", marks=pytest.mark.long),
        pytest.param("to the server", 60, True, NONE, id="to the server, alone"),
        pytest.param("from the server", 60, False, THOSE_OF_ONE_STEP, id="from the server"),
        pytest.param("to the server", HEARTBEAT_S, False, NONE, id="server hangs up", marks=pytest.mark.long),
        pytest.param("from the server", HEARTBEAT_S, True, NONE, id="server is asked, alone", marks=pytest.mark.long),
        pytest.param("both ways", 60, False, NONE, id="both ways", marks=pytest.mark.long),
    ],
)
async def test_nothing_starts_twice_when_a_link_is_half_open_as_acknowledgements_go_out(
    scene: Scene,
    store: RabbitStore,
    proxies: Callable[[], FaultProxy],
    way: str,
    heartbeat_s: int,
    alone: bool,
    lost: range,
) -> None:
    """What begins does so when the server has said that it has had that: it may have, and nobody hears of it."""
    proxy = proxies()
    early = {"task_acks_late": False, "worker_prefetch_multiplier": 3, **LINK}
    cut_off = await scene.worker("-c", "2", broker_url=through(store, proxy, heartbeat=str(heartbeat_s)), **early)
    running = await scene.send("nap", 1.0, times=2)
    await until(lambda: len(scene.record.starts()) == 2, "two have started")
    waiting = await scene.send("nap", 0, times=4)
    await asyncio.sleep(0.2)  # they have come
    proxy.black_hole(*WAYS[way])  # type: ignore[arg-type]
    other = cut_off if alone else await scene.worker("-c", "2", **early)
    await until(lambda: "don't start here" in cut_off.said, "it has noticed")
    await until(lambda: "Lost the connection" in cut_off.said, "it has noticed that, too")
    proxy.heal()
    await until(lambda: "again after" in cut_off.said, "it has connected again")
    await scene.all_done(running)
    await scene.drained()
    began = {event.task_id for event in scene.record.starts()}
    await scene.all_done(began)
    await scene.tell(f"half-open {way} as two begin, heartbeat {heartbeat_s} s, acks early", begun=2)

    assert scene.record.started_twice() == 0  # D 0
    assert len(set(waiting) - began) in lost  # L <= E
    outcomes = await scene.outcomes()
    assert set(outcomes) == began
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert {event.pid for id_ in waiting for event in scene.record.starts(id_)} == {other.pid}
    assert await scene.dead() == {}
    assert [worker.code for worker in (cut_off, other)] == [None, None]


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
async def test_half_open_link_is_noticed_within_ten_seconds_when_nothing_is_set(
    scene: Scene, store: RabbitStore, proxies: Callable[[], FaultProxy], way: str, busy: bool
) -> None:
    proxy = proxies()
    worker = await scene.worker(broker_url=through(store, proxy), worker_lease=20, task_acks_late=True)
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
    assert noticed < 10.0 + SLACK_S
    assert len(scene.record.starts()) == len(ids)  # what ran takes its message over


@pytest.mark.parametrize("way", ["both ways", pytest.param("from the server", marks=pytest.mark.long)])
async def test_get_over_rpc_ends_with_its_value_when_a_link_that_was_half_open_is_back(
    scene: Scene, store: RabbitStore, proxies: Callable[[], FaultProxy], way: str
) -> None:
    proxy = proxies()
    client = AioTask("client", broker=through(store, proxy), result_backend="rpc://", **LINK)
    await client.connect()
    try:
        result = await client.send_task("nap", [0.1])
        waiting = asyncio.create_task(result.get())
        proxy.black_hole(*WAYS[way])  # type: ignore[arg-type]
        worker = await scene.worker(result_backend="rpc://")
        await until(lambda: len(scene.record.ends()) == 1, "it is done")
        await until(lambda: not client.broker.connected, "the client has left the link")
        assert not waiting.done()
        proxy.heal()
        at = scene.now()
        assert await asyncio.wait_for(waiting, 20) == worker.pid
        print(f"\nget() over rpc, {way}: recovery {scene.now() - at:.2f} s", flush=True)
        assert await (await client.send_task("nap", [0])).get(timeout=20) == worker.pid
        assert len(scene.record.starts()) == 2
    finally:
        await client.close()


@pytest.mark.parametrize("cuts", [4, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(200)])])
async def test_nothing_is_lost_when_all_connections_are_cut_again_and_again(
    scene_on, store: RabbitStore, proxies: Callable[[], FaultProxy], cuts: int
) -> None:
    """One worker: what runs takes its message over; a publish that had no answer is sent again."""
    proxy = proxies()
    store.url = through(store, proxy)
    scene: Scene = await scene_on(store, worker_lease=30)
    worker = await scene.worker("-c", str(CONCURRENCY), task_acks_late=True)
    unknown = 0
    for number in range(1, cuts + 1):
        sending = asyncio.create_task(scene.send("nap", 0.1, times=60))
        due = 50 * number
        await until(lambda due=due: len(scene.record.ends()) >= due, "some are done")
        unknown += 0 if sending.done() else 60
        proxy.cut()
        await sending
    outcomes = await scene.all_done()
    await scene.drained()
    again = [event for event in scene.record.starts() if event.delivery_count > 1]
    await scene.tell(f"{cuts} cuts of all connections", handed_out_again=len(again))
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)
    # At most one duplicate of each publish without an answer; and on a slow machine what did not come again in time.
    assert scene.record.started_twice() <= unknown + len(again)
    assert len(again) <= cuts * 2 * CONCURRENCY
    assert await scene.dead() == {}
    assert worker.code is None
