"""The Redis result backend on real servers that are restarted, cut off, full, and shared with Celery."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers.proxy import FaultProxy
from tests.servers.redis import RedisServer, free_port

from aiotask import AioTask
from aiotask.connections.redis import RedisLink
from aiotask.connections.redis.wire import Wire
from aiotask.exceptions import BackendConnectionError, BackendError, DecodeError
from aiotask.message import new_id
from aiotask.outcome import TaskMeta
from aiotask.results.redis import RedisBackend, watching
from aiotask.states import FAILURE, READY_STATES, RETRY, STARTED, SUCCESS

PATIENCE_S = 20.0
CELERY_ROWS = Path(__file__).parents[1] / "unit" / "wire" / "celery_rows.jsonl"

Connect = Callable[..., Awaitable[RedisBackend]]


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Opens backends, each with a link of its own, that are closed with the test."""
    opened: list[RedisBackend] = []

    async def connect(server: RedisServer | None = None, link: RedisLink | None = None, **options: Any) -> RedisBackend:
        backend = RedisBackend(link or RedisLink(server.url() if server else "", **options))
        await backend.open()
        opened.append(backend)
        return backend

    yield connect
    for backend in opened:
        await backend.close()


async def store(backend: RedisBackend, *metas: TaskMeta, expires: float | None = 600.0) -> None:
    await backend.store([backend.encode(meta, expires) for meta in metas])


def meta(state: str, id_: str, result: Any = None) -> TaskMeta:
    return TaskMeta(id=id_, state=state, result=result)


async def final(backend: RedisBackend, id_: str) -> TaskMeta:
    async with asyncio.timeout(PATIENCE_S), backend.watch([id_]) as changes:
        async for change in changes:
            if change.ready:
                return change
    raise AssertionError("the watch ended")


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


def subscribed(server: RedisServer, *ids: str) -> bool:
    """Tell whether somebody listens for each of `ids`."""
    numbers = server.call("PUBSUB", "NUMSUB", *(f"celery-task-meta-{id_}" for id_ in ids))
    return all(number for number in numbers[1::2])


