"""A RabbitMQ that can't be used: each command says once what is wrong and what to do, and ends.

What can be seen in the URL alone is a setting that doesn't fit, 78. Whatever a server says or does is 69, also that it
does not know the password: the server may be the one that is wrong, or not set up yet, and a service manager that
starts the worker again after 69 brings it up when that is mended.
"""

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import pytest
from tests.processes import WorkerProcess
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer, free_port

from aiotask import AioTask
from aiotask.connections.amqp import AmqpLink
from aiotask.exceptions import BrokerConnectionError

Run = Callable[..., "CompletedProcess[str]"]

CONFIGURATION = 78
UNREACHABLE = 69

COMMANDS = [
    pytest.param(("check", "tasks"), id="check"),
    pytest.param(("call", "tasks.add", "1", "2"), id="call"),
    pytest.param(("run", "tasks", "-l", "debug"), id="run"),
    pytest.param(("run", "tasks", "--processes", "2"), id="processes"),
]


class Told(NamedTuple):
    code: int
    output: str


def ended(finished: "CompletedProcess[str]") -> Told:
    return Told(finished.returncode, finished.stdout + finished.stderr)


EACH_COMMAND = pytest.mark.parametrize("told", COMMANDS, indirect=True)


@pytest.fixture
def told(request: pytest.FixtureRequest, aiotask: Run) -> Callable[..., Told]:
    """Runs a worker, or each command, with a broker URL to its end."""
    command = getattr(request, "param", ("run", "tasks", "-l", "debug"))
    return lambda url, **settings: ended(aiotask(*command, AIOTASK_BROKER_URL=url, **settings))


def assert_ends(told: Told, code: int, *parts: str) -> None:
    """See that a command has ended with `code` and one message that says `parts`, and has shown nothing else."""
    assert told.code == code, told.output
    [message] = [line for line in told.output.splitlines() if line.lower().startswith("error: ")]
    for part in parts:
        assert part in message, told.output
    assert "Traceback" not in told.output
    assert "secret" not in told.output


# ---- what the URL says ----


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("amqp://guest:secret@127.0.0.1:port/", "is no AMQP URL"),
        ("amqp://guest:secret@127.0.0.1:99999/", "is no AMQP URL"),
        ("amqp://guest:secret@/shop", "is no AMQP URL"),
        ("amqp://guest:secret@127.0.0.1/shop?heartbeet=3", "Did you mean 'heartbeat'?"),
        ("amqp://guest:secret@127.0.0.1/shop?heartbeat=soon", "heartbeat"),
        ("amqp://guest:secret@127.0.0.1/shop?auth=secrecy", "auth"),
        ("amqp://guest:secret@127.0.0.1/shop?cafile=ca.pem", "write amqps://"),
        ("amqps://guest:secret@127.0.0.1/shop?cafile=no-such.pem", "cafile=no-such.pem"),
        ("amqps://guest:secret@127.0.0.1/shop?cadata=x", "cadata"),
        ("ampq://guest:secret@127.0.0.1/shop", "Did you mean 'amqp'?"),
    ],
)
def test_url_that_can_not_be_read_is_a_setting_that_does_not_fit(
    told: Callable[..., Told], url: str, what: str
) -> None:
    assert_ends(told(url), CONFIGURATION, what, "guest:***@")


@EACH_COMMAND
def test_each_command_tells_of_a_setting_that_does_not_fit(told: Callable[..., Told]) -> None:
    assert_ends(told("amqp://guest:secret@127.0.0.1:99999/"), CONFIGURATION, "is no AMQP URL", "guest:***@")


@pytest.mark.parametrize("broker", ["memory://", "sqlite:///tasks.db", "redis://127.0.0.1:1/0"])
def test_results_over_rpc_without_rabbitmq_are_a_setting_that_does_not_fit(aiotask: Run, broker: str) -> None:
    finished = aiotask("check", "tasks", AIOTASK_BROKER_URL=broker, AIOTASK_RESULT_BACKEND="rpc://")
    assert_ends(ended(finished), CONFIGURATION, "takes an amqp:// broker")


# ---- what is at the other end ----


@EACH_COMMAND
def test_port_where_nothing_listens_is_told(told: Callable[..., Told]) -> None:
    port = free_port()
    url = f"amqp://guest:secret@127.0.0.1:{port}/"
    assert_ends(told(url), UNREACHABLE, f"guest:***@127.0.0.1:{port}/", "Is it running")


