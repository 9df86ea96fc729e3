"""A project of tasks, servers for it, and a SQLite file of each test's own."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.integration.sqlite_file import Here
from tests.processes import WorkerProcess, run_aiotask, start_worker
from tests.servers.fixtures import (
    link,
    open_link,
    private_rabbit,
    private_redis,
    proxy,
    rabbit_url,
    redis_server,
    redis_url,
    shared_rabbit,
    shared_redis,
    start_redis,
    vhost,
)
from tests.servers.rabbitmq import RabbitServer

from aiotask import AioTask
from aiotask.connections.amqp import AmqpChannel, AmqpLink

__all__ = [
    "link",
    "open_link",
    "private_rabbit",
    "private_redis",
    "proxy",
    "rabbit_url",
    "redis_server",
    "redis_url",
    "shared_rabbit",
    "shared_redis",
    "start_redis",
    "vhost",
]

PROJECT = Path(__file__).parent / "project"


@pytest.fixture
async def make(shared_rabbit: RabbitServer, vhost: str) -> AsyncIterator[Callable[..., AioTask]]:
    """Makes apps on one empty virtual host, closed after the test; results are in memory."""
    made: list[AioTask] = []

    def make(**settings: Any) -> AioTask:
        app = AioTask("proj", broker=shared_rabbit.url(vhost), backend="memory://", **settings)
        made.append(app)
        return app

    yield make
    for app in made:
        await app.close()


@pytest.fixture
async def other_program(shared_rabbit: RabbitServer, vhost: str) -> AsyncIterator[AmqpChannel]:
    """A channel of another program's on the same virtual host."""
    link = AmqpLink(shared_rabbit.url(vhost))
    await link.open()
    yield await link.channel(confirms=True)
    await link.close()


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {"AIOTASK_BROKER_URL": f"sqlite:///{tmp_path}/tasks.db"}


@pytest.fixture
def aiotask(env: dict[str, str]) -> Callable[..., "CompletedProcess[str]"]:
    """Runs an `aiotask` command in the project's folder to its end."""

    def run(*arguments: str, stdin: str | None = None, **more: str) -> "CompletedProcess[str]":
        return run_aiotask(*arguments, cwd=PROJECT, env=env | more, stdin=stdin)

    return run


@pytest.fixture
def call(aiotask: Callable[..., "CompletedProcess[str]"]) -> Callable[..., str]:
    """Sends a task; returns its id."""

    def send(*arguments: str) -> str:
        finished = aiotask("call", *arguments)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.strip()

    return send


@pytest.fixture
def start(env: dict[str, str], request: pytest.FixtureRequest) -> Callable[..., WorkerProcess]:
    """Starts a worker of the project, which ends with the test."""

    def start(*options: str, target: str = "tasks", ready: bool = True, **more: str) -> WorkerProcess:
        worker = start_worker(target, *options, cwd=PROJECT, env=env | more, ready=ready)
        request.addfinalizer(lambda: worker.__exit__(None, None, None))
        return worker

    return start


@pytest.fixture
def worker(start: Callable[..., Any]) -> WorkerProcess:
    return start()


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Here]:
    """A broker and a backend, open, on one file."""
    here = Here(tmp_path / "aiotask.db")
    await here.broker.open()
    await here.backend.open()
    yield here
    await here.broker.close()
    await here.backend.close()