async def store_again(backend: RedisBackend, *metas: TaskMeta) -> None:
    """Store as a worker does: again and again until it is done."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await store(backend, *metas)
            except BackendError:
                await asyncio.sleep(0.02)


# ---- what lies there ----


async def test_row_lies_as_celery_s_clients_look_for_it(redis_server: RedisServer, connect: Connect) -> None:
    backend = await connect(redis_server)
    listener = redis.asyncio.Redis.from_url(redis_server.url()).pubsub()
    await listener.subscribe("celery-task-meta-a")
    await listener.get_message(timeout=PATIENCE_S)
    await store(backend, meta(SUCCESS, "a", 3), expires=86400.0)
    await store(backend, meta(STARTED, "b"), expires=None)
    row = redis_server.call("GET", "celery-task-meta-a")
    assert row.startswith(b'{"status":"SUCCESS","result":3,"traceback":null,"children":[],"date_done":')
    told: Any = await listener.get_message(timeout=PATIENCE_S)
    assert told["data"] == row
    assert 86_000 < redis_server.call("TTL", "celery-task-meta-a") <= 86_400
    assert redis_server.call("TTL", "celery-task-meta-b") == -1
    await listener.aclose()  # type: ignore[no-untyped-call]


async def test_rows_of_celery_are_read_and_stay_when_they_are_final(
    redis_server: RedisServer, connect: Connect
) -> None:
    backend = await connect(redis_server)
    rows = {f"celery-{number}": row for number, row in enumerate(CELERY_ROWS.read_bytes().splitlines())}
    for id_, row in rows.items():
        redis_server.call("SET", f"celery-task-meta-{id_}", row)
    before = [found for found in await backend.fetch(list(rows)) if found is not None]
    assert len(before) == len(rows) == 9
    await store(backend, *(meta(FAILURE, id_, "ours") for id_ in rows))
    after = await backend.fetch(list(rows))
    assert [found == old for found, old in zip(after, before, strict=True)] == [old.ready for old in before]


async def test_result_comes_when_a_worker_of_celery_s_stores_it(redis_server: RedisServer, connect: Connect) -> None:
    backend = await connect(redis_server)
    row = CELERY_ROWS.read_bytes().splitlines()[0]
    waiting = asyncio.create_task(final(backend, "theirs"))
    await until(lambda: subscribed(redis_server, "theirs"))
    with redis_server.client() as client, client.pipeline(transaction=True) as transaction:
        transaction.execute_command("SETEX", "celery-task-meta-theirs", 86400, row)
        transaction.publish("celery-task-meta-theirs", row)
        transaction.execute()
    assert (await waiting).result == 3


async def test_row_is_gone_when_it_expires_while_it_is_watched(redis_server: RedisServer, connect: Connect) -> None:
    backend = await connect(redis_server)
    async with backend.watch(["a"]) as changes:
        await store(backend, meta(SUCCESS, "a"), expires=0.2)
        assert (await anext(changes)).state == SUCCESS
        await until(lambda: not redis_server.call("EXISTS", "celery-task-meta-a"))
        await store(backend, meta(RETRY, "a"), expires=0.2)  # it stands in nobody's way any more
        assert (await anext(changes)).state == RETRY
    assert await backend.fetch(["a"]) in ([None], [meta(RETRY, "a")])


async def test_what_is_no_row_is_told_and_replaced(redis_server: RedisServer, connect: Connect) -> None:
    backend = await connect(redis_server)
    redis_server.call("SET", "celery-task-meta-garbage", b"\x80\x05pickled")
    redis_server.call("RPUSH", "celery-task-meta-list", "an", "item")
    waiting = asyncio.create_task(final(backend, "sound"))
    async with backend.watch(["garbage", "list"]) as changes:
        with pytest.raises(DecodeError, match="'celery-task-meta-garbage'"):
            await anext(changes)
        with pytest.raises(DecodeError, match="'celery-task-meta-garbage'"):
            await backend.fetch(["garbage"])
        assert await backend.fetch(["list"]) == [None]
        await store(backend, *(meta(SUCCESS, id_) for id_ in ("garbage", "list", "sound")))
        assert {(await anext(changes)).id, (await anext(changes)).id} == {"garbage", "list"}
    assert (await waiting).state == SUCCESS


# ---- the final state ----

ROUNDS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.lists(
            st.tuples(st.sampled_from(["x", "y"]), st.sampled_from([STARTED, RETRY, "PROGRESS", SUCCESS, FAILURE])),
            min_size=1,
            max_size=4,
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(batches=ROUNDS)
def test_final_state_is_never_replaced_however_stores_race(
    redis_server: RedisServer, batches: list[tuple[int, list[tuple[str, str]]]]
) -> None:
    async def race() -> None:
        backends = [RedisBackend(RedisLink(redis_server.url())) for _ in range(3)]
        for backend in backends:
            await backend.open()
        tag = new_id()
        listener = redis.asyncio.Redis.from_url(redis_server.url()).pubsub()
        await listener.subscribe(f"celery-task-meta-{tag}x", f"celery-task-meta-{tag}y", f"end-{tag}")
        for _ in range(3):
            await listener.get_message(timeout=PATIENCE_S)
        followed = [asyncio.create_task(followed_states(backends[0], tag + id_)) for id_ in "xy"]
        await asyncio.gather(
            *(
                store(backends[writer], *(meta(state, tag + id_, at) for id_, state in batch))
                for at, (writer, batch) in enumerate(batches)
            )
        )
        redis_server.call("PUBLISH", f"end-{tag}", "")
        told: dict[str, list[bytes]] = {}
        while not (message := await listener.get_message(timeout=PATIENCE_S))["channel"].startswith(b"end"):
            told.setdefault(message["channel"].decode().removeprefix(f"celery-task-meta-{tag}"), []).append(
                message["data"]
            )
        await listener.aclose()  # type: ignore[no-untyped-call]
        for number, id_ in enumerate("xy"):
            wanted = [state for _, batch in batches for name, state in batch if name == id_]
            rows = told.get(id_, [])
            states = [row.split(b'"')[3].decode() for row in rows]
            finals = [state for state in states if state in READY_STATES]
            assert finals == states[-1:] if READY_STATES & set(wanted) else finals == []
            assert redis_server.call("GET", f"celery-task-meta-{tag}{id_}") == (rows[-1] if rows else None)
            if finals:
                seen = await asyncio.wait_for(followed[number], PATIENCE_S)
                assert [state for state in seen if state in READY_STATES] == finals
            else:
                followed[number].cancel()
        for backend in backends:
            await backend.close()

    asyncio.run(race())


async def followed_states(backend: RedisBackend, id_: str) -> list[str]:
    """Return the states that a watch tells of until the final one."""
    states = []
    async with backend.watch([id_]) as changes:
        async for change in changes:
            states.append(change.state)
            if change.ready:
                break
    return states


# ---- waiting ----


async def test_two_thousand_results_come_over_two_connections(redis_server: RedisServer, connect: Connect) -> None:
    backend, worker = await connect(redis_server), await connect(redis_server)
    ids = [new_id() for _ in range(2000)]
    before = calls(redis_server)
    waiting = [asyncio.create_task(final(backend, id_)) for id_ in ids]
    await until(lambda: subscribed(redis_server, ids[0], ids[-1]))
    clients = redis_server.call("CLIENT", "LIST").decode().count("\n") - 1  # that which asks
    for at in range(0, 2000, 100):
        await store(worker, *(meta(SUCCESS, id_, at) for id_ in ids[at : at + 100]))
    results = await asyncio.gather(*waiting)
    assert [result.id for result in results] == ids
    assert clients == 3  # one for commands and one to listen; the worker's
    asked = {name: count - before.get(name, 0) for name, count in calls(redis_server).items()}
    assert asked["mget"] <= 12  # at first, and perhaps one look
    assert asked["evalsha"] + asked["eval"] == 20


def calls(server: RedisServer) -> dict[str, int]:
    """Return how often each command was called."""
    lines = server.call("INFO", "commandstats")
    return {name.removeprefix("cmdstat_"): int(stats["calls"]) for name, stats in lines.items()}


async def test_channels_are_left_after_a_while(
    redis_server: RedisServer, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.05)
    backend = await connect(redis_server)
    async with backend.watch(["a", "b"]), backend.watch(["b"]):
        await until(lambda: subscribed(redis_server, "a", "b"))
    await until(lambda: redis_server.call("PUBSUB", "CHANNELS") == [])


# ---- faults ----


@pytest.mark.parametrize("keep", [True, False], ids=["with its data", "without its data"])
async def test_results_come_when_the_server_is_restarted_meanwhile(
    start_redis: Callable[..., RedisServer], connect: Connect, keep: bool
) -> None:
    server = start_redis("--appendonly", "yes", "--appendfsync", "always")
    backend, worker = await connect(server), await connect(server)
    await store(worker, meta(STARTED, "a"), meta(STARTED, "b"))
    ids = ["a", "b", *(new_id() for _ in range(50))]
    waiting = [asyncio.create_task(final(backend, id_)) for id_ in ids]
    await until(lambda: subscribed(server, *ids))
    await asyncio.to_thread(server.kill9)
    await asyncio.sleep(0)
    with pytest.raises(BackendConnectionError):
        await store(worker, meta(SUCCESS, "a"))
    await asyncio.to_thread(server.restart, keep=keep)
    await store_again(worker, *(meta(SUCCESS, id_) for id_ in ids))
    assert [result.id for result in await asyncio.gather(*waiting)] == ids


async def test_result_comes_when_it_was_stored_while_nobody_could_listen(
    private_redis: RedisServer, connect: Connect
) -> None:
    worker = await connect(private_redis)
    with FaultProxy(private_redis.port) as proxy:
        backend = await connect(link=RedisLink(proxy.url()))
        waiting = asyncio.create_task(final(backend, "a"))
        await until(lambda: subscribed(private_redis, "a"))
        proxy.refuse()
        proxy.cut()
        await store(worker, meta(SUCCESS, "a", 42))
        assert not waiting.done()
        proxy.heal()
        assert (await waiting).result == 42
        await backend.close()


class SplitLink(RedisLink):
    """A link that listens through a proxy, and does all else past it."""

    def __init__(self, url: str, proxy_url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._listening = RedisLink(proxy_url, **options)

    async def dial_wire(self, *, ping: bool, on_push: Callable[[bytes, bytes], None] | None = None) -> Wire:
        link = super() if on_push is None else self._listening
        return await link.dial_wire(ping=ping, on_push=on_push)


async def test_look_finds_the_result_when_listening_is_half_open(
    redis_server: RedisServer, proxy: FaultProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 0.2)
    # So long that it is not the listener that finds out.
    link = SplitLink(redis_server.url(), proxy.url(), command_timeout=600.0)
    backend, worker = await connect(link=link), await connect(redis_server)
    waiting = asyncio.create_task(final(backend, "a"))
    await until(lambda: subscribed(redis_server, "a"))
    proxy.black_hole()
    late = asyncio.create_task(final(backend, "b"))  # what can't even be subscribed
    await store(worker, meta(SUCCESS, "a", 1), meta(SUCCESS, "b", 2))
    assert (await waiting).result == 1
    assert (await late).result == 2


async def test_listening_goes_on_when_it_was_half_open(
    redis_server: RedisServer, proxy: FaultProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "LOOK_EVERY_S", 600.0)
    link = SplitLink(redis_server.url(), proxy.url(), command_timeout=0.5, connection_timeout=0.5)
    backend, worker = await connect(link=link), await connect(redis_server)
    waiting = asyncio.create_task(final(backend, "a"))
    await until(lambda: subscribed(redis_server, "a"))
    proxy.black_hole()
    await store(worker, meta(SUCCESS, "a", 1))
    await until(lambda: proxy.connections == 0 or proxy.cuts)  # it has noticed, and has left
    assert not waiting.done()
    proxy.heal()
    assert (await waiting).result == 1


async def test_fetch_and_watch_wait_a_while_for_a_connection(private_redis: RedisServer, connect: Connect) -> None:
    backend = await connect(private_redis, command_timeout=0.3)
    async with backend.watch(["warm"]):
        await until(lambda: subscribed(private_redis, "warm"))
    await asyncio.to_thread(private_redis.kill9)
    await until(lambda: not backend.connected)
    for asking in (backend.fetch(["a"]), backend.forget(["a"]), final(backend, "a")):
        began = time.monotonic()
        with pytest.raises(BackendConnectionError, match="There is no connection to Redis"):
            await asking
        assert time.monotonic() - began >= 0.29


async def test_fetch_and_watch_go_on_when_the_connection_comes_back_in_time(
    private_redis: RedisServer, connect: Connect
) -> None:
    backend = await connect(private_redis)
    await asyncio.to_thread(private_redis.kill9)
    await until(lambda: not backend.connected)
    fetching, waiting = asyncio.create_task(backend.fetch(["a"])), asyncio.create_task(final(backend, "a"))
    await asyncio.to_thread(private_redis.restart)
    assert await fetching == [None]
    await store_again(backend, meta(SUCCESS, "a"))
    assert (await waiting).state == SUCCESS


async def test_open_says_so_when_there_is_no_server(connect: Connect) -> None:
    backend = RedisBackend(RedisLink(f"redis://:secret@127.0.0.1:{free_port()}/0"))
    with pytest.raises(BackendConnectionError, match=r"redis://.*can't be reached") as raised:
        await backend.open()
    assert "secret" not in str(raised.value)
    assert not backend.connected
    await backend.close()


async def test_store_says_so_when_the_server_is_full(start_redis: Callable[..., RedisServer], connect: Connect) -> None:
    server = start_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    backend = await connect(server)
    await store(backend, meta(SUCCESS, "first", 1))

    async def fill() -> None:
        for number in range(100):
            await store(backend, *(meta(SUCCESS, f"{number}-{n}", "x" * 10_000) for n in range(10)))

    with pytest.raises(BackendError, match="has no room"):
        await fill()
    assert (await final(backend, "first")).result == 1  # what is there can be read
    await backend.forget([f"{number}-{n}" for number in range(100) for n in range(10)])
    await store(backend, meta(SUCCESS, "last"))


async def test_watch_says_so_when_the_user_may_not_listen(private_redis: RedisServer, connect: Connect) -> None:
    private_redis.call("ACL", "SETUSER", "me", "on", ">secret", "~*", "+@all", "resetchannels")
    url = private_redis.url().replace("redis://", "redis://me:secret@")
    backend = await connect(link=RedisLink(url, command_timeout=60.0))  # told, not waited for
    with pytest.raises(BackendError, match="does not allow this user what is needed") as raised:
        await final(backend, "a")
    assert "secret" not in str(raised.value)


async def test_rows_are_all_stored_when_the_user_may_not_publish(private_redis: RedisServer, connect: Connect) -> None:
    private_redis.call("ACL", "SETUSER", "default", "resetchannels")
    backend = await connect(private_redis)
    rows = [backend.encode(TaskMeta(id=id_, state=SUCCESS, result=1), 60.0) for id_ in ("a", "b")]
    await backend.store(rows)
    assert [meta and meta.state for meta in await backend.fetch(["a", "b"])] == [SUCCESS, SUCCESS]


# ---- with a broker that is elsewhere ----


@pytest.mark.parametrize("broker", ["memory://", "sqlite:///{}/tasks.db"])
async def test_task_runs_and_its_result_is_waited_for_when_the_broker_is_elsewhere(
    redis_server: RedisServer, tmp_path: Path, broker: str
) -> None:
    backend = RedisBackend(RedisLink(redis_server.url()))
    await backend.open()
    app = AioTask("proj", broker=broker.format(tmp_path))

    @app.task(name="add", backend=backend)
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="again", backend=backend, bind=True, max_retries=1, default_retry_delay=0)
    async def again(self: Any) -> None:
        raise self.retry(exc=ValueError("no"))

    async with app.worker():
        results = await add.send_many([(n, n) for n in range(50)])
        assert await asyncio.gather(*(result.get(PATIENCE_S) for result in results)) == [2 * n for n in range(50)]
        failing = await again.delay()
        states = [change.state async for change in failing.updates()]
        with pytest.raises(ValueError, match="no"):
            await failing.get(PATIENCE_S)
        assert states[-1] == FAILURE
        assert set(states) <= {RETRY, FAILURE}
    assert b'"name":"add"' in redis_server.call("GET", f"celery-task-meta-{results[0].id}")
    await app.close()
    await backend.close()
