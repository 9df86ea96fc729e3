"""A task that kills its own process, among good ones, where a process that ends is replaced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import EACH_BROKER, EACH_BROKER_REDIS_LONG, ON_RABBITMQ, Scene, until

CONCURRENCY = 8
MAX_DELIVERIES = 4
"""The default of `task_max_deliveries`."""


@asynccontextmanager
async def good_tasks(scene: Scene) -> AsyncIterator[list[str]]:
    """Send good tasks as long as the block runs, so that some run beside every poison."""
    ids: list[str] = []

    enough = asyncio.Event()

    async def send() -> None:
        while not enough.is_set():
            ids.extend(await scene.send("nap", 0.3, times=6))
            await asyncio.sleep(0.2)

    sending = asyncio.create_task(send())
    try:
        yield ids
    finally:
        enough.set()  # not cancelled: what is being sent at that moment would run uncounted
        await sending


@asynccontextmanager
async def replaced_workers(scene: Scene, count: int, *, acks_late: bool) -> AsyncIterator[None]:
    """Run so many workers, each replaced at once when it ends: a service manager that does not wait."""

    async def keep() -> None:
        while True:
            worker = scene.launch("-c", str(CONCURRENCY), task_acks_late=acks_late)
            while worker.code is None:
                await asyncio.sleep(0.02)

    keeping = [asyncio.create_task(keep()) for _ in range(count)]
    try:
        yield
    finally:
        for each in keeping:
            each.cancel()
        await asyncio.wait(keeping)


async def poison(scene: Scene, count: int) -> tuple[list[str], list[str]]:
    """Send poisons one after the other among good tasks, and wait until all is done; return the ids of both."""
    async with good_tasks(scene) as good:
        bad = []
        for _ in range(count):
            bad += await scene.send("poison")
            await asyncio.sleep(0.5)
        await scene.all_done(bad, within=60)
    await scene.all_done(within=60)
    await scene.drained()
    return bad, good


async def tell(scene: Scene, title: str, bad: list[str], good: list[str]) -> None:
    dead = await scene.dead()
    await scene.tell(
        title,
        starts_of_the_poison="/".join(str(len(scene.record.starts(id_))) for id_ in bad),
        innocents_in_dead_letters=len(set(dead) - set(bad)),
        most_starts_of_an_innocent=max(len(scene.record.starts(id_)) for id_ in good),
    )


async def check_only_the_culprits_are_dead(scene: Scene, bad: list[str], good: list[str]) -> None:
    outcomes, dead = await scene.outcomes(), await scene.dead()
    assert set(dead) == set(bad)
    assert {letter.reason for letter in dead.values()} == {"WorkerLost"}
    assert {outcomes[id_].state for id_ in bad} == {FAILURE}
    assert {outcomes[id_].result["exc_type"] for id_ in bad} == {"WorkerLost"}
    assert {outcomes[id_].state for id_ in good} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)


@EACH_BROKER
async def test_only_the_culprit_is_dead_lettered_when_a_task_kills_its_supervised_process(scene: Scene) -> None:
    await scene.worker("--processes", "2", "-c", str(CONCURRENCY), task_acks_late=True)
    bad, good = await poison(scene, 1)
    await tell(scene, "poison, --processes 2, acks late", bad, good)
    await check_only_the_culprits_are_dead(scene, bad, good)
    assert len(scene.record.starts(*bad)) <= MAX_DELIVERIES


@pytest.mark.parametrize(
    ("broker", "workers"),
    [
        ("sqlite", 1),
        pytest.param("sqlite", 2, marks=pytest.mark.long),
        *(pytest.param(broker, count, marks=pytest.mark.long) for broker in ("redis", "amqp") for count in (1, 2)),
    ],
)
async def test_only_the_culprit_is_dead_lettered_when_a_task_kills_its_process(scene: Scene, workers: int) -> None:
    async with replaced_workers(scene, workers, acks_late=True):
        bad, good = await poison(scene, 1)
    await tell(scene, f"poison, {workers} workers, acks late", bad, good)
    await check_only_the_culprits_are_dead(scene, bad, good)
    assert len(scene.record.starts(*bad)) <= MAX_DELIVERIES


@pytest.mark.long
@EACH_BROKER
async def test_only_the_culprits_are_dead_lettered_when_several_tasks_kill_their_processes(scene: Scene) -> None:
    """A bystander runs beside one culprit after the other, but for its last start, which is alone."""
    async with replaced_workers(scene, 2, acks_late=True):
        bad, good = await poison(scene, 3)
    await tell(scene, "3 poisons, 2 workers, acks late", bad, good)
    await check_only_the_culprits_are_dead(scene, bad, good)
    assert max(len(scene.record.starts(id_)) for id_ in bad) <= MAX_DELIVERIES


@EACH_BROKER_REDIS_LONG
async def test_poison_starts_once_when_acks_are_early(scene: Scene) -> None:
    """What ran beside it ends as it does: acknowledged early, it is not started again."""
    async with replaced_workers(scene, 1, acks_late=False):
        bad, good = await poison(scene, 1)
    await tell(scene, "poison, acks early", bad, good)
    outcomes, dead = await scene.outcomes(), await scene.dead()
    assert len(scene.record.starts(*bad)) == 1
    assert outcomes[bad[0]].state == FAILURE
    assert scene.record.started_twice() == 0
    failed = {id_ for id_, meta in outcomes.items() if meta.state == FAILURE}
    assert failed == set(dead)
    ended = {event.task_id for event in scene.record.ends()}
    assert {id_ for id_ in good if id_ not in ended} <= failed
    assert {id_ for id_ in good if id_ not in failed} == {id_ for id_ in good if outcomes[id_].state == SUCCESS}


@pytest.mark.long
@ON_RABBITMQ
async def test_poison_is_lost_with_what_ran_beside_it_when_it_was_acknowledged_when_it_began(scene: Scene) -> None:
    """Nobody else knows of them; what had not started is run."""
    async with replaced_workers(scene, 1, acks_late=False):
        async with good_tasks(scene):
            await until(lambda: len(scene.record.ends()) >= 6, "some are done")
            (bad,) = await scene.send("poison")
            await until(lambda: scene.workers[0].code is not None, "it has killed its process")
        begun = set(scene.begun(scene.workers[0].pid))
        await scene.drained()

        def has_ended() -> bool:
            return {e.task_id for e in scene.record.starts()} - begun <= {e.task_id for e in scene.record.ends()}

        await until(has_ended, "all that has started has ended")
        await scene.all_done({event.task_id for event in scene.record.ends()} - begun)
    outcomes = await scene.outcomes()
    lost = set(scene.sent) - set(outcomes)
    await scene.tell("poison, acks early", begun=len(begun))
    assert len(scene.record.starts(bad)) == 1
    assert scene.record.started_twice() == 0
    assert bad in lost
    assert len(lost) <= CONCURRENCY  # what began with it, in the same step, has not all come to its first line
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert await scene.dead() == {}
