"""What a server says of itself, and which are not to be used."""

import pytest

from aiotask.connections.redis.errors import ReplyError, ServerRefused
from aiotask.connections.redis.server import Server, check_server, read_answers

HELLO = [b"server", b"redis", b"version", b"7.0.15", b"proto", 2, b"id", 7, b"mode", b"standalone"]
HELLO += [b"role", b"master", b"modules", []]
INFO = b"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n\r\n# Persistence\r\nloading:0\r\n"
INFO += b"# Memory\r\nmaxmemory_policy:allkeys-lru\r\n# Replication\r\nrole:master\r\n"
FORBIDDEN = ReplyError("NOPERM User me has no permissions to run the 'info' command")
GOOD = Server((7, 0, 15), "master", "standalone", loading=False, eviction="noeviction")


def test_server_is_known_by_both_answers() -> None:
    server = read_answers("redis://h", [HELLO, INFO])
    assert server == GOOD._replace(eviction="allkeys-lru")
    assert server.version_text == "7.0.15"
    assert server.evicts


def test_server_is_known_by_hello_where_info_is_forbidden() -> None:
    server = read_answers("redis://h", [HELLO, FORBIDDEN])
    assert server == GOOD._replace(eviction=None)
    assert not server.evicts


def test_server_is_known_by_info_where_hello_is_forbidden() -> None:
    assert read_answers("redis://h", [FORBIDDEN, INFO]).version == (7, 0, 15)


def test_server_that_loads_says_so() -> None:
    assert read_answers("redis://h", [HELLO, INFO.replace(b"loading:0", b"loading:1")]).loading


@pytest.mark.parametrize(
    ("server", "why"),
    [
        (GOOD._replace(version=(6, 0, 16)), r"version 6\.0\.16; aiotask needs 6\.2 or newer"),
        (GOOD._replace(version=(5, 0)), r"version 5\.0; aiotask needs 6\.2"),
        (GOOD._replace(role="replica"), "read-only replica.*master"),
        (GOOD._replace(loading=True), "still loading.*Try again"),
        (GOOD._replace(mode="cluster"), "Redis Cluster"),
        (GOOD._replace(mode="sentinel", role="sentinel"), "sentinel://host:26379/0\\?master_name"),
    ],
)
def test_server_that_can_not_be_used_is_refused_with_the_reason(server: Server, why: str) -> None:
    with pytest.raises(ServerRefused, match=why) as raised:
        check_server("redis://:***@h", server)
    assert "redis://:***@h" in str(raised.value)


@pytest.mark.parametrize("version", [(6, 2, 0), (6, 2), (7, 0, 15), (8, 4, 1), (10, 0)])
def test_server_that_is_new_enough_is_used(version: tuple[int, ...]) -> None:
    check_server("redis://h", GOOD._replace(version=version))


def test_server_of_before_hello_is_refused_by_its_version() -> None:
    hello = ReplyError("ERR unknown command `HELLO`, with args beginning with: ")
    server = read_answers("redis://h", [hello, b"redis_version:5.0.14\r\nrole:slave\r\n"])
    assert (server.version, server.role) == ((5, 0, 14), "replica")


def test_server_that_wants_a_password_is_refused_with_the_remedy() -> None:
    wants = ReplyError("NOAUTH Authentication required.")
    with pytest.raises(ServerRefused, match=r"asks for a password.*redis://:password@host"):
        read_answers("redis://h", [wants, wants])


@pytest.mark.parametrize("answers", [[b"OK", b"OK"], [FORBIDDEN, FORBIDDEN], [[], b""], [1, None]])
def test_server_that_does_not_say_its_version_is_refused(answers: list[object]) -> None:
    with pytest.raises(ServerRefused, match=r"does not say which version.*Is it a Redis"):
        read_answers("redis://h", answers)
