"""A worker is killed by SIGKILL, while others run and while others idle.

L lost, D started twice, E begun by the killed worker without a stored outcome at the kill.
"""

import signal

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import (
    EACH_BROKER,
    EACH_BROKER_AND_ACKS,
    EACH_BROKER_REDIS_LONG,
    LEASE_S,
    ON_RABBITMQ,
    SCAN_S,
    SLACK_S,
    Killed,
    Scene,
    Worker,
    done_mono,
    until,
)

NAP_S = 0.1
LONG = [pytest.mark.long, pytest.mark.timeout(600)]
LOADS = [pytest.param(300, 3, 10, NAP_S, id="300"), pytest.param(20_000, 20, 20, 0.02, id="20000", marks=LONG)]


async def kill_under_load(
    scene: Scene, count: int, kills: int, concurrency: int, nap: float, *, acks_late: bool
) -> tuple[list[Killed], list[int]]:
    """Run `count` tasks or more on two workers, one of which is killed and replaced `kills` times.

    Returns:
        The kills; and the ids of all killed processes.
    """

    async def start() -> Worker:
        return await scene.worker("-c", str(concurrency), task_acks_late=acks_late)

    running = [await start(), await start()]
    await scene.send("nap", nap, times=count)
    killed: list[Killed] = []
    pids = []
    for number in range(1, kills + 1):
        due = count * number // (kills + 2)
        await until(lambda due=due: scene.done_count() >= due, f"{due} tasks are done", within=300)
        if (await scene.depth()).ready < 5 * concurrency:  # it took long to start the last one
            await scene.send("nap", nap, times=10 * concurrency)
        victim = running.pop(0)
        await until(lambda victim=victim: scene.begun(victim.pid), "the victim has begun something")
        killed.append(await scene.kill(victim))
        pids.append(victim.pid)
        running.append(await start())
    if scene.store.acknowledges_early and not acks_late:
        # What was killed between its acknowledgement and its first line is nowhere: what is left has to end instead.
        await scene.drained(within=300)
        for worker in running:
            worker.send(signal.SIGTERM)
        for worker in running:
            assert await worker.ended() == 0
    else:
        await scene.all_done(within=300)
        await scene.drained()
    if acks_late and scene.store.acknowledges_early:  # what was ended, and maybe acknowledged, need not start again
        ended = {(event.pid, event.task_id) for event in scene.record.ends()}
        for at, pid in enumerate(pids):
            begun = [id_ for id_ in killed[at].begun if (pid, id_) not in ended]
            killed[at] = killed[at]._replace(begun=begun)
    return killed, pids


@EACH_BROKER
@pytest.mark.parametrize(("count", "kills", "concurrency", "nap"), LOADS)
async def test_each_task_is_done_once_when_workers_are_killed_and_acks_are_late(
    scene: Scene, count: int, kills: int, concurrency: int, nap: float
) -> None:
    killed, pids = await kill_under_load(scene, count, kills, concurrency, nap, acks_late=True)
    begun = sum(len(each.begun) for each in killed)
    may_start_again = sum(each.may_start_again for each in killed)
    starts: dict[str, list[float]] = {}
    for event in scene.record.starts():
        starts.setdefault(event.task_id, []).append(event.at_mono)
    waited = [next(t for t in starts[id_] if t > at) - at for at, ids, _ in killed for id_ in ids]
    await scene.tell(
        f"{kills} x SIGKILL, acks late", begun=begun, recovery=max(waited), may_start_again=may_start_again
    )

    outcomes = await scene.outcomes()
    assert len(outcomes) == len(scene.sent)  # L 0
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)  # one each
    assert await scene.dead() == {}
    assert begun > 0
    assert scene.record.started_twice() <= may_start_again  # D <= E
    again = {e.task_id for e in scene.record.starts() if e.delivery_count > 1}
    assert again >= set().union(*(each.begun for each in killed))
    assert max(waited) < scene.store.found_within_s + nap + SLACK_S
    assert not {meta.result for meta in outcomes.values()} - {e.pid for e in scene.record.ends()}
    assert len(set(pids)) == kills


