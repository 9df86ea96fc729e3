"""dramatiq with its Redis broker and Redis results; plain functions in threads, as it is made for."""

import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment

URL = url_from_environment()
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop() -> int:
    started()
    return 1


@dramatiq.actor(store_results=True)
def take(text: str) -> int:
    started()
    return 1


@dramatiq.actor(store_results=True)
def nap() -> int:
    started()
    time.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}


class Adapter(Peer):
    distributions = ("dramatiq", "redis", "hiredis")
    changed = ("--processes 1", "--threads 100", "store_results=True", "--skip-logging (leaves WARNING)")
    threads = True

    async def close(self) -> None:
        broker.close()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.dramatiq"
        return ["dramatiq", module, "--processes", "1", "--threads", "100", "--skip-logging"]

    def send(self, task: str, *args: str) -> Any:
        return TASKS[task].send(*args)

    def result(self, handle: Any) -> int:
        return handle.get_result(block=True)

    def id_of(self, handle: Any) -> str:
        return handle.message_id

    def remaining(self, server: Server, sent: int) -> int:
        return self.waiting(server)  # a message is acknowledged once its result is stored

    def waiting(self, server: Server) -> int:
        return int(server.call("HLEN", "dramatiq:default.msgs"))
