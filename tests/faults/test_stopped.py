"""A worker is told to stop: what runs fits the grace, or outlasts it, or a second signal comes."""

import signal

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import ACKS, Scene, Worker, done_mono, until
from .stores import SqliteStore

PROMPTLY_S = 3.0
"""A process that was told twice has ended by then, whatever its bodies do: 1 s is for handing back."""
STOPPED_WITHOUT_STORING_S = 12.0
"""So has one that can't write what it has to: 5 s are for trying. One wait for each lock would be 20 s and more."""


# ---- what runs fits the grace ----


@ACKS
@pytest.mark.parametrize(
    ("broker", "number"),
    [("sqlite", signal.SIGTERM), ("sqlite", signal.SIGINT), ("redis", signal.SIGTERM), ("amqp", signal.SIGTERM)],
    ids=["sqlite-SIGTERM", "sqlite-SIGINT", "redis-SIGTERM", "amqp-SIGTERM"],
)
async def test_reserved_messages_are_handed_back_at_once_when_a_worker_is_told_to_stop(
    scene: Scene, number: int, acks_late: bool
) -> None:
    pushes = scene.store.acknowledges_early  # a frozen worker would be given messages, too
    other = None if pushes else await scene.frozen("-c", "20", task_acks_late=acks_late)
    leaving = await scene.worker("-c", "4", task_acks_late=acks_late, worker_prefetch_multiplier=5)
    await scene.send("nap", 3.0 if pushes else 1.2, times=20)
    await until(lambda: len(scene.record.starts()) == 4, "four have started")
    assert (await scene.depth()).reserved == (16 if pushes and not acks_late else 20)
    if other is None:
        other = await scene.worker("-c", "20", task_acks_late=acks_late)
    else:
        other.thaw()
    at = leaving.send(number)
    assert await leaving.ended() == 0
    outcomes = await scene.all_done()
    late = [event for event in scene.record.starts() if event.pid == leaving.pid and event.at_mono > at]
    others = [event for event in scene.record.starts() if event.pid == other.pid]
    slowest = max(event.at_mono for event in others) - at
    await scene.tell(
        f"{signal.Signals(number).name}, {'late' if acks_late else 'early'} acks, fits the grace",
        started_after_the_signal=len(late),
        handed_back=f"{len(others)} started elsewhere within {slowest:.2f} s",
    )

    assert not late
    begun = [event for event in scene.record.starts() if event.pid == leaving.pid]
    assert len(others) == 20 - len(begun)
    assert len(begun) == 4 or pushes
    assert slowest < 1.0
    unasked = {1} if pushes else set()  # pushed, and nobody had asked for it
    assert {event.delivery_count for event in others} - unasked == {2}
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
    assert scene.record.started_twice() == 0  # D 0
    assert scene.stored_outcomes() == 20
    assert await scene.dead() == {}


# ---- it does not fit ----

BODIES = {
    "coroutine": ("nap_once", 3600.0),
    "thread": ("nap_in_thread", 3600.0),
    "swallows its cancellation": ("stubborn",),
    "swallows it and keeps the loop busy": ("restless",),
}


async def stop_by_grace(worker: Worker) -> float:
    return worker.send(signal.SIGTERM) + 0.4


async def stop_by_second_signal(worker: Worker) -> float:
    worker.send(signal.SIGTERM)
    await until(lambda: "Asked to stop: nothing more is started" in worker.said, "the first signal is noticed")
    return worker.send(signal.SIGTERM)


