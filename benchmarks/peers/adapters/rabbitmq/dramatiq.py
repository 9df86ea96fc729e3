"""dramatiq with its RabbitMQ broker and its Redis results; plain functions in the threads of two processes."""

import time
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Peer
from benchmarks.peers.rabbitmq import redis_url_from_environment
from benchmarks.peers.server import url_from_environment

broker = RabbitmqBroker(url=url_from_environment(), confirm_delivery=True)
broker.add_middleware(Results(backend=RedisBackend(url=redis_url_from_environment())))
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
    distributions = ("dramatiq", "pika", "redis", "hiredis")
    changed = (
        "confirm_delivery=True",
        "--processes 2",
        "--threads 50",
        "store_results=True",
        "--skip-logging (leaves WARNING)",
    )
    threads = True

    async def close(self) -> None:
        broker.close()

    def worker(self) -> list[str]:
        module = "benchmarks.peers.adapters.rabbitmq.dramatiq"
        return ["dramatiq", module, "--processes", "2", "--threads", "50", "--skip-logging"]

    def send(self, task: str, *args: str) -> Any:
        return TASKS[task].send(*args)

    def result(self, handle: Any) -> int:
        return handle.get_result(block=True)

    def id_of(self, handle: Any) -> str:
        return handle.message_id

    def remaining(self, server: Any, sent: int) -> int:
        return sent - int(server.redis.call("DBSIZE"))

    def waiting(self, server: Any) -> int:
        return server.waiting()
