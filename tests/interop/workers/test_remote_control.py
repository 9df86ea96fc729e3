"""Celery's remote control, asked by its client and from its command line, and answered by our workers."""

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

from celery import Celery
from tests.interop.conftest import PATIENCE_S, InCelery
from tests.interop.workers.celery_process import CELERY_SIDE, CeleryWorker

from aiotask import AioTask


async def test_inspect_ping_of_celery_is_answered(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any], celery_worker: CeleryWorker
) -> None:
    def ping(*nodes: str) -> Any:
        return celery_app.control.inspect(destination=nodes or None, timeout=2.0).ping() or {}

    async def until(nodes: set[str], *asked: str) -> dict[str, Any]:
        """Ask until they answer: they listen by and by, and may be slower than the one who asks."""
        async with asyncio.timeout(4 * PATIENCE_S):
            while not nodes <= set(found := await in_celery(lambda: ping(*asked))):
                pass
        return found

    async with app.worker(name="one") as one, app.worker(name="two") as two:
        ours = {one.hostname, two.hostname}
        found = await until({*ours, f"celery@{socket.gethostname()}"})
        assert all(answer == {"ok": "pong"} for answer in found.values())
        assert await until({one.hostname}, one.hostname) == {one.hostname: {"ok": "pong"}}
        assert set(await until(ours, *ours)) == ours
        assert await in_celery(lambda: ping("nobody@nowhere")) == {}
        broker: Any = app.broker
        broker.link.cut()
        assert set(await until(ours, *ours)) == ours, "they listen again"


async def test_command_that_is_unknown_here_is_answered_by_an_error(
    app: AioTask, celery_app: Celery, in_celery: InCelery[Any]
) -> None:
    def stats() -> Any:
        return celery_app.control.inspect(timeout=1.0).stats()

    async with app.worker(name="ours") as worker:
        async with asyncio.timeout(PATIENCE_S):
            while not (found := await in_celery(stats)):
                pass
        assert found == {worker.hostname: {"error": "KeyError('stats')"}}


async def test_ping_from_the_command_line_of_celery_is_answered(
    app: AioTask, rabbit_url: str, backend_url: str
) -> None:
    async def ping(*options: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_side", "inspect", "ping", *options),
            cwd=CELERY_SIDE,
            env={**os.environ, "BROKER": rabbit_url, "BACKEND": backend_url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    async with app.worker(name="one") as one, app.worker(name="two") as two:
        async with asyncio.timeout(4 * PATIENCE_S):
            while (found := await ping("--timeout", "3"))[0] or "2 nodes online" not in found[1]:
                pass
            for node in (one, two):
                assert f"{node.hostname}: OK" in found[1]
            assert "pong" in found[1]
            while (found := await ping("-d", two.hostname, "--timeout", "3"))[0]:
                pass
        assert f"{two.hostname}: OK" in found[1]
        assert "1 node online" in found[1]
