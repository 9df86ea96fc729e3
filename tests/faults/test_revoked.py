"""What was revoked is not run when no worker was there to hear it, nor when the one that has heard it is killed."""

from aiotask.outcome import TaskMeta
from aiotask.states import REVOKED, SUCCESS

from .harness import EACH_BROKER, Scene, until

NAP_S = 0.01
LONG_NAP_S = 60.0


def reasons(outcomes: dict[str, TaskMeta], ids: list[str]) -> set[tuple[str, str]]:
    return {(outcomes[id_].state, outcomes[id_].result["exc_message"][0]) for id_ in ids}


@EACH_BROKER
async def test_none_has_started_when_they_were_revoked_with_no_worker_up(scene: Scene) -> None:
    sent = await scene.send("nap", NAP_S, times=60)
    others = sent[::6]
    revoked = [id_ for id_ in sent if id_ not in others]
    assert await scene.app.control.revoke(revoked, timeout=0.2) == {}
    await scene.worker("-c", "10")
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"{len(revoked)} revoked, worker started later")
    assert reasons(outcomes, revoked) == {(REVOKED, "revoked")}
    assert {outcomes[id_].state for id_ in others} == {SUCCESS}
    assert sorted(event.task_id for event in scene.record.starts()) == sorted(others)
    assert await scene.dead() == {}


@EACH_BROKER
async def test_none_starts_when_the_worker_that_was_told_is_killed(scene: Scene) -> None:
    settings = {"task_acks_late": True, "worker_prefetch_multiplier": 5}
    victim = await scene.worker("-c", "2", **settings)
    running = await scene.send("nap", LONG_NAP_S, times=2)
    await until(lambda: len(list(scene.record.starts())) == 2, "two run")
    waiting = await scene.send("nap", NAP_S, times=20)

    async def has_some() -> bool:
        return (await scene.depth()).ready < len(waiting)

    async def is_heard() -> bool:
        return bool(await scene.app.control.revoke([*running, *waiting]))

    await until(has_some, "it has some of those that wait")
    await until(is_heard, "it was told")
    killed = await scene.kill(victim)
    await scene.worker("-c", "20", **settings)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell("SIGKILL after a revoke", begun=len(killed.begun))
    assert reasons(outcomes, scene.sent) == {(REVOKED, "revoked")}
    # Neither those that waited, nor those again that ran, although they are acknowledged late.
    assert sorted(event.task_id for event in scene.record.starts()) == sorted(running)
    assert await scene.dead() == {}
