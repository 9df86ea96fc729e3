"""A worker that stops when nothing is left to do, and can't see for a while whether there is."""

import asyncio
from collections.abc import Iterator

import pytest
from tests.conditions import until
from tests.servers.proxy import FaultProxy
from yarl import URL

from aiotask import AioTask

PATIENCE_S = 30.0
AWAY_S = 1.5
"""Longer than a worker looks for what the server says is there."""


@pytest.fixture(params=["redis_url", "rabbit_url"])
def urls(request: pytest.FixtureRequest) -> Iterator[tuple[FaultProxy, str, str]]:
    """A proxy, and the URLs of a server and of that server behind the proxy."""
    url = URL(request.getfixturevalue(request.param))
    with FaultProxy(url.port or 0) as proxy:
        yield proxy, str(url), str(url.with_port(proxy.port))


async def test_worker_in_burst_goes_on_when_the_broker_was_away_for_a_while(urls: tuple[FaultProxy, str, str]) -> None:
    proxy, direct, behind = urls
    ran: list[int] = []
    client, app = (AioTask("proj", broker=url, backend="memory://") for url in (direct, behind))

    async def note(number: int) -> None:
        ran.append(number)

    app.task(name="note")(note)
    sent = client.task(name="note")(note)
    async with client, app:
        async with app.worker(burst=True, queues=["default"]) as worker:
            proxy.refuse()
            proxy.cut()
            await until(lambda: not app.broker.connected)
            await sent.send_many([(number,) for number in range(3)])
            await asyncio.sleep(AWAY_S)
            proxy.heal()
            await asyncio.wait_for(worker.wait(), PATIENCE_S)
        assert sorted(ran) == [0, 1, 2]
