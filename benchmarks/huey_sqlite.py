"""huey with its SQLite storage, default settings, as its users run it: for the ratio in the same run."""

import logging
import time
from pathlib import Path

from huey import SqliteHuey
from huey.consumer import Consumer

TASKS = 3_000


def drain(path: Path, workers: int) -> tuple[float, float]:
    """Return tasks run per second with results stored, and tasks enqueued per second."""
    logging.getLogger("huey").setLevel(logging.WARNING)
    huey = SqliteHuey(filename=str(path))

    @huey.task()
    def noop() -> int:
        return 1

    started = time.perf_counter()
    for _ in range(TASKS):
        noop()
    sent = time.perf_counter()
    consumer = Consumer(huey, workers=workers, periodic=False, initial_delay=0.01, max_delay=0.01)
    consumer.start()
    while huey.storage.result_store_size() < TASKS:
        time.sleep(0.01)
    done = time.perf_counter()
    consumer.stop()
    assert huey.storage.queue_size() == 0
    return TASKS / (done - sent), TASKS / (sent - started)