def test_host_that_is_unknown_is_told(told: Callable[..., Told]) -> None:
    assert_ends(told("amqp://guest:secret@no-such-host.invalid/"), UNREACHABLE, "guest:***@no-such-host", "host")


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


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_web_server_is_told(told: Callable[..., Told], http_port: int, scheme: str) -> None:
    url = f"{scheme}://guest:secret@127.0.0.1:{http_port}/"
    assert_ends(
        told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="3"), UNREACHABLE, f":***@127.0.0.1:{http_port}/", "host and port"
    )


def test_redis_is_told(told: Callable[..., Told], redis_server: RedisServer) -> None:
    url = f"amqp://guest:secret@127.0.0.1:{redis_server.port}/"
    assert_ends(told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="1"), UNREACHABLE, "guest:***@", "host and port")


@EACH_COMMAND
@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_server_that_says_nothing_is_told(told: Callable[..., Told], scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://guest:secret@127.0.0.1:{silent.getsockname()[1]}/"
        assert_ends(
            told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="0.5"), UNREACHABLE, ":***@", "did not answer within 0.5 s"
        )


def test_server_that_speaks_first_is_told(told: Callable[..., Told]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connected, _ = server.accept()
            with connected:
                connected.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connected.recv(8)
                connected.settimeout(10)
                with contextlib.suppress(OSError):
                    connected.recv(1)

        greeting = threading.Thread(target=greet)
        greeting.start()
        url = f"amqp://guest:secret@127.0.0.1:{server.getsockname()[1]}/"
        finished = told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="0.5")
        greeting.join()
    assert_ends(finished, UNREACHABLE, ":***@", "not as a RabbitMQ does (it says 'SSH-2.0-OpenSSH_9.2')")


def test_tls_to_a_port_without_it_is_told(told: Callable[..., Told], shared_rabbit: RabbitServer) -> None:
    url = shared_rabbit.url(password="secret").replace("amqp://", "amqps://")
    assert_ends(told(url, AIOTASK_BROKER_CONNECTION_TIMEOUT="3"), UNREACHABLE, "guest:***@", "amqp://")


# ---- what the server says ----


@EACH_COMMAND
def test_wrong_password_is_told(told: Callable[..., Told], shared_rabbit: RabbitServer) -> None:
    url = shared_rabbit.url(password="secret")
    assert_ends(told(url), UNREACHABLE, "guest:***@", "does not accept the user or password", "Check them in the URL")


def test_virtual_host_that_is_not_there_is_told(told: Callable[..., Told], shared_rabbit: RabbitServer) -> None:
    url = shared_rabbit.url("nowhere")
    assert_ends(told(url), UNREACHABLE, "guest:***@", "has no virtual host 'nowhere'", "rabbitmqctl add_vhost")


@pytest.fixture
def someone(shared_rabbit: RabbitServer) -> Iterator[str]:
    """A user who may do nothing anywhere yet; the password is `secret`."""
    shared_rabbit.evaluate('rabbit_auth_backend_internal:add_user(<<"someone">>, <<"secret">>, <<"test">>).')
    yield "someone"
    shared_rabbit.evaluate('rabbit_auth_backend_internal:delete_user(<<"someone">>, <<"test">>).')


def test_virtual_host_that_is_not_ours_is_told(
    told: Callable[..., Told], shared_rabbit: RabbitServer, vhost: str, someone: str
) -> None:
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    assert_ends(told(url), UNREACHABLE, "someone:***@", f"virtual host {vhost!r}", "set_permissions")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("max-connections", "takes no more connections: access to vhost"),
        ("max-queues", "Delete queues that nobody needs, or raise the limit max-queues"),
    ],
)
def test_limit_of_the_virtual_host_is_told(
    told: Callable[..., Told], shared_rabbit: RabbitServer, vhost: str, limit: str, said: str
) -> None:
    shared_rabbit.evaluate(f'rabbit_vhost_limit:set(<<"{vhost}">>, [{{<<"{limit}">>, 0}}], <<"test">>).')
    assert_ends(told(shared_rabbit.url(vhost)), UNREACHABLE, "guest:***@", said, "rabbitmqctl set_vhost_limits")


def test_name_that_is_the_servers_own_is_told(aiotask: Run, shared_rabbit: RabbitServer, vhost: str) -> None:
    finished = ended(aiotask("call", "tasks.add", "--queue", "amq.mine", AIOTASK_BROKER_URL=shared_rabbit.url(vhost)))
    assert_ends(finished, UNREACHABLE, "reserved prefix", "use another name")
    assert "set_permissions" not in finished.output


