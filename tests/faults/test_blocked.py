"""A body blocks the event loop: by a call that sleeps, and by pure Python that never gives way."""

import asyncio
import os
import sys

import pytest

from aiotask.states import FAILURE, SUCCESS

from .harness import EACH_BROKER_REDIS_LONG, HERE, LEASE_S, RENEWAL_S, SCAN_S, SLACK_S, Scene, done_mono, until

BODIES = pytest.mark.parametrize(("body", "acks_late"), [("block", True), ("spin", False)], ids=["block", "spin"])
SOURCE = {"block": "time.sleep(seconds)", "spin": "while time.monotonic() < until:"}


@pytest.mark.parametrize(
    ("broker", "body", "acks_late"),
    [
        pytest.param("sqlite", "block", True, id="sqlite-block"),
        pytest.param("sqlite", "spin", False, id="sqlite-spin"),
        pytest.param("redis", "block", True, id="redis-block", marks=pytest.mark.long),
        pytest.param("redis", "spin", False, id="redis-spin"),
    ],
)
async def test_task_runs_once_when_it_blocks_the_loop_for_three_leases(
    scene: Scene, body: str, acks_late: bool
) -> None:
    other = await scene.frozen("-c", "5", task_acks_late=acks_late)
    worker = await scene.worker("-c", "5", task_acks_late=acks_late)
    (id_,) = await scene.send(body, 3 * LEASE_S)
    (start,) = await until(scene.record.starts, "it has started")
    other.thaw()
    await until(lambda: "The event loop is blocked" in worker.said, "the log tells of it")
    told = scene.now() - start.at_mono
    outcomes = await scene.all_done()
    await scene.drained()
    title = f"loop blocked by {body} for 3 leases, acks {'late' if acks_late else 'early'}"
    await scene.tell(title, begun=1, logged_after=f"{told:.2f} s")

    assert len(scene.record.starts()) == 1  # D 0
    assert outcomes[id_].state == SUCCESS
    assert outcomes[id_].result == worker.pid != other.pid
    assert scene.stored_outcomes() == 1
    assert await scene.dead() == {}
    assert f"by task {body}[{id_}]" in worker.said
    assert SOURCE[body] in worker.said or "in spin" in worker.said
    assert told < 2.0 + SLACK_S
    assert "was lost" not in worker.said


@EACH_BROKER_REDIS_LONG
@BODIES
async def test_worker_exits_70_and_another_takes_the_message_when_the_loop_is_blocked_too_long(
    scene: Scene, body: str, acks_late: bool
) -> None:
    limit = 1.2
    other = await scene.frozen("-c", "5", task_acks_late=acks_late)
    worker = await scene.worker("-c", "5", task_acks_late=acks_late, worker_loop_stall_limit=limit)
    (id_,) = await scene.send(body, 3600)
    (start,) = await until(scene.record.starts, "it has started")
    other.thaw()
    code = await worker.ended()
    at = scene.now()
    outcomes = await scene.all_done()
    recovery = done_mono(outcomes[id_]) - at
    title = f"loop blocked by {body} past the limit, acks {'late' if acks_late else 'early'}"
    await scene.tell(title, begun=1, recovery=recovery, exited=f"{code} after {at - start.at_mono:.2f} s")

    assert code == 70
    assert f"by task {body}[{id_}]" in worker.said
    assert "worker_loop_stall_limit" in worker.said
    assert f"in {body}" in worker.said.partition("worker_loop_stall_limit")[2]  # the stacks
    assert at - start.at_mono < limit + 1.0 + SLACK_S
    assert recovery < LEASE_S + SCAN_S + SLACK_S
    assert scene.stored_outcomes() == 1
    assert len(scene.record.starts()) == (2 if acks_late else 1)
    assert outcomes[id_].state == (SUCCESS if acks_late else FAILURE)
    assert set(await scene.dead()) == (set() if acks_late else {id_})


EMBEDDED = """
import asyncio
from aiotask import AioTaskError
from bodies import app

async def main():
    try:
        async with app.worker(concurrency=5):
            print("worker is ready", flush=True)
            await asyncio.sleep(3600)
    except AioTaskError as error:
        print(f"the scope failed: {error}", flush=True)
    await asyncio.sleep(0.05)
    print("the program goes on", flush=True)

asyncio.run(main())
"""


@EACH_BROKER_REDIS_LONG
async def test_scope_of_an_embedded_worker_fails_when_the_loop_was_blocked_too_long(scene: Scene) -> None:
    """The process never ends for it: the program is told when its loop returns."""
    heir = await scene.frozen()
    environment = {
        "AIOTASK_BROKER_URL": scene.url,
        "AIOTASK_WORKER_LEASE": str(LEASE_S),
        "AIOTASK_WORKER_LEASE_RENEWAL": str(RENEWAL_S),
        "AIOTASK_WORKER_LOOP_STALL_LIMIT": "1",
        "FAULTS_RECORD": str(scene.record.path),
    }
    program = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        EMBEDDED,
        cwd=HERE,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        (id_,) = await scene.send("block", 3 * LEASE_S)
        (start,) = await until(scene.record.starts, "it has started")
        heir.thaw()
        async with asyncio.timeout(20):
            output, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    outcomes = await scene.all_done()
    await scene.tell("embedded worker, loop blocked past the limit, acks early", begun=1)
    said = output.decode()
    assert program.returncode == 0
    assert "the scope failed: The event loop was blocked for" in said
    assert "worker_loop_stall_limit" in said
    assert said.rstrip().endswith("the program goes on")
    assert [event.kind for event in scene.record.events()] == ["start", "end"]
    assert outcomes[id_].state == FAILURE  # the leases had lapsed: the other worker said so, and it stands
    assert scene.stored_outcomes() == 1
    assert heir.code is None
    assert start.pid == program.pid