@EACH_BROKER_REDIS_LONG
@pytest.mark.parametrize(("count", "kills", "concurrency", "nap"), LOADS)
async def test_nothing_starts_twice_when_workers_are_killed_and_acks_are_early(
    scene: Scene, count: int, kills: int, concurrency: int, nap: float
) -> None:
    killed, _ = await kill_under_load(scene, count, kills, concurrency, nap, acks_late=False)
    begun = set().union(*(each.begun for each in killed))
    outcomes = await scene.outcomes()
    letters = await scene.dead()
    waited = [done_mono(outcomes[id_]) - at for at, ids, _ in killed for id_ in ids]
    await scene.tell(f"{kills} x SIGKILL, acks early", begun=len(begun), recovery=max(waited))

    assert len(outcomes) == len(scene.sent)
    assert scene.record.started_twice() == 0  # D 0
    assert scene.stored_outcomes() == len(scene.sent)
    failed = {id_ for id_, meta in outcomes.items() if meta.state == FAILURE}
    succeeded = {id_ for id_, meta in outcomes.items() if meta.state == SUCCESS}
    assert len(begun) > 0
    assert failed == begun == set(letters)
    assert {outcomes[id_].result["exc_type"] for id_ in failed} == {"WorkerLost"}
    assert {letter.reason for letter in letters.values()} == {"WorkerLost"}
    assert len(succeeded) + len(failed) == len(scene.sent)  # L 0 of what had not started
    assert max(waited) < LEASE_S + SCAN_S + nap + SLACK_S


@ON_RABBITMQ
@pytest.mark.parametrize(("count", "kills", "concurrency", "nap"), LOADS)
async def test_only_what_ran_is_lost_when_workers_are_killed_and_it_was_acknowledged_when_it_began(
    scene: Scene, count: int, kills: int, concurrency: int, nap: float
) -> None:
    killed, _ = await kill_under_load(scene, count, kills, concurrency, nap, acks_late=False)
    begun = set().union(*(each.begun for each in killed))
    outcomes = await scene.outcomes()
    lost = set(scene.sent) - set(outcomes)
    await scene.tell(f"{kills} x SIGKILL, acks early", begun=len(begun))

    assert len(begun) > 0
    # L <= E. What was killed between its acknowledgement, which the server had, and its first line had its slot, too.
    assert len(lost) <= kills * concurrency
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.record.started_twice() == 0  # D 0
    assert scene.stored_outcomes() == len(outcomes)
    assert await scene.dead() == {}


@EACH_BROKER_AND_ACKS
async def test_messages_of_a_killed_worker_are_taken_when_the_queue_is_idle(scene: Scene, acks_late: bool) -> None:
    """Two have begun, eight are only reserved; the other worker waits, and nothing is sent that would wake it."""
    doomed = await scene.worker("-c", "2", task_acks_late=acks_late, worker_prefetch_multiplier=5)
    await scene.send("nap_once", 3600, times=10)
    await until(lambda: len(scene.record.starts()) == 2, "two have started")
    gone = 2 if scene.store.acknowledges_early and not acks_late else 0
    assert (await scene.depth()).reserved == 10 - gone
    heir = await scene.worker("-c", "20", task_acks_late=acks_late)
    at = await doomed.kill()
    begun = scene.begun(doomed.pid)
    assert len(begun) == 2
    outcomes = await scene.all_done(set(scene.sent) - set(begun if gone else ()))
    await scene.drained()
    recovery = max(map(done_mono, outcomes.values())) - at
    await scene.tell(
        f"SIGKILL on an idle queue, acks {'late' if acks_late else 'early'}", begun=len(begun), recovery=recovery
    )

    assert recovery < scene.store.found_within_s + SLACK_S
    assert scene.stored_outcomes() == 10 - gone
    lost = [] if acks_late else begun
    assert {id_ for id_, meta in outcomes.items() if meta.state == FAILURE} == set([] if gone else lost)
    assert set(await scene.dead()) == set([] if gone else lost)
    assert scene.record.started_twice() == (2 if acks_late else 0)
    again = [event for event in scene.record.starts() if event.pid == heir.pid]
    assert len(again) == 10 - len(lost)
    assert {event.delivery_count for event in again} == {2}
