"""Which servers the link to Redis takes, follows and waits for, and what it says of those that it can't use."""

import asyncio
import logging
import shutil
import textwrap
from pathlib import Path

import pytest
import redis
from tests.conditions import PATIENCE_S, until
from tests.integration.redis_links import COUNT, ECHO, Open, Start, replicate, restarted, why_refused
from tests.servers.redis import RedisServer, free_port

from aiotask.connections.redis import LinkDown, RedisLink, ReplyError, Script, ServerRefused, Translation
from aiotask.exceptions import BackendConnectionError, BackendError, BrokerConnectionError, BrokerError, BrokerFull

BROKER = Translation(BrokerConnectionError, BrokerError, BrokerFull)
BACKEND = Translation(BackendConnectionError, BackendError, BackendError)


# ---- servers that can't be used ----


async def test_server_that_is_gone_is_told_at_opening() -> None:
    told = await why_refused(f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert "can't be reached" in told
    assert "secret" not in told


async def test_opening_that_failed_can_be_tried_again(start_redis: Start) -> None:
    server = start_redis()
    link = RedisLink(server.url())
    server.kill9()
    with pytest.raises(ServerRefused):
        await link.open()
    server.start()
    await link.open()
    assert await link.command("PING") == b"PONG"
    await link.close()


async def test_password_opens_and_is_never_shown(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis(password="hunter2/@#")
    link = await open_link(server.url())
    assert await link.command("PING") == b"PONG"
    await restarted(server, link)
    told = [repr(link), caplog.text]
    told.append(await why_refused(server.url().replace("hunter2", "hunter3")))
    assert "does not accept the user or password" in told[-1]
    told.append(await why_refused(f"redis://127.0.0.1:{server.port}/0"))
    assert "asks for a password. Write it into the URL" in told[-1]
    told.append(await why_refused(f"unix://:hunter3@{server.socket_path}"))
    assert "does not accept the user or password" in told[-1]
    assert "hunter" not in "".join(told)


async def test_password_that_is_not_asked_for_is_told(redis_server: RedisServer) -> None:
    told = await why_refused(f"redis://:secret@127.0.0.1:{redis_server.port}")
    assert "without any password configured" in told


async def test_user_who_may_not_ask_about_the_server_can_use_it(redis_server: RedisServer, open_link: Open) -> None:
    redis_server.call("ACL", "SETUSER", "limited", "on", ">pw", "~*", "+@all", "-@dangerous", "-@admin")
    try:
        link = await open_link(f"redis://limited:pw@127.0.0.1:{redis_server.port}/0")
        assert link.server is not None
        assert link.server.version >= (6, 2)
        assert await link.run(COUNT, ["n"]) == 1
        with pytest.raises(BrokerError, match=r"does not allow this user.*ACL"), link.translating(BROKER):
            await link.command("FLUSHALL")
    finally:
        redis_server.call("ACL", "DELUSER", "limited")


@pytest.mark.parametrize("form", ["unix://{}?db=2", "redis+unix://{}?db=2", "redis+socket://{}?virtual_host=2"])
async def test_unix_socket(private_redis: RedisServer, open_link: Open, form: str) -> None:
    link = await open_link(form.format(private_redis.socket_path))
    assert await link.run(COUNT, ["n"]) == 1
    assert private_redis.call("GET", "n", db=2) == b"1"


async def test_database_of_the_url_is_used_and_one_too_many_is_told(redis_server: RedisServer, open_link: Open) -> None:
    link = await open_link(redis_server.url(5))
    await link.run(COUNT, ["n"])
    assert redis_server.call("GET", "n", db=5) == b"1"
    assert "lets nobody in by this URL: DB index is out of range" in await why_refused(redis_server.url(99))


async def test_tls(start_redis: Start, open_link: Open) -> None:
    server = start_redis(tls=True)
    link = await open_link(server.url(ssl_ca_certs=str(server.folder / "ca.crt")))
    value = "x" * 1_000_000
    assert await link.run(ECHO, ["key"], [value]) == [b"key", value.encode()]
    unchecked = await open_link(server.url(ssl_cert_reqs="CERT_NONE"))
    assert await unchecked.command("PING") == b"PONG"
    assert "CERTIFICATE_VERIFY_FAILED" in await why_refused(server.url())
    assert "rediss://" in await why_refused(server.url().replace("rediss", "redis"), connection_timeout=2.0)
    await restarted(server, link)


async def test_tls_to_a_server_without_it_is_told(redis_server: RedisServer) -> None:
    told = await why_refused(redis_server.url().replace("redis://", "rediss://"), connection_timeout=2.0)
    assert "Redis rediss://" in told


async def test_cluster_and_sentinel_are_told(start_redis: Start, tmp_path: Path) -> None:
    cluster = start_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    assert "Redis Cluster" in await why_refused(cluster.url())
    with sentinel_of(cluster, tmp_path) as sentinel:
        assert "?master_name=mymaster" in await why_refused(f"redis://127.0.0.1:{sentinel.port}")


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_policy_that_evicts_is_warned_of_once(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture, policy: str
) -> None:
    server = start_redis("--maxmemory-policy", policy, "--maxmemory", "100mb")
    link = await open_link(server.url())
    await restarted(server, link)
    [warning] = [record for record in caplog.records if "maxmemory-policy" in record.message]
    assert warning.levelno == logging.WARNING
    assert policy in warning.message
    assert "noeviction" in warning.message


async def test_policy_that_evicts_nothing_is_not_warned_of(link: RedisLink, caplog: pytest.LogCaptureFixture) -> None:
    assert link.server is not None
    assert link.server.eviction == "noeviction"
    assert not caplog.records


# ---- the wrong server ----


async def test_replica_is_refused_at_opening(start_redis: Start) -> None:
    master, replica = start_redis(), start_redis()
    replicate(replica, master)
    assert "read-only replica" in await why_refused(replica.url())


async def test_server_that_became_a_replica_is_left_until_it_is_the_master_again(
    start_redis: Start, open_link: Open, caplog: pytest.LogCaptureFixture
) -> None:
    other, server = start_redis(), start_redis()
    link = await open_link(server.url())
    assert await link.run(COUNT, ["n"]) == 1
    replicate(server, other)
    with pytest.raises(ReplyError, match="READONLY") as raised:
        await link.run(COUNT, ["n"])
    assert raised.value.is_stale
    assert not link.connected
    await until(lambda: "read-only replica" in caplog.text)
    waiting = asyncio.create_task(link.run(COUNT, ["n"], wait=PATIENCE_S))
    await asyncio.sleep(0)
    server.call("REPLICAOF", "NO", "ONE")
    assert await waiting == 1


async def test_call_that_waits_outlives_a_demotion(start_redis: Start, open_link: Open) -> None:
    """READONLY says that nothing was done: such a call is sent again, to whoever is the master then."""
    other, server = start_redis(), start_redis()
    link = await open_link(server.url())
    replicate(server, other)
    counting = asyncio.create_task(link.run(COUNT, ["n"], wait=PATIENCE_S))
    await until(lambda: not link.connected)
    server.call("REPLICAOF", "NO", "ONE")
    assert await counting == 1
    assert server.call("GET", "n") == b"1"


async def test_server_that_loads_is_refused_at_opening_and_waited_for_later(
    start_redis: Start, open_link: Open
) -> None:
    server = start_redis("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
    link = await open_link(server.url())
    server.call("DEBUG", "POPULATE", 400, "key", 100)
    server.call("CONFIG", "SET", "key-load-delay", 5000)
    loading = asyncio.create_task(asyncio.to_thread(server.call, "DEBUG", "RELOAD"))
    told = ""
    while "still loading" not in told and not loading.done():
        try:
            one = RedisLink(server.url())
            await one.open()
            await one.close()
        except ServerRefused as error:
            told = str(error)
    assert "still loading" in told
    assert await link.command("DBSIZE", wait=PATIENCE_S) == 400
    await loading


async def test_server_without_room_is_told_as_full(start_redis: Start, open_link: Open) -> None:
    server = start_redis("--maxmemory", "2mb")
    link = await open_link(server.url())
    fill = Script("return redis.call('SET', KEYS[1], ARGV[1])")
    big = "x" * 100_000
    await link.pipeline([fill([f"key{number}"], [big]) for number in range(100)])
    with pytest.raises(BrokerFull, match=r"no room.*maxmemory"), link.translating(BROKER):
        await link.run(fill, ["another"], [big])
    with pytest.raises(BackendError, match="no room"), link.translating(BACKEND):
        await link.command("SET", "another", big)
    assert link.connected


async def test_server_that_can_not_write_to_its_disk_is_told_as_full(start_redis: Start, open_link: Open) -> None:
    server = start_redis("--save", "3600 1", "--enable-protected-configs", "yes")
    link = await open_link(server.url())
    folder = server.folder / "data"
    folder.mkdir()
    server.call("CONFIG", "SET", "dir", str(folder))
    shutil.rmtree(folder)
    await link.command("SET", "key", "value")
    server.call("BGSAVE")
    await until(lambda: server.call("INFO", "PERSISTENCE")["rdb_last_bgsave_status"] == "err")
    with pytest.raises(BrokerFull, match="MISCONF"), link.translating(BROKER):
        await link.run(COUNT, ["n"])
    assert link.connected


# ---- Sentinel ----


def sentinel_of(master: RedisServer, folder: Path) -> RedisServer:
    folder = folder / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        textwrap.dedent(f"""\
            sentinel monitor mymaster 127.0.0.1 {master.port} 1
            sentinel down-after-milliseconds mymaster 300
            sentinel failover-timeout mymaster 3000
            """)
    )
    sentinel = RedisServer(folder, sentinel=True).start()
    for period in ("INFO-PERIOD", "PING-PERIOD", "PUBLISH-PERIOD", "ASK-PERIOD"):  # it looks every 10 s by default
        sentinel.call("SENTINEL", "DEBUG", period, "100")
    return sentinel


def succeeds(server: RedisServer, *words: str) -> bool:
    """Ask; False where the server is not ready for it, or closes all connections since it is being promoted."""
    try:
        server.call(*words)
    except redis.exceptions.RedisError:
        return False
    return True


@pytest.mark.parametrize("kill", [False, True])
async def test_link_follows_the_master_that_sentinels_name(
    start_redis: Start, open_link: Open, tmp_path: Path, kill: bool
) -> None:
    first, second = start_redis(), start_redis("--replica-priority", "1")
    replicate(second, first)
    with sentinel_of(first, tmp_path) as sentinel:
        dead = f"sentinel://127.0.0.1:{free_port()};sentinel://127.0.0.1:{sentinel.port}/0?master_name=mymaster"
        link = await open_link(dead)
        assert await link.run(COUNT, ["n"]) == 1
        assert first.call("GET", "n") == b"1"
        await until(lambda: sentinel.call("SENTINEL", "REPLICAS", "mymaster"))
        await until(lambda: second.call("GET", "n") == b"1")
        if kill:
            first.kill9()
        else:
            await until(lambda: succeeds(sentinel, "SENTINEL", "FAILOVER", "mymaster"))
        await until(lambda: succeeds(second, "SET", "promoted", "1"))
        counted = 0
        async with asyncio.timeout(PATIENCE_S):
            while not counted or second.call("GET", "n") == b"1":
                try:
                    counted = await link.run(COUNT, ["n"], wait=1.0)
                except (LinkDown, ReplyError):  # the old master says READONLY, or is gone
                    await asyncio.sleep(0.01)
        assert counted == int(second.call("GET", "n")) >= 2


async def test_master_that_sentinels_do_not_know_is_told(start_redis: Start, tmp_path: Path) -> None:
    with sentinel_of(start_redis(), tmp_path) as sentinel:
        told = await why_refused(f"sentinel://127.0.0.1:{sentinel.port}?master_name=other")
    assert "knows no master 'other'" in told
