"""aiotask of this checkout: Redis broker, results on the same Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import redis.asyncio

from aiotask import AioTask, AsyncResult
from benchmarks.peers.bodies import NAP_S, started
from benchmarks.peers.protocol import Own
from benchmarks.peers.server import Server, url_from_environment

app = AioTask("peers", broker=url_from_environment())


@app.task
async def noop() -> int:
    started()
    return 1


@app.task
async def take(text: str) -> int:
    started()
    return 1


@app.task
async def nap() -> int:
    started()
    await asyncio.sleep(NAP_S)
    return 1


TASKS = {"noop": noop, "take": take, "nap": nap}
STREAM = "aiotask:{default}:s:5"
"""Messages without a priority."""


class Adapter(Own):
    distributions = ("aiotask", "redis", "hiredis")
    changed = ("-l warning",)

    async def open(self) -> None:
        await app.__aenter__()

    async def close(self) -> None:
        await app.close()

    def worker(self) -> list[str]:
        return ["aiotask", "run", "benchmarks.peers.adapters.aiotask:app", "-l", "warning"]

    def send(self, task: str, *args: str) -> Awaitable[AsyncResult[int]]:
        return TASKS[task].delay(*args)

    def result(self, handle: AsyncResult[int]) -> Awaitable[int]:
        return handle.get()

    def id_of(self, handle: AsyncResult[int]) -> str:
        return handle.id

    def remaining(self, server: Server, sent: int) -> int:
        return int(server.call("XLEN", STREAM))  # an entry goes in the step that stores its outcome

    def waiting(self, server: Server) -> int:
        return sum(int(server.call("XLEN", key)) for key in server.call("KEYS", "aiotask:{*}:s:*"))

    async def results(self, handles: Sequence[AsyncResult[int]]) -> list[int]:
        found = await app.backend.fetch([handle.id for handle in handles])
        return [1 if meta is not None and meta.state == "SUCCESS" else 0 for meta in found]

    async def bare_send(self) -> Callable[[], Awaitable[object]]:
        client = redis.asyncio.Redis.from_url(url_from_environment())
        await noop.delay()
        [[_, fields]] = await client.xrevrange(STREAM, count=1)

        async def send() -> None:
            await client.xadd("bare", fields)

        return send

    async def send_later(self, count: int, delay_s: float) -> None:
        for _ in range(0, count, 100):
            await asyncio.gather(*(noop.apply_async(countdown=delay_s) for _ in range(100)))

    def delayed(self, server: Server) -> int:
        return int(server.call("ZCARD", "aiotask:{default}:delayed"))
