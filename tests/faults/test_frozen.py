"""A worker is stopped for longer than its lease (SIGSTOP), and goes on (SIGCONT) when another one has its messages."""

import signal

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import (
    ACKS,
    EACH_BROKER_REDIS_LONG,
    EACH_LEASING_BROKER,
    LEASE_S,
    SCAN_S,
    SLACK_S,
    Scene,
    done_mono,
    until,
)

NAP_S = 0.8
"""Over while its worker is stopped, so that its outcome is there at once when that goes on."""


@EACH_BROKER_REDIS_LONG
@pytest.mark.parametrize("body", ["nap_once", "nap_in_thread", "retry_once"])
async def test_late_outcome_is_refused_when_another_worker_has_run_the_task(scene: Scene, body: str) -> None:
    other = await scene.frozen("-c", "5", task_acks_late=True)
    frozen = await scene.worker("-c", "5", task_acks_late=True)
    ids = await scene.send(body, NAP_S, times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    at = await scene.freeze(frozen)
    other.thaw()
    outcomes = await scene.all_done()
    recovery = max(map(done_mono, outcomes.values())) - at
    frozen.thaw()
    await until(lambda: frozen.said.count("was refused") == 3, "three outcomes are refused")
    frozen.send(signal.SIGTERM)
    assert await frozen.ended() == 0
    await scene.tell(f"SIGSTOP past the lease, {body}, acks late", begun=3, recovery=recovery, refused=3)

    assert recovery < LEASE_S + SCAN_S + SLACK_S
    again = await scene.outcomes()
    assert again == outcomes
    assert {meta.state for meta in again.values()} == {SUCCESS}
    assert {meta.result for meta in again.values()} == {other.pid}
    assert scene.stored_outcomes() == 3
    assert len(scene.record.starts()) == 6
    assert {event.delivery_count for event in scene.record.starts() if event.pid == other.pid} == {2}
    depth = await scene.depth()
    assert depth.ready + depth.delayed + depth.reserved + depth.dead == 0  # no retry was sent
    assert set(ids) == {event.task_id for event in scene.record.starts()}


@EACH_BROKER_REDIS_LONG
async def test_late_outcome_is_refused_when_another_worker_still_runs_the_task(scene: Scene) -> None:
    other = await scene.frozen("-c", "5", task_acks_late=True)
    frozen = await scene.worker("-c", "5", task_acks_late=True)
    await scene.send("nap", 2.0)
    await until(scene.record.starts, "it has started")
    await scene.freeze(frozen)
    other.thaw()
    await until(lambda: len(scene.record.starts()) == 2, "it has started again")
    frozen.thaw()
    await until(lambda: "was refused" in frozen.said, "the outcome is refused")
    assert await scene.outcomes() == {}
    outcomes = await scene.all_done()
    await scene.tell("SIGSTOP past the lease, both run, acks late", begun=1, refused=1)
    assert {meta.result for meta in outcomes.values()} == {other.pid}
    assert scene.stored_outcomes() == 1
    assert len(scene.record.starts()) == 2


@EACH_LEASING_BROKER
async def test_worker_lost_stands_when_the_lost_worker_comes_back_and_acks_are_early(scene: Scene) -> None:
    other = await scene.frozen("-c", "5", task_acks_late=False)
    frozen = await scene.worker("-c", "5", task_acks_late=False)
    ids = await scene.send("nap", NAP_S, times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    at = await scene.freeze(frozen)
    other.thaw()
    outcomes = await scene.all_done()
    recovery = max(map(done_mono, outcomes.values())) - at
    frozen.thaw()
    await until(lambda: frozen.said.count("was refused") == 3, "three outcomes are refused")
    frozen.send(signal.SIGTERM)
    assert await frozen.ended() == 0
    await scene.tell("SIGSTOP past the lease, acks early", begun=3, recovery=recovery, refused=3)

    assert recovery < LEASE_S + SCAN_S + SLACK_S
    again = await scene.outcomes()
    assert again == outcomes
    assert {meta.state for meta in again.values()} == {FAILURE}
    assert {meta.result["exc_type"] for meta in again.values()} == {"WorkerLost"}
    assert set(await scene.dead()) == set(ids)
    assert scene.stored_outcomes() == 3
    assert len(scene.record.starts()) == 3  # D 0


@EACH_BROKER_REDIS_LONG
@ACKS
async def test_nothing_starts_twice_when_the_only_worker_was_stopped(scene: Scene, acks_late: bool) -> None:
    """Its leases have lapsed, but nobody has taken them: they are its own still."""
    frozen = await scene.worker("-c", "5", task_acks_late=acks_late)
    await scene.send("nap", LEASE_S + 2.0, times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    await scene.freeze(frozen)
    await until(scene.store.leases_have_lapsed, "the leases have lapsed")
    frozen.thaw()
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"SIGSTOP of the only worker, acks {'late' if acks_late else 'early'}", begun=3)
    assert len(scene.record.starts()) == 3
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == 3
    assert await scene.dead() == {}


@EACH_BROKER_REDIS_LONG
@ACKS
async def test_nothing_starts_twice_when_all_workers_were_stopped_at_once(scene: Scene, acks_late: bool) -> None:
    """A container that was paused, a machine that slept: time has passed for nobody."""
    frozen = [await scene.worker("-c", "2", task_acks_late=acks_late) for _ in range(3)]
    await scene.send("nap", LEASE_S + 2.0, times=5)
    await until(lambda: len(scene.record.starts()) == 5, "all have started")
    for worker in frozen:
        await scene.freeze(worker)
    await until(scene.store.leases_have_lapsed, "the leases have lapsed")
    for worker in frozen:
        worker.thaw()
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"SIGSTOP of all workers, acks {'late' if acks_late else 'early'}", begun=5)
    assert len(scene.record.starts()) == 5
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == 5
    assert await scene.dead() == {}
