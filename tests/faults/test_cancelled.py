"""Calls are cancelled at any await: sending, waiting, and the taking of an embedded worker that stops."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from aiotask import AioTask, AsyncResult, WorkerLost
from aiotask.outcome import TaskMeta

from .harness import until
from .rabbit_store import RabbitStore
from .stores import QUEUE, RedisStore, Store

CALLS_AT_ONCE = 12


class Program:
    """A program with tasks, some of whose calls are given up."""

    def __init__(self, url: str, seed: int) -> None:
        self.starts: Counter[int] = Counter()
        self.confirmed: dict[int, str] = {}
        """The ids of what was sent, by number."""
        self.cancelled: Counter[str] = Counter()
        self.cut_short = 0
        self.dice = random.Random(seed)
        self.app = AioTask("cancelled", broker=url)
        self._number = 0
        starts = self.starts

        @self.app.task(name="body")
        async def body(number: int) -> int:
            starts[number] += 1
            await asyncio.sleep(number % 3 * 0.002)
            return number

        self.body = body

    def numbers(self, count: int) -> list[int]:
        self._number += count
        return list(range(self._number - count, self._number))

    async def delay(self) -> None:
        [number] = self.numbers(1)
        self.confirmed[number] = (await self.body.delay(number)).id

    async def send_many(self) -> None:
        numbers = self.numbers(self.dice.randint(1, 30))
        results = await self.body.send_many([(number,) for number in numbers])
        self.confirmed.update(zip(numbers, [result.id for result in results], strict=True))

    async def get(self) -> None:
        [number] = self.numbers(1)
        result = await self.body.delay(number)
        self.confirmed[number] = result.id
        await self.wait_for(result, number)

    async def wait_for(self, result: AsyncResult[int], number: int) -> None:
        try:
            assert await result.get() == number
        except WorkerLost:  # the scope of its worker was cancelled, which is a second signal
            self.cut_short += 1

    async def get_late(self) -> None:
        """The result is there, or nearly, when it is asked for."""
        [number] = self.numbers(1)
        result = await self.body.delay(number)
        self.confirmed[number] = result.id
        await asyncio.sleep(self.dice.uniform(0, 0.01))
        await self.wait_for(result, number)

    async def work(self) -> None:
        """A second worker comes and goes."""
        async with self.app.worker(concurrency=self.dice.randint(1, 5)):
            await asyncio.sleep(self.dice.uniform(0, 0.02))

    async def give_up(self, call: "asyncio.Task[None]") -> None:
        """Cancel a call after some turns of the loop, or some milliseconds."""
        if self.dice.random() < 0.5:
            for _ in range(self.dice.randint(0, 25)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(self.dice.uniform(0, 0.008))
        call.cancel()
        try:
            async with asyncio.timeout(10):
                await asyncio.wait([call])
        except TimeoutError:
            raise AssertionError(f"{call} hangs when it is cancelled") from None
        if call.cancelled():
            self.cancelled[call.get_name()] += 1
        else:
            call.result()

    async def round(self) -> None:
        kinds = [self.delay, self.send_many, self.get, self.get_late, self.delay, self.work]
        calls = []
        for _ in range(CALLS_AT_ONCE):
            kind = self.dice.choice(kinds)
            calls.append(asyncio.create_task(kind(), name=kind.__name__))
        given_up = [call for call in calls if self.dice.random() < 0.7]
        await asyncio.gather(*map(self.give_up, given_up))
        async with asyncio.timeout(20):
            await asyncio.gather(*(call for call in calls if call not in given_up))


LONG = [pytest.mark.long]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broker", "seed", "rounds"),
    [
        ("redis", 1, 25),
        ("redis", 2, 25),
        ("amqp", 1, 25),
        *(pytest.param(broker, seed, 300, marks=LONG) for broker in ("redis", "amqp") for seed in range(10, 14)),
    ],
)
async def test_nothing_is_lost_or_doubled_when_calls_are_cancelled_anywhere(
    store: Store, seed: int, rounds: int
) -> None:
    """On RabbitMQ with results over rpc."""
    program = Program(store.url, seed)
    async with program.app.worker(concurrency=20):
        await (await program.body.delay(-1)).get(timeout=10)
        before = connections(store) + 1  # the thread that renews leases connects when there are any to renew
        for _ in range(rounds):
            await program.round()
        assert await (await program.body.delay(-2)).get(timeout=10) == -2  # what it uses is usable still
        admin: Any = program.app.broker

        async def is_empty() -> bool:
            [depth] = await admin.depths([QUEUE])
            depth = store.whole(depth)
            return bool(depth.ready + depth.reserved == 0)

        await until(is_empty, "all is done")
        await until(lambda: connections(store) <= before, "no connection is left behind")
        outcomes = await all_there_are(program)
    # Acknowledged early, and begun by a worker that was stopped at once: an outcome, too.
    ended_unstarted = [id_ for number, id_ in program.confirmed.items() if number not in program.starts]
    lost = [id_ for id_ in program.confirmed.values() if id_ not in outcomes]
    doubled = [number for number, starts in program.starts.items() if starts > 1]
    print(
        f"\ncancelled calls, seed {seed}: confirmed {len(program.confirmed)}, lost {len(lost)}, "
        f"started twice {len(doubled)}, begun and given up {len(ended_unstarted)}, cancelled {dict(program.cancelled)}",
        flush=True,
    )
    assert not lost
    assert not doubled
    assert {outcomes[id_].result["exc_type"] for id_ in ended_unstarted} <= {"WorkerLost"}
    assert set(program.cancelled) == {"delay", "send_many", "get", "get_late", "work"}


async def all_there_are(program: Program) -> dict[str, TaskMeta]:
    """Return the outcomes, once those that are on their way have come."""
    outcomes: dict[str, TaskMeta] = {}

    async def complete() -> bool:
        metas = await program.app.backend.fetch(list(program.confirmed.values()))
        outcomes.update({meta.id: meta for meta in metas if meta is not None})
        return len(outcomes) == len(program.confirmed)

    with suppress(AssertionError):  # how many have not is counted
        await until(complete, "all outcomes have come", within=5)
    return outcomes


def connections(store: Store) -> int:
    """Count the connections that the server has, but for that which asks."""
    if isinstance(store, RabbitStore):
        return int(store.server.evaluate("length(rabbit_networking:connections())."))
    assert isinstance(store, RedisStore)
    commands = [client["cmd"] for client in store.client.client_list()]
    return sum("psubscribe" not in command and "client" not in command for command in commands)
