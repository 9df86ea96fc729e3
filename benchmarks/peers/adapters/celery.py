"""Celery with Redis as broker and as result backend; plain functions in its thread pool."""

import time
from typing import Any

from celery import Celery

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment

URL = url_from_environment()
app = Celery("peers", broker=URL, backend=URL)


@app.task
def noop() -> int:
    started()
    return 1


@app.task
def take(text: str) -> int:
    started()
    return 1


@app.task
def nap() -> int:
    started()
    time.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}


class Adapter(Peer):
    distributions = ("celery", "kombu", "redis", "hiredis")
    changed = ("-P threads (100 processes would not fit)", "-c 100", "-l WARNING")
    threads = True

    async def close(self) -> None:
        app.close()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.celery:app"
        return ["celery", "-A", module, "worker", "-P", "threads", "-c", "100", "-l", "WARNING"]

    def send(self, task: str, *args: str) -> Any:
        return TASKS[task].delay(*args)

    def result(self, handle: Any) -> int:
        return handle.get()

    def id_of(self, handle: Any) -> str:
        return handle.id

    def remaining(self, server: Server, sent: int) -> int:
        # It acknowledges before it runs. Counting is dear: only when there may be as many keys as outcomes.
        missing = sent - int(server.call("DBSIZE"))
        return missing if missing > 0 else sent - server.keys("celery-task-meta-*")

    def waiting(self, server: Server) -> int:
        return int(server.call("LLEN", "celery")) + int(server.call("HLEN", "unacked"))