@ACKS
@pytest.mark.parametrize("by", ["second signal", "grace"])
@pytest.mark.parametrize(
    ("broker", "body"),
    [
        *(("sqlite", body) for body in BODIES),
        ("redis", "coroutine"),
        *(pytest.param("redis", body, marks=pytest.mark.long) for body in list(BODIES)[1:]),
        *(pytest.param("amqp", body, marks=pytest.mark.long) for body in BODIES),
    ],
)
async def test_what_runs_is_handed_back_within_a_second_when_it_outlasts(
    scene: Scene, body: str, by: str, acks_late: bool
) -> None:
    grace = "0.4" if by == "grace" else "60"
    leaving = await scene.worker("-c", "3", "--shutdown-timeout", grace, task_acks_late=acks_late)
    ids = await scene.send(*BODIES[body], times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    at = await (stop_by_grace if by == "grace" else stop_by_second_signal)(leaving)

    async def is_over() -> bool:
        settled = acks_late or len(await scene.outcomes(ids)) == 3  # what left the broker as it began is not reserved
        return settled and (await scene.depth()).reserved == 0

    await until(is_over, "nothing is reserved")
    given = scene.store.given_back()
    outcomes = await scene.outcomes(ids)
    title = f"{by}, {body}, acks {'late' if acks_late else 'early'}"
    handed_back = scene.now() - at
    code = await leaving.ended(PROMPTLY_S)
    ended = scene.now() - at
    if acks_late:
        assert outcomes == {}
        assert given in ([(1, 0)] * 3, None)  # handed out once, lost never
        await scene.worker(task_acks_late=True)
        outcomes = await scene.all_done()
        assert {meta.state for meta in outcomes.values()} == {SUCCESS}  # L 0
        assert {event.delivery_count for event in scene.record.ends()} == {2}
        assert await scene.dead() == {}
    else:
        assert not given
        assert {meta.state for meta in outcomes.values()} == {FAILURE}
        assert {meta.result["exc_type"] for meta in outcomes.values()} == {"WorkerLost"}
        assert {letter.reason for letter in (await scene.dead()).values()} == {"WorkerLost"}
        assert max(map(done_mono, outcomes.values())) - at < 1.0
    await scene.tell(title, handed_back=f"in {handed_back:.2f} s", ended=f"in {ended:.2f} s with {code}")
    assert handed_back < 1.0
    assert len(outcomes) == 3
    assert scene.stored_outcomes() == 3
    assert scene.record.started_twice() == (3 if acks_late else 0)
    # 1 tells who has signalled twice that work was left to another worker; a failure is no such work.
    assert code == (1 if acks_late and by == "second signal" else 0)


@ACKS
async def test_process_ends_at_the_second_signal_though_the_file_is_locked(
    scene: Scene, store: SqliteStore, acks_late: bool
) -> None:
    """It gives up handing back what it can't, and what nobody was told of is found by the leases."""
    leaving = await scene.worker("-c", "1", task_acks_late=acks_late, worker_prefetch_multiplier=5)
    await scene.send("nap", 1.0, times=5)
    await until(scene.record.starts, "one has started")
    with store.locked():
        await until(scene.record.ends, "it has ended: its outcome and the next one's begin wait for the file")
        leaving.send(signal.SIGTERM)
        await until(lambda: "Asked to stop: nothing more" in leaving.said, "the first signal is noticed")
        at = leaving.send(signal.SIGTERM)
        code = await leaving.ended()
        took = scene.now() - at
    await scene.worker("-c", "5", task_acks_late=acks_late)
    outcomes = await scene.all_done()
    await scene.drained()
    title = f"second signal, file locked, acks {'late' if acks_late else 'early'}"
    await scene.tell(title, begun=1, ended=f"in {took:.2f} s with {code}")
    states = sorted(meta.state for meta in outcomes.values())
    assert code == 1
    assert took < STOPPED_WITHOUT_STORING_S
    assert states == ([SUCCESS] * 5 if acks_late else [FAILURE] + [SUCCESS] * 4)  # L 0
    assert scene.record.started_twice() == (1 if acks_late else 0)
    assert scene.stored_outcomes() == 5


async def test_process_ends_when_it_is_signalled_again_and_its_loop_is_blocked(scene: Scene) -> None:
    """The first two signals wait for the loop; one that comes two seconds after them does not."""
    leaving = await scene.worker(task_acks_late=True)
    await scene.send("block", 3600)
    await until(scene.record.starts, "it has started")
    leaving.send(signal.SIGTERM)
    leaving.send(signal.SIGTERM)

    def ended() -> bool:
        if leaving.code is None:
            leaving.send(signal.SIGTERM)
        return leaving.code is not None

    at = scene.now()
    await until(ended, "the process has ended")
    took = scene.now() - at
    await scene.worker(task_acks_late=True)
    outcomes = await scene.all_done()
    await scene.tell("third signal, loop blocked, acks late", begun=1, ended=f"in {took:.2f} s with {leaving.code}")
    assert leaving.code == 1
    assert 1.5 < took < 3.5
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert len(scene.record.starts()) == 2
