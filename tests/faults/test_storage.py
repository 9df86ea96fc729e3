"""The file is locked by another process for long, and the disk is full. Nothing is lost, and everything drains."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiotask import BrokerFull
from aiotask.states import FAILURE, SUCCESS

from .full_disk import lift_limit, set_limit
from .harness import ACKS, LEASE_S, Scene, cpu_seconds, until
from .stores import SqliteStore

LOCKED_S = 3.0
LARGE = "x" * 100_000


@ACKS
async def test_everything_drains_when_the_file_was_locked_for_two_leases(
    scene: Scene, store: SqliteStore, acks_late: bool
) -> None:
    """No lease can be renewed meanwhile; its owner lives, and mostly gets the time to say so."""
    assert LOCKED_S >= 2 * LEASE_S
    for _ in range(2):
        await scene.worker("-c", "10", task_acks_late=acks_late)
    long = await scene.send("nap", LOCKED_S + 1.0, times=3)
    await scene.send("nap", 0.2, times=100)
    await until(lambda: scene.done_count() >= 20, "20 are done")
    with store.locked():
        held = scene.begun()
        sending = asyncio.create_task(scene.send("nap", 0.05, times=30))
        await asyncio.sleep(LOCKED_S)
        assert not sending.done()
    at = scene.now()
    await sending
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(
        f"locked for {LOCKED_S:g} s, acks {'late' if acks_late else 'early'}",
        begun=len(held),
        recovery=scene.now() - at,
    )
    assert len(outcomes) == 133  # L 0
    assert scene.stored_outcomes() == 133
    lost = {id_ for id_, meta in outcomes.items() if meta.state == FAILURE}
    assert set(await scene.dead()) == lost
    assert set(long) <= set(held)
    if acks_late:
        assert not lost
        assert scene.record.started_twice() <= len(held)  # D <= E
    else:
        assert lost <= set(held)
        assert scene.record.started_twice() == 0  # D 0


@pytest.mark.long
async def test_worker_costs_next_to_nothing_and_ends_when_its_folder_is_gone(
    tmp_path: Path, scene_on: Callable[..., Awaitable[Scene]]
) -> None:
    (tmp_path / "gone").mkdir()
    scene = await scene_on(SqliteStore(tmp_path / "gone"))
    worker = await scene.worker()
    shutil.rmtree(tmp_path / "gone")
    await until(lambda: "does not exist" in worker.said, "it has noticed")
    shares = []
    for _ in range(15):  # its chores are due once in a minute
        used, at = cpu_seconds(worker.pid), scene.now()
        await asyncio.sleep(5.0)
        shares.append((cpu_seconds(worker.pid) - used) / (scene.now() - at))
    worker.send(signal.SIGTERM)
    code = await worker.ended()
    print(f"\nfolder gone: processor {max(shares):.2%} of a core, ended with {code}", flush=True)
    assert max(shares) < 0.05
    assert code == 69


# ---- full ----


def link(scene: Scene) -> Any:
    broker: Any = scene.app.broker
    return broker.link


async def send_for_ever(scene: Scene) -> None:
    while True:
        await scene.send("echo", 0, LARGE, 3)


@ACKS
async def test_everything_drains_when_the_disk_was_full(scene: Scene, acks_late: bool) -> None:
    """Both the sender and the worker meet the end of the disk; then there is room again."""
    worker = await scene.worker("-c", "10", task_acks_late=acks_late)
    await scene.send("echo", 0.05, LARGE, 3, times=30)
    await until(lambda: scene.done_count() >= 5, "5 are done")
    await scene.app.send_task("fill_the_disk", [2.0], priority=0)
    await until(lambda: "database or disk is full" in worker.said, "the worker has met the end of the disk")
    await set_limit(link(scene), 0)
    confirmed = len(scene.sent)
    at = scene.now()
    with pytest.raises(BrokerFull):
        await send_for_ever(scene)
    refused = scene.now() - at
    confirmed = len(scene.sent) - confirmed
    await lift_limit(link(scene))
    await scene.send("echo", 0, LARGE, 3, times=5)
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(
        f"full, acks {'late' if acks_late else 'early'}",
        refused_after=f"{refused:.2f} s and {confirmed} messages",
    )
    assert refused < 1.0
    assert {(meta.state, meta.result) for meta in outcomes.values()} == {(SUCCESS, 3 * LARGE)}  # L 0 of the confirmed
    assert scene.record.started_twice() == 0  # D 0
    assert len(scene.record.starts()) == len(scene.sent)
    assert await scene.dead() == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a file system (root)")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.long
@ACKS
async def test_everything_drains_when_a_small_disk_was_full(
    small_disk: Path, scene_on: Callable[..., Awaitable[Scene]], acks_late: bool
) -> None:
    """As above, with the errors of a real file system, for two leases."""
    scene = await scene_on(SqliteStore(small_disk))
    for _ in range(2):
        await scene.worker("-c", "5", task_acks_late=acks_late)
    await scene.send("echo", 0.05, LARGE[:10_000], 3, times=60)
    await until(lambda: scene.done_count() >= 20, "20 are done")
    filler = os.open(small_disk / "filler", os.O_CREAT | os.O_WRONLY)
    with pytest.raises(OSError, match="No space left"):
        fill(filler)
    os.close(filler)
    with pytest.raises(BrokerFull):
        await send_for_ever(scene)
    await asyncio.sleep(LOCKED_S)
    (small_disk / "filler").unlink()
    at = scene.now()
    outcomes = await scene.all_done()
    await scene.drained()
    await scene.tell(f"small disk full, acks {'late' if acks_late else 'early'}", recovery=scene.now() - at)
    assert {meta.state for meta in outcomes.values()} == {SUCCESS}
    assert scene.stored_outcomes() == len(scene.sent)
    assert scene.record.started_twice() == 0


def fill(file: int) -> None:
    while True:
        os.write(file, b"x" * 4096)


@pytest.mark.parametrize("acks_late", [pytest.param(True, id="late"), pytest.param(False, id="early")])
async def test_outcomes_that_can_not_be_stored_are_left_to_another_worker_when_the_disk_is_full(
    scene: Scene, acks_late: bool
) -> None:
    """The bodies have ended, the worker is told to stop, and it finds no room for what they returned."""
    leaving = await scene.worker("-c", "10", task_acks_late=acks_late)
    ids = await scene.send("echo", 0.5, LARGE, 5, times=3)
    await until(lambda: len(scene.record.starts()) == 3, "all have started")
    await scene.app.send_task("fill_the_disk", [None])
    await until(lambda: "database or disk is full" in leaving.said, "the worker has met the end of the disk")
    leaving.send(signal.SIGTERM)
    await leaving.ended()
    await scene.worker("-c", "10", task_acks_late=acks_late)
    outcomes = await scene.all_done(ids)
    await scene.tell(f"full when it stops, acks {'late' if acks_late else 'early'}", begun=3)
    assert {meta.state for meta in outcomes.values()} == {SUCCESS if acks_late else FAILURE}
    starts = [len(scene.record.starts(id_)) for id_ in ids]
    assert starts == ([2, 2, 2] if acks_late else [1, 1, 1])
