"""What is measured of every queue, in the same words for all: each workload returns its figures by name."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.peers import processes
from benchmarks.peers.callers import at_once, settled
from benchmarks.peers.protocol import NAP, NOOP, TAKE, Ceiling, Own, Peer
from benchmarks.peers.server import Server
from benchmarks.peers.worker import Worker, running

Figures = dict[str, float]

LOOK_S = 0.005
"""Between two looks of the observer at the server."""
PATIENCE_S = 60.0
GIVEN_BACK_S = 0.2
"""After a worker's end the server has what was not settled again."""
TRIPS = 300
TRIPS_AT_MOST_S = 4.0
LARGE = "x" * 4096


async def drain(peer: Peer, server: Any, count: int) -> Figures:
    """100 callers send no-ops; then a worker starts and drains them. Sends, drain, and reads of the server per task."""
    await _send(peer, [(NOOP,)] * 100)
    started = time.perf_counter()
    handles = await _send(peer, [(NOOP,)] * (count - 100))
    sent_s = time.perf_counter() - started
    handles += await _send(peer, [(NOOP,)] * 100)
    reads = _reads(server)
    drained_s = await _drained(peer, server, count + 100)
    figures = {"sends_per_s": (count - 100) / sent_s, "drain_per_s": (count + 100) / drained_s}
    if reads is not None:
        figures["reads_per_task"] = ((_reads(server) or 0) - reads) / (count + 100)
    await _check(peer, server, handles)
    return figures


async def large(peer: Peer, server: Any, count: int) -> Figures:
    """The same drain with an argument of 4 KB."""
    handles = await _send(peer, [(TAKE, LARGE)] * count)
    drained_s = await _drained(peer, server, count)
    await _check(peer, server, handles)
    return {"large_per_s": count / drained_s}


async def naps(peer: Peer, server: Any, count: int) -> Figures:
    """Tasks that sleep for 50 ms, 100 at once; from the first start to the last outcome."""
    handles = await _send(peer, [(NAP,)] * count)
    drained_s = await _drained(peer, server, count)
    await _check(peer, server, handles)
    return {"naps_s": drained_s}