REPLIES, QUEUES, SENDING = "aiotask.reply", "default", "amq.default"


@EACH_COMMAND
@pytest.mark.parametrize("forbidden", [REPLIES, QUEUES, SENDING])
def test_user_without_rights_is_told(
    told: Callable[..., Told], shared_rabbit: RabbitServer, vhost: str, someone: str, forbidden: str
) -> None:
    """Results over `rpc://` need a queue; the rest, queues of the broker's and the exchange that all is sent to."""
    shared_rabbit.allow(vhost, user=someone, allowed=f"^(?!{forbidden}).*")
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    assert_ends(told(url), UNREACHABLE, "someone:***@", "ACCESS_REFUSED - access to", forbidden, "set_permissions")


def rights() -> str:
    """Return the pattern of names that docs/rabbitmq.md asks for."""
    page = (Path(__file__).parents[2] / "docs" / "rabbitmq.md").read_text(encoding="utf-8")
    [pattern] = re.findall("^PATTERN: (.+)$", page, re.MULTILINE)
    return str(pattern)


REMOTE_CONTROL = "|.*celery[.]pidbox"


@pytest.mark.parametrize("without", ["", REMOTE_CONTROL], ids=["all", "without remote control"])
def test_worker_needs_no_more_rights_than_the_page_says(
    aiotask: Run,
    start: Callable[..., WorkerProcess],
    shared_rabbit: RabbitServer,
    vhost: str,
    someone: str,
    without: str,
) -> None:
    pattern = rights()
    assert without in pattern
    shared_rabbit.allow(vhost, user=someone, allowed=pattern.replace(without, ""))
    env = {"AIOTASK_BROKER_URL": shared_rabbit.url(vhost, user=someone, password="secret")}
    assert aiotask("check", "tasks", **env).returncode == 0
    worker = start(**env)
    for countdown in ("0", "0.2"):
        called = aiotask("call", "tasks.add", "2", "3", "--countdown", countdown, "--wait", "--timeout", "20", **env)
        assert (called.returncode, called.stdout) == (0, "5\n")
    assert aiotask("call", "tasks.missing", **env).returncode == 0
    worker.wait_for("tasks.missing.* was dead-lettered")
    if without:
        worker.wait_for("Celery's remote control gets no answer here")
    assert worker.output.count("WARNING") == bool(without)


@pytest.mark.parametrize("name", ["default", "default.returned", "aiotask.queues"])
def test_user_without_a_right_is_told_by_check_which_leaves_no_trace(
    aiotask: Run, shared_rabbit: RabbitServer, vhost: str, someone: str, name: str
) -> None:
    shared_rabbit.allow(vhost, user=someone, allowed=f"^(?!{name}$).*")
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    assert_ends(ended(aiotask("check", "tasks", AIOTASK_BROKER_URL=url)), UNREACHABLE, f"queue '{name}'")
    assert shared_rabbit.queues(vhost) == []


@pytest.mark.parametrize("forbidden", ["default.dead", SENDING])
def test_worker_whose_steps_would_be_refused_halfway_does_not_begin(
    aiotask: Run, shared_rabbit: RabbitServer, vhost: str, someone: str, forbidden: str
) -> None:
    """Its queues are there, but for the dead letters, which are made when there is one."""
    assert aiotask("run", "tasks", "--burst", AIOTASK_BROKER_URL=shared_rabbit.url(vhost)).returncode == 0
    shared_rabbit.allow(vhost, user=someone, allowed=f"^(?!{forbidden}$).*")
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    told = ended(aiotask("run", "tasks", AIOTASK_BROKER_URL=url))
    assert_ends(told, UNREACHABLE, "someone:***@", f"'{forbidden}'", "set_permissions")
    assert " is ready" not in told.output


def test_user_who_may_not_read_is_told_by_the_worker(
    aiotask: Run, shared_rabbit: RabbitServer, vhost: str, someone: str
) -> None:
    shared_rabbit.evaluate(
        f'ok = rabbit_auth_backend_internal:set_permissions(<<"{someone}">>, <<"{vhost}">>, '
        '<<".*">>, <<".*">>, <<"^aiotask.*">>, <<"test">>).'
    )
    url = shared_rabbit.url(vhost, user=someone, password="secret")
    told = ended(aiotask("run", "tasks", AIOTASK_BROKER_URL=url))
    assert_ends(told, UNREACHABLE, "someone:***@", "ACCESS_REFUSED - access to queue 'default", "set_permissions")


