"""A Redis that can't be used: each command says once what is wrong and what to do, and ends.

What can be seen in the URL alone is a setting that doesn't fit, 78. Whatever a server says or does is 69, also that it
does not know the password: the server may be the one that is wrong, or not set up yet, and a service manager that
starts the worker again after 69 brings it up when that is mended.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import CompletedProcess
from typing import NamedTuple

import pytest
import redis
from tests.integration.redis_links import Start, replicate
from tests.servers.redis import RedisServer, free_port

Run = Callable[..., "CompletedProcess[str]"]

CONFIGURATION = 78
UNREACHABLE = 69

COMMANDS = [
    pytest.param(("check", "tasks"), id="check"),
    pytest.param(("call", "tasks.add", "1", "2"), id="call"),
    pytest.param(("run", "tasks"), id="run"),
]


class Told(NamedTuple):
    code: int
    output: str


EACH_COMMAND = pytest.mark.parametrize("told", COMMANDS, indirect=True)


@pytest.fixture
def told(request: pytest.FixtureRequest, aiotask: Run) -> Callable[..., Told]:
    """Runs a worker, or each command, with a broker URL to its end."""
    command = getattr(request, "param", ("run", "tasks"))

    def told(url: str, **settings: str) -> Told:
        finished = aiotask(*command, AIOTASK_BROKER_URL=url, **settings)
        return Told(finished.returncode, finished.stdout + finished.stderr)

    return told


def assert_ends(told: Told, code: int, *parts: str) -> None:
    """See that a command has ended with `code` and one message that says `parts`, and has shown nothing else."""
    assert told.code == code, told.output
    [message] = [line for line in told.output.splitlines() if line.lower().startswith("error: ")]
    for part in parts:
        assert part in message
    assert "Traceback" not in told.output
    assert "secret" not in told.output


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis://:secret@127.0.0.1:port/0", "can't be read"),
        ("redis://:secret@127.0.0.1:99999/0", "can't be read"),
        ("redis://:secret@127.0.0.1/queue", "a database number"),
        ("redis://:secret@127.0.0.1/0?client_nam=x", "Did you mean 'client_name'? Write redis://"),
        ("redis://:secret@127.0.0.1/0?socket_timeout=3", "set 'broker_command_timeout'"),
        ("sentinel://:secret@127.0.0.1:26379/0", "add ?master_name=mymaster"),
        ("unix://:secret@redis.sock", "by its whole path"),
    ],
)
def test_url_that_can_not_be_read_is_a_setting_that_does_not_fit(
    told: Callable[..., Told], url: str, what: str
) -> None:
    assert_ends(told(url), CONFIGURATION, what, ":***@")


@EACH_COMMAND
def test_each_command_tells_of_a_setting_that_does_not_fit(told: Callable[..., Told]) -> None:
    assert_ends(told("rediss://:secret@127.0.0.1:99999/0"), CONFIGURATION, ":***@")


@EACH_COMMAND
def test_port_where_nothing_listens_is_told(told: Callable[..., Told]) -> None:
    port = free_port()
    assert_ends(told(f"redis://:secret@127.0.0.1:{port}/0"), UNREACHABLE, f":***@127.0.0.1:{port}/0", "Is it running")


@pytest.fixture
def http_port() -> Iterator[int]:
    """The port of a web server."""

    class Quiet(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port
        server.shutdown()
        serving.join()


def test_server_of_another_kind_is_told(told: Callable[..., Told], http_port: int) -> None:
    assert_ends(
        told(f"redis://:secret@127.0.0.1:{http_port}/0"), UNREACHABLE, "not as a Redis does", "Are host and port right?"
    )


@EACH_COMMAND
def test_server_that_says_nothing_is_told(told: Callable[..., Told]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:secret@127.0.0.1:{silent.getsockname()[1]}/0"
        assert_ends(
            told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="0.5"), UNREACHABLE, ":***@", "did not answer within 0.5 s"
        )


@EACH_COMMAND
def test_wrong_password_is_told(told: Callable[..., Told], start_redis: Start) -> None:
    server = start_redis(password="hush")
    url = f"redis://:secret@127.0.0.1:{server.port}/0"
    assert_ends(told(url), UNREACHABLE, ":***@", "does not accept the user or password", "Check them in the URL")


def test_missing_password_is_told(told: Callable[..., Told], start_redis: Start) -> None:
    server = start_redis(password="hush")
    assert_ends(told(f"redis://127.0.0.1:{server.port}/0"), UNREACHABLE, "asks for a password. Write it into the URL")


@EACH_COMMAND
@pytest.mark.parametrize(
    ("rights", "what"),
    [
        (("~*", "&*", "+@read", "+@connection"), "no permissions to run"),
        (("~other:*", "&*", "+@all"), "permissions to access"),
    ],
)
def test_user_without_rights_is_told(
    told: Callable[..., Told], private_redis: RedisServer, rights: tuple[str, ...], what: str
) -> None:
    private_redis.call("ACL", "SETUSER", "someone", "on", ">secret", *rights)
    url = f"redis://someone:secret@127.0.0.1:{private_redis.port}/0"
    assert_ends(told(url), UNREACHABLE, "someone:***@", what, "Extend the user's ACL")


@pytest.mark.parametrize("command", [("check", "tasks"), ("run", "tasks")])
@pytest.mark.parametrize(
    ("rights", "what"),
    [
        (("~aiotask:*", "&*", "+@all"), "permissions to access"),
        (("~*", "resetchannels", "+@all"), "PUBLISH on the key 'celery-task-meta-"),
        (("~*", "&*", "+@all", "-xack"), "XACK on the key 'aiotask:{default}:"),
        (("~aiotask:{default}:*", "~aiotask:queues", "~celery*", "&*", "+@all"), "EXISTS on the key 'aiotask:revoked'"),
    ],
)
def test_worker_whose_steps_would_be_refused_halfway_does_not_begin(
    aiotask: Run, private_redis: RedisServer, rights: tuple[str, ...], what: str, command: tuple[str, ...]
) -> None:
    private_redis.call("ACL", "SETUSER", "someone", "on", ">secret", *rights)
    finished = aiotask(*command, AIOTASK_BROKER_URL=f"redis://someone:secret@127.0.0.1:{private_redis.port}/0")
    told = Told(finished.returncode, finished.stdout + finished.stderr)
    assert_ends(told, UNREACHABLE, "someone:***@", what, "Extend the user's ACL")
    assert private_redis.call("KEYS", "*") == []


@EACH_COMMAND
def test_key_that_another_program_owns_is_told(told: Callable[..., Told], private_redis: RedisServer) -> None:
    private_redis.call("SET", "aiotask:{default}:s:5", "theirs")
    url = private_redis.url()
    assert_ends(told(url), UNREACHABLE, url, "'aiotask:{default}:s:5'", "is a string", "key_prefix")
    assert private_redis.call("GET", "aiotask:{default}:s:5") == b"theirs"


@EACH_COMMAND
def test_read_only_replica_is_told(told: Callable[..., Told], start_redis: Start) -> None:
    master, replica = start_redis(), start_redis()
    replicate(replica, master)
    assert_ends(told(replica.url()), UNREACHABLE, replica.url(), "read-only replica. Name its master")


@EACH_COMMAND
def test_server_that_loads_its_data_is_told(told: Callable[..., Told], start_redis: Start) -> None:
    server = start_redis("--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024")
    server.call("DEBUG", "POPULATE", 10_000, "key", 100)
    server.call("CONFIG", "SET", "key-load-delay", 5000)

    def load() -> None:
        with contextlib.suppress(redis.exceptions.ConnectionError):  # it is killed before it is done
            server.call("DEBUG", "RELOAD")

    loading = threading.Thread(target=load)
    loading.start()
    with server.client() as client:
        while not client.info("persistence")["loading"]:
            assert loading.is_alive()
    try:
        assert_ends(told(server.url()), UNREACHABLE, server.url(), "still loading its data. Try again")
    finally:
        server.kill9()
        loading.join()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_policy_that_evicts_is_warned_of(aiotask: Run, start_redis: Start, policy: str) -> None:
    """No error: it may never be full. Of what has an expiry alone, `volatile`, results are lost, and no messages."""
    server = start_redis("--maxmemory-policy", policy)
    finished = aiotask("check", "tasks", AIOTASK_BROKER_URL=server.url())
    assert finished.returncode == 0
    assert f"maxmemory-policy {policy}" in finished.stderr
    assert finished.stderr.count("Set it to noeviction") == 1
