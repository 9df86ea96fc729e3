"""The connection is cut at each place of one task's whole conversation: sending, taking, starting, ending, waiting.

Steps through all places by number until a run is not cut any more. In one process, so that there is time for them all.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis.asyncio
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer

from aiotask import AioTask
from aiotask.message import QueueDepth
from aiotask.states import SUCCESS

from .harness import ACKS, until

AT_ONCE = 8
"""Runs at the same time, each with a proxy and keys of its own."""
PATIENCE_S = 20.0
RESULT_WITHIN_S = 4.0
"""Sooner than anybody looks for what nobody was told of: a cut is noticed, and what it took is asked for again."""
BODY_S = 0.7
"""Longer than a few renewals, and than the proxy waits for the reply of a command that blocks."""

Told = Counter[str]


@pytest.fixture
async def told(redis_server: RedisServer) -> AsyncIterator[Told]:
    """Counts the rows that are stored, final or not, by channel."""
    told: Told = Counter()
    client = redis.asyncio.Redis.from_url(redis_server.url())
    listener = client.pubsub()
    await listener.psubscribe("celery-task-meta-*")

    async def listen() -> None:
        async for message in listener.listen():
            if message["type"] == "pmessage":
                told[message["channel"].decode()] += 1

    listening = asyncio.create_task(listen())
    yield told
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await listener.aclose()  # type: ignore[no-untyped-call]
    await client.aclose()


class Conversation:
    """A task that is sent, run and waited for, through a proxy."""

    def __init__(self, server: RedisServer, name: str, *, retries: int, acks_late: bool) -> None:
        self.starts: list[int] = []
        self._acks_late = acks_late
        self._server = server
        self._retries = retries
        self._name = name

    def app(self, url: str) -> AioTask:
        app = AioTask(
            "cut",
            broker=url,
            task_acks_late=self._acks_late,
            worker_lease_renewal=0.2,
            broker_transport_options={"key_prefix": self._name},
        )

        @app.task(name="body", bind=True)
        async def body(task: Any) -> int:
            self.starts.append(task.request.delivery_info["delivery_count"])
            if task.request.retries < self._retries:
                raise task.retry(countdown=0)
            await asyncio.sleep(BODY_S)
            return 42

        return app

    async def run(self, plan: dict[str, Any]) -> tuple[bool, str, str]:
        """Go through it once; return whether it was cut, the id, and what is wrong."""
        with FaultProxy(self._server.port) as proxy:
            app, past_it = self.app(proxy.url()), self.app(self._server.url())
            async with past_it, app.worker(concurrency=2):
                await until(lambda: b"BLPOP" in proxy.commands, "the worker waits")
                if plan:
                    proxy.cut_after(**plan)
                result = await app.tasks["body"].delay()
                value = await result.get(timeout=RESULT_WITHIN_S)
                cut = bool(plan) and proxy.planned is None
                await until(lambda: is_empty(past_it), "the queue is empty", PATIENCE_S)
                [meta] = await past_it.backend.fetch([result.id])
                dead = await past_it.broker.dead_letters()
            await app.close()
        sound = (value, meta.state, dead) == (42, SUCCESS, [])
        wrong = "" if sound else f"{value} {meta} {dead}"
        if len(self.starts) != 1 + self._retries:
            wrong += f" started {len(self.starts)} times"
        return cut, result.id, wrong


async def is_empty(app: AioTask) -> bool:
    """Tell whether nothing waits, and nothing is handed out."""
    depths: list[QueueDepth] = await app.broker.depths(["default"])
    [depth] = depths
    return depth.ready + depth.delayed + depth.parked + depth.reserved == 0


LONG = pytest.mark.long
WAYS: list[Any] = [
    pytest.param(lambda n: {"commands": n, "everything": False}, 1, id="the reply is lost"),
    pytest.param(lambda n: {"commands": n, "deliver": False, "everything": False}, 1, id="the command is lost"),
    pytest.param(lambda n: {"commands": n}, 1, id="the reply is lost, all links are", marks=LONG),
    pytest.param(lambda n: {"commands": n, "deliver": False}, 1, id="the command is lost, all links are", marks=LONG),
    pytest.param(lambda n: {"replies": n, "everything": False}, 1, id="after a reply", marks=LONG),
    pytest.param(lambda n: {"bytes_to_server": n, "everything": False}, 97, id="within a command", marks=LONG),
    pytest.param(lambda n: {"bytes_to_client": n, "everything": False}, 7, id="within a reply", marks=LONG),
]


@pytest.mark.timeout(300)
@ACKS  # a start that nobody has heard of is no loss: early ones would not be started again
@pytest.mark.parametrize("retries", [0, pytest.param(1, marks=LONG)])
@pytest.mark.parametrize(("plan", "step"), WAYS)
async def test_task_is_done_once_wherever_a_link_is_cut(
    redis_server: RedisServer,
    told: Told,
    plan: Callable[[int], dict[str, Any]],
    step: int,
    retries: int,
    acks_late: bool,
) -> None:
    wrong: dict[int, str] = {}
    starts = 0
    ids: list[str] = []
    for first in itertools.count(1, AT_ONCE * step):
        numbers = range(first, first + AT_ONCE * step, step)
        runs = [Conversation(redis_server, f"cut{number}", retries=retries, acks_late=acks_late) for number in numbers]
        ended = await asyncio.gather(*(run.run(plan(number)) for run, number in zip(runs, numbers, strict=True)))
        wrong |= {number: each[2] for number, each in zip(numbers, ended, strict=True) if each[2]}
        starts += sum(len(run.starts) for run in runs)
        ids += [id_ for _, id_, _ in ended]
        if not all(cut for cut, _, _ in ended):
            break
    stored = sum(told[f"celery-task-meta-{id_}"] for id_ in ids)
    places = len(ids)
    print(f"\n{places} places, lost {len(wrong)}, starts {starts}, stored outcomes {stored}", flush=True)
    assert places >= 2 * AT_ONCE  # there is more than one batch of places in a conversation
    assert wrong == {}
    assert starts == places * (1 + retries)  # a link that is cut is no worker that is lost
    assert stored == places * (1 + retries)