async def trips(peer: Peer, server: Any, count: int) -> Figures:
    """One call after the other, each awaited; the worker is a process of its own."""
    times: list[float] = []
    handles = []
    with running(peer) as worker:
        for _ in range(3):  # saq aborts what it has just taken when it starts: no result is asked of these
            await peer.call(NOOP)
        until = time.monotonic() + TRIPS_AT_MOST_S
        while len(times) < count and time.monotonic() < until:
            started = time.perf_counter()
            handle, value = await peer.call(NOOP)
            assert value == 1
            times.append((time.perf_counter() - started) * 1e3)
            handles.append(handle)
        worker.check()
        await _until(lambda: peer.waiting(server) == 0, worker)
    assert len({peer.id_of(handle) for handle in handles}) == len(handles)
    await _check_empty(peer, server)
    times.sort()
    return {"p50_ms": times[len(times) // 2], "p99_ms": times[len(times) * 99 // 100], "trips": len(times)}


async def one_by_one(peer: Peer, server: Any, count: int) -> Figures:
    """Sends that are awaited one after the other; for aiotask beside the bare command, a hundred of each in turn."""
    ways: dict[str, Callable[[], Any]] = {"one_by_one_per_s": lambda: peer.send(NOOP)}
    if isinstance(peer, Own):
        ways["bare_per_s"] = await peer.bare_send()
    seconds = dict.fromkeys(ways, 0.0)
    for block in range(count // 100 + 1):
        for name, send in ways.items():
            started = time.perf_counter()
            for _ in range(100):
                await settled(send())
            if block:  # the first one connects
                seconds[name] += time.perf_counter() - started
    assert peer.waiting(server) >= 100 * (count // 100 + 1)
    return {name: count // 100 * 100 / taken for name, taken in seconds.items()}


async def idle(peer: Peer, server: Any, count: int) -> Figures:
    """A worker that has nothing to do for `count` seconds."""
    with running(peer) as worker:
        await settled(peer.result(await settled(peer.send(NOOP))))  # it is up; the client stays connected
        await asyncio.sleep(3)
        before, cpu_s, asked = server.info("stats"), processes.cpu_s(worker.processes()), server.asked
        started = time.perf_counter()
        await asyncio.sleep(count)
        elapsed, cpu_s = time.perf_counter() - started, processes.cpu_s(worker.processes()) - cpu_s
        after = server.info("stats")
        worker.check()
        asked = server.asked - asked
    commands = int(after["total_commands_processed"]) - int(before["total_commands_processed"]) - asked
    reads = int(after["total_reads_processed"]) - int(before["total_reads_processed"]) - asked
    per_cent = cpu_s / elapsed * 100
    return {
        "idle_cpu_percent": per_cent,
        "idle_commands_per_s": commands / elapsed,
        "idle_reads_per_s": reads / elapsed,
    }


async def memory(peer: Peer, server: Any, count: int) -> Figures:
    """Growth of a worker's resident memory over `count` tasks, and over as many delayed ones in its queue."""
    assert isinstance(peer, Own)
    with running(peer) as worker:

        async def run(tasks: int) -> None:
            for _ in range(0, tasks, 10_000):
                await _send(peer, [(NOOP,)] * 10_000)
                await _until(lambda: peer.waiting(server) == 0, worker)

        await run(20_000)
        await asyncio.sleep(1)
        warm = processes.resident_bytes(worker.processes())
        await run(count)
        await asyncio.sleep(1)
        used = processes.resident_bytes(worker.processes())
        await peer.send_later(count, 3600.0)
        assert peer.delayed(server) == count
        await asyncio.sleep(2)
        delayed = processes.resident_bytes(worker.processes())
        worker.check()
    mib = 1 << 20
    return {"rss_mib": used / mib, "rss_growth_mib": (used - warm) / mib, "delayed_growth_mib": (delayed - used) / mib}


async def _send(peer: Peer, calls: list[tuple[str, ...]]) -> list[Any]:
    return await at_once(lambda call: peer.send(*call), calls, threads=peer.threads)


async def _drained(peer: Peer, server: Any, sent: int) -> float:
    """Start a worker and return the seconds from the first start of a body to the last stored outcome."""
    with running(peer) as worker:
        await _until(lambda: worker.first_start is not None, worker)

        async def none_remains() -> bool:
            return await settled(peer.remaining(server, sent)) == 0

        await _until(none_remains, worker)
        done = time.monotonic()
        assert worker.first_start is not None
        return done - worker.first_start


async def _until(reached: Callable[[], Awaitable[bool] | bool], worker: Worker) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await settled(reached()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not done after {PATIENCE_S:g} s")
        worker.check()
        await asyncio.sleep(LOOK_S)


async def _check(peer: Peer, server: Any, handles: list[Any]) -> None:
    """Assert that every sent id is one of its own, has its one outcome, and that nothing waits."""
    assert len({peer.id_of(handle) for handle in handles}) == len(handles)
    if not isinstance(peer, Ceiling):
        values = await peer.results(handles)
        assert values == [1] * len(handles), f"{sum(value != 1 for value in values)} of {len(values)} have no outcome"
    await _check_empty(peer, server)


async def _check_empty(peer: Peer, server: Any) -> None:
    """Assert that nothing waits, now that the worker is gone; what it had and did not settle waits again."""
    await asyncio.sleep(GIVEN_BACK_S)
    assert peer.waiting(server) == 0, f"{peer.waiting(server)} still wait"


def _reads(server: Any) -> int | None:
    """Return how often Redis has read from its clients, but for the observer; None elsewhere."""
    if not isinstance(server, Server):
        return None
    asked = server.asked
    return int(server.info("stats")["total_reads_processed"]) - asked


WORKLOADS: dict[str, Callable[[Peer, Server, int], Awaitable[Figures]]] = {
    "drain": drain,
    "trips": trips,
    "one-by-one": one_by_one,
    "naps": naps,
    "large": large,
    "idle": idle,
    "memory": memory,
}
