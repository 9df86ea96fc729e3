"""Drain: tasks that wait in the broker are run by a worker with default settings, results stored and checked."""

import asyncio
import time

from aiotask import AioTask, AsyncResult

TASKS = 20_000
CHUNK = 2_000


async def drain(broker_url: str, count: int = TASKS) -> tuple[float, float]:
    """Return tasks run per second, and messages sent per second by `send_many`.

    The clock of the drain runs from the worker's start to the last result that a waiting caller gets.
    """
    app = AioTask("bench", broker=broker_url)

    @app.task(name="bench.noop")
    async def noop() -> int:
        return 1

    async with app:
        results: list[AsyncResult[int]] = []
        started = time.perf_counter()
        for _ in range(0, count, CHUNK):
            results += await noop.send_many([()] * CHUNK)
        sent = time.perf_counter()
        async with app.worker():
            # First in, first out: the last one's result is a signal, and the check below looks at every one of them.
            await results[-1].get()
            await check(app, results)
            done = time.perf_counter()
    return count / (done - sent), count / (sent - started)


async def check(app: AioTask, results: list[AsyncResult[int]]) -> None:
    """Wait until every sent id has its one outcome."""
    missing = [result.id for result in results]
    while missing:
        found = await app.backend.fetch(missing)
        missing = [id_ for id_, meta in zip(missing, found, strict=True) if meta is None or meta.state != "SUCCESS"]
        if missing:
            await asyncio.sleep(0.001)


async def bare_loop(count: int = TASKS) -> float:
    """Return how many times per second a loop does the same steps with nothing between them.

    An envelope and its arguments decoded, a task with a context of its own made and run, a result row encoded and
    stored in a dict: what remains of a task when there is no broker, no lease and no state.
    """
    import contextvars

    import msgspec

    request: contextvars.ContextVar[object] = contextvars.ContextVar("request")
    packed = msgspec.msgpack.encode(("bench.noop", "a" * 32, b"[[],{}]"))
    unpack = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode
    decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
    stored: dict[int, bytes] = {}

    async def noop() -> int:
        return 1

    async def run(number: int, body: bytes) -> None:
        _, id_, payload = unpack(body)
        args, kwargs = decode(payload)
        request.set(id_)
        stored[number] = encode({"status": "SUCCESS", "result": await noop(*args, **kwargs), "task_id": id_})

    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    for first in range(0, count, 100):
        tasks = [loop.create_task(run(first + i, packed)) for i in range(100)]
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
    elapsed = time.perf_counter() - started
    assert len(stored) == count
    return count / elapsed
