"""Celery with RabbitMQ as broker: what its two adapters share. Plain functions in its thread pool."""

import time
from typing import Any

from celery import Celery

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import url_from_environment


def make_app(backend: str) -> Celery:
    """Return an app with the tasks."""
    app = Celery("peers", broker=url_from_environment(), backend=backend)
    app.conf.broker_transport_options = {"confirm_publish": True}
    for body in (noop, take, nap):
        app.task(name=body.__name__)(body)
    return app


def noop() -> int:
    started()
    return 1


def take(text: str) -> int:
    started()
    return 1


def nap() -> int:
    started()
    time.sleep(NAP_S)
    return 1


class CeleryAdapter(Peer):
    """Of an app in a module of its own, for the worker to find."""

    changed = ("-P threads (100 processes would not fit)", "-c 100", "-l WARNING", "confirm_publish")
    threads = True
    app: Celery
    module: str

    async def close(self) -> None:
        self.app.close()

    def worker(self) -> list[str]:
        return ["celery", "-A", f"{self.module}:app", "worker", "-P", "threads", "-c", "100", "-l", "WARNING"]

    def send(self, task: str, *args: str) -> Any:
        return self.app.tasks[task].delay(*args)

    def result(self, handle: Any) -> int:
        return handle.get()

    def id_of(self, handle: Any) -> str:
        return handle.id

    def waiting(self, server: Any) -> int:
        return server.waiting()
