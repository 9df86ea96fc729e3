"""Tasks cross from one process to another: `make demo`, or `python demo.py`.

This process sends; a worker process that it starts executes. They share nothing but a SQLite file in a temporary
folder, or the broker whose URL is given: `python demo.py redis://localhost:6379/15`, with an empty queue `default`.
The exit code is 0 only when every result was right.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from tasks import add, app, count_primes, fetch_forecast, share, wash_up

from aiotask import AioTaskError, AsyncResult

T = TypeVar("T")

HERE = Path(__file__).parent
PATIENCE_S = 10.0
"""What has not come after this long counts as not coming."""


class DemoError(Exception):
    """Something was not as it should be; the text says what."""


def headline(line: str) -> None:
    print(f"\n{line}", flush=True)


def say(line: str, who: str = "sender", pid: int | None = None) -> None:
    print(f"  {who} {pid or os.getpid():>7} | {line}", flush=True)


def check(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise DemoError(f"{what}: expected {expected!r}, got {got!r}")


async def value(result: AsyncResult[T]) -> T:
    return await result.get(timeout=PATIENCE_S)


class WorkerProcess:
    """`aiotask run tasks` in a process of its own. Its log lines are shown beside ours."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Begin to show what `process` says."""
        self.pid = process.pid
        self._process = process
        self._ready = asyncio.Event()
        self._showing = asyncio.create_task(self._show())

    async def _show(self) -> None:
        assert self._process.stderr is not None  # noqa: S101 - it is a pipe
        async for line in self._process.stderr:
            text = line.decode().rstrip()
            if text:
                say(text, "worker", self.pid)
            if "is ready" in text:
                self._ready.set()

    async def ready(self) -> None:
        """Wait until it takes tasks.

        Raises:
            DemoError: It has ended instead.
        """
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait([ready, self._showing], timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            raise DemoError(f"the worker ended with exit code {await self.ended()} before it was ready")

    def terminate(self) -> None:
        """Ask it to stop, as a service manager does."""
        self._process.send_signal(signal.SIGTERM)

    async def ended(self) -> int:
        """Wait until it has stopped; return its exit code."""
        async with asyncio.timeout(PATIENCE_S):
            await self._showing
            return await self._process.wait()

    async def kill(self) -> None:
        """Make sure that it is gone."""
        if self._process.returncode is None:
            self._process.kill()
        await self.ended()


@asynccontextmanager
async def worker(*options: str) -> AsyncIterator[WorkerProcess]:
    """Run a worker, which ends with the block at the latest."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "aiotask",
            "run",
            "tasks",
            "--app-dir",
            str(HERE),
            "--broker",
            app.broker_url,
            *options,
        ),
        stderr=asyncio.subprocess.PIPE,
    )
    running = WorkerProcess(process)
    try:
        yield running
    finally:
        await running.kill()


async def a_coroutine() -> None:
    headline("2. A coroutine: sent from here, executed there.")
    say("await add.delay(2, 3)")
    total = await value(await add.delay(2, 3))
    say(f"the result is {total}")
    check("2 + 3", total, 5)


async def a_plain_function(executor: WorkerProcess) -> None:
    headline("3. A plain function, which blocks: it runs in a thread of the worker.")
    say("await count_primes.delay(10_000)")
    primes = await value(await count_primes.delay(10_000))
    say(f"{primes.count} primes, counted by process {primes.pid} in {primes.thread}")
    check("primes below 10,000", primes.count, 1229)
    check("the process that counted them", primes.pid, executor.pid)


async def a_retry() -> None:
    headline("4. A task that fails once is tried again.")
    say("await fetch_forecast.delay('Oslo')")
    forecast = await value(await fetch_forecast.delay("Oslo"))
    say(f"the result is {forecast!r}")
    check("the forecast", forecast, "sunny in Oslo")


async def a_failure() -> None:
    headline("5. A task that fails: its own exception comes back, with the worker's traceback.")
    say("await share.delay(1, 0)")
    try:
        await value(await share.delay(1, 0))
    except ZeroDivisionError as error:
        say(f"raised {error!r}")
        for line in "".join(error.__notes__).strip().splitlines():
            say(f"    {line}")
    else:
        raise DemoError("share(1, 0): expected a ZeroDivisionError, got a result")


async def progress() -> None:
    headline("6. A task that tells how far it is.")
    say("await wash_up.delay(3)")
    states = []
    async for meta in (await wash_up.delay(3)).updates():
        say(f"{meta.state}: {meta.result}")
        states.append(meta.state)
    check("the first and the last state", (states[0], states[-1]), ("PROGRESS", "SUCCESS"))


async def a_warm_stop(executor: WorkerProcess) -> None:
    headline("7. SIGTERM while a task runs: the worker finishes it, takes nothing more, and ends.")
    say("await wash_up.delay(6)")
    result = await wash_up.delay(6)
    async for meta in result.updates():
        if meta.state == "PROGRESS":
            break
    say(f"it runs; kill -TERM {executor.pid}")
    executor.terminate()
    dishes = await value(result)
    code = await executor.ended()
    say(f"the result is {dishes!r}, the worker's exit code {code}")
    check("the dishes", dishes, "6 dishes washed")
    check("the worker's exit code", code, 0)


async def a_task_in_waiting() -> None:
    headline("8. A task sent while no worker runs waits for the next one (--burst: until nothing is left to do).")
    say("await add.delay(20, 22)")
    result = await add.delay(20, 22)
    async with worker("--burst") as executor:
        total = await value(result)
        code = await executor.ended()
    say(f"the result is {total}, the worker's exit code {code}")
    check("20 + 22", total, 42)
    check("the second worker's exit code", code, 0)


async def main(broker_url: str) -> None:
    app.conf.broker_url = broker_url
    async with app:
        headline("1. A worker starts, in a process of its own.")
        async with worker() as executor:
            await executor.ready()
            await a_coroutine()
            await a_plain_function(executor)
            await a_retry()
            await a_failure()
            await progress()
            await a_warm_stop(executor)
        await a_task_in_waiting()
    headline("Every result was right.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="aiotask-demo-") as temporary:
        try:
            asyncio.run(main(*sys.argv[1:2] or [f"sqlite:///{temporary}/aiotask.db"]))
        except TimeoutError as error:
            sys.exit(f"\nThe demo failed: nothing came in {PATIENCE_S:g} s. {error}")
        except (DemoError, AioTaskError) as error:
            sys.exit(f"\nThe demo failed: {error}")
        except KeyboardInterrupt:
            sys.exit("\nThe demo was interrupted.")
