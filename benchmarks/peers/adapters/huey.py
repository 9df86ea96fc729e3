"""huey with its Redis storage; plain functions in threads, its default kind of worker."""

import time
from typing import Any

from huey import RedisHuey

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.server import Server, url_from_environment

huey = RedisHuey(url=url_from_environment())


@huey.task()
def noop() -> int:
    started()
    return 1


@huey.task()
def take(text: str) -> int:
    started()
    return 1


@huey.task()
def nap() -> int:
    started()
    time.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}


class Adapter(Peer):
    distributions = ("huey", "redis", "hiredis")
    changed = ("-w 100", "-q (leaves WARNING)")
    threads = True

    async def close(self) -> None:
        huey.storage.close()

    def worker(self) -> list[str]:
        return ["huey_consumer", "benchmarks.peers.adapters.huey.huey", "-w", "100", "-q"]

    def send(self, task: str, *args: str) -> Any:
        return TASKS[task](*args)

    def result(self, handle: Any) -> int:
        return handle.get(blocking=True)

    def id_of(self, handle: Any) -> str:
        return handle.id

    def remaining(self, server: Server, sent: int) -> int:
        return sent - int(server.call("HLEN", huey.storage.result_key))

    def waiting(self, server: Server) -> int:
        return int(server.call("LLEN", huey.storage.queue_key))