def test_check_leaves_no_trace_where_all_is_well(aiotask: Run, shared_rabbit: RabbitServer, vhost: str) -> None:
    finished = aiotask("check", "tasks", AIOTASK_BROKER_URL=shared_rabbit.url(vhost))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert shared_rabbit.queues(vhost) == []


@EACH_COMMAND
def test_queue_that_was_made_otherwise_is_told(
    told: Callable[..., Told], aiotask: Run, shared_rabbit: RabbitServer, vhost: str
) -> None:
    """It has no priorities; where nobody asks for any, it is used as it is."""
    url = shared_rabbit.url(vhost)
    assert aiotask("call", "tasks.add", "1", "2", AIOTASK_BROKER_URL=url).returncode == 0
    assert_ends(
        told(url, AIOTASK_TASK_QUEUE_MAX_PRIORITY="9"),
        UNREACHABLE,
        "guest:***@",
        "queue 'default'",
        "was made otherwise than task_queue_max_priority says",
        "Delete it when it is empty",
    )


async def test_queue_that_another_program_has_for_itself_alone_is_told(
    aiotask: Run, shared_rabbit: RabbitServer, vhost: str
) -> None:
    url = shared_rabbit.url(vhost)
    link = AmqpLink(url)
    await link.open()
    channel = await link.channel()
    await channel.declare_queue("default", transient=True)
    for command in (("check", "tasks"), ("call", "tasks.add"), ("run", "tasks")):
        told = ended(await asyncio.to_thread(aiotask, *command, AIOTASK_BROKER_URL=url))
        assert_ends(told, UNREACHABLE, "guest:***@", "RESOURCE_LOCKED", "'default'", "uses it alone")
    await link.close()


@EACH_COMMAND
def test_queue_of_ours_that_another_program_has_made_is_told(
    told: Callable[..., Told], shared_rabbit: RabbitServer, vhost: str
) -> None:
    """The list of queues is the one queue whose kind matters always."""
    shared_rabbit.evaluate(
        f'rabbit_amqqueue:declare(rabbit_misc:r(<<"{vhost}">>, queue, <<"aiotask.queues">>), '
        'true, false, [], none, <<"test">>), ok.'
    )
    url = shared_rabbit.url(vhost)
    assert_ends(told(url), UNREACHABLE, "guest:***@", "PRECONDITION_FAILED", "'aiotask.queues'", "made it otherwise")


@EACH_COMMAND
def test_server_without_quorum_queues_is_told(told: Callable[..., Told], old_rabbit: RabbitServer) -> None:
    assert_ends(told(old_rabbit.url()), UNREACHABLE, "guest:***@", "quorum", "rabbitmqctl enable_feature_flag all")


@pytest.fixture(scope="module")
def old_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A server as it is after an upgrade from a version without quorum queues: the feature is not enabled."""
    folder: Path = tmp_path_factory.mktemp("rabbitmq")
    (folder / "env.conf").write_text("FEATURE_FLAGS=\n")
    with RabbitServer(folder) as server:
        yield server


async def test_password_is_in_no_record_of_any_level(
    shared_rabbit: RabbitServer, vhost: str, someone: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where a program has set the driver's own loggers to DEBUG."""
    for name in ("", "aiormq", "aio_pika", "asyncio", "aiotask"):
        caplog.set_level(logging.DEBUG, logger=name)
    shared_rabbit.allow(vhost, user=someone)
    async with AioTask("shop", broker=shared_rabbit.url(vhost, user=someone, password="secret")) as app:

        @app.task(name="shop.add")
        async def add(x: int, y: int) -> int:
            return x + y

        async with app.worker():
            assert await (await add.delay(1, 2)).get(timeout=20) == 3
            broker: Any = app.broker
            broker.link.cut()
            assert await (await add.delay(1, 3)).get(timeout=20) == 4
    for user, password in (("someone", "wrong-secret"), ("someone", "secret")):
        with pytest.raises(BrokerConnectionError):
            await AioTask("shop", broker=shared_rabbit.url("no-such", user=user, password=password)).connect()
    assert any(record.name == "aiormq.connection" for record in caplog.records)
    assert not [record for record in caplog.records if "secret" in record.getMessage() + str(record.exc_info)]
