"""The one RabbitMQ server that all are measured on, with the Redis that some keep results in; told by `erl_call`."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from benchmarks.peers.server import Server, redis_server

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's own is a wrapper that insists on the system's folders and on its user; this is the server's."""
PATIENCE_S = 180.0
"""A server that is not up by then is not coming; it takes 6 s on a machine that has nothing else to do."""
QUEUE_TYPES = ("quorum", "classic")
QUEUE_TYPE = "PEERS_QUEUE_TYPE"
"""The variable that tells client and worker which of them to make; not set, each does as it does by default."""


class Rabbit:
    """A running node, by its port and that of its Erlang distribution. Usable in every environment."""

    def __init__(self, port: int, distribution_port: int, redis: Server, number: int = 0) -> None:
        self.port = port
        self.distribution_port = distribution_port
        self.redis = redis
        """Where results are kept by those that have no place for them on RabbitMQ."""
        self._number = number

    @classmethod
    def at(cls, place: str) -> "Rabbit":
        """Return the server that another process has started, by its `place` there."""
        port, distribution_port, redis_port, number = map(int, place.split(","))
        return cls(port, distribution_port, Server(redis_port), number)

    @property
    def place(self) -> str:
        return f"{self.port},{self.distribution_port},{self.redis.port},{self._number}"

    @property
    def vhost(self) -> str:
        return f"peers-{self._number}"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{quote(self.vhost, safe='')}"

    @property
    def environment(self) -> dict[str, str]:
        """What client and worker are told."""
        return {"PEERS_URL": self.url, "PEERS_REDIS_URL": self.redis.url}

    def waiting(self, *but: str) -> int:
        """Count what lies in all queues `but` these and is not handed out. It takes the server some milliseconds."""
        names = ", ".join(f'<<"{name}">>' for name in but)
        counted = self.evaluate(
            "lists:sum([case catch rabbit_amqqueue:stat(Q) of {ok, N, _} -> N; _ -> 0 end || "  # one may just be going
            f'Q <- rabbit_amqqueue:list(<<"{self.vhost}">>), '
            f"not lists:member(element(4, amqqueue:get_name(Q)), [{names}])])."
        )
        return int(counted)

    def version(self) -> str:
        """Return what runs here."""
        version = self.evaluate("element(2, application:get_key(rabbit, vsn)).").strip('"')
        return f"RabbitMQ {version}, {self.redis.version()}"

    def renew(self) -> None:
        """Begin anew: another virtual host, an empty Redis."""
        if self._number:
            self.evaluate(f'rabbit_vhost:delete(<<"{self.vhost}">>, <<"bench">>).')
        self._number += 1
        self.evaluate(f'ok = rabbit_vhost:add(<<"{self.vhost}">>, <<"bench">>).')
        self.evaluate(
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{self.vhost}">>, '
            '<<".*">>, <<".*">>, <<".*">>, <<"bench">>).'
        )
        self.redis.renew()

    def evaluate(self, expression: str) -> str:
        """Return what an Erlang expression, with a full stop at its end, comes to on the node."""
        for _ in range(3):  # it gives its connection up at once when the node is busy
            done = subprocess.run(
                ["erl_call", "-address", f"localhost:{self.distribution_port}", "-c", "cookie", "-r", "-e"],
                input=f"{expression}\n".encode(),
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
            if b"failed to connect" not in done.stderr:
                break
        answer = done.stdout.decode(errors="replace")
        if not answer.startswith("{ok, "):
            raise RuntimeError(f"{expression}\n{answer}\n{done.stderr.decode(errors='replace')}")
        return answer.removeprefix("{ok, ").removesuffix("}")


@contextmanager
def rabbitmq_server() -> Iterator[Rabbit]:
    """Start a rabbitmq-server with default settings and a redis-server, on free ports of 127.0.0.1; end them by pid."""
    program = str(PROGRAM) if PROGRAM.exists() else shutil.which("rabbitmq-server")
    if program is None:
        raise SystemExit(
            "rabbitmq-server is not installed. Run tools/need-servers, or: sudo apt-get install rabbitmq-server"
        )
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        port, distribution_port, mapper_port = _free_ports(3)
        environment = _environment(folder, port, distribution_port, mapper_port)
        with (folder / "server.log").open("wb") as log:
            for command in (["epmd", "-port", str(mapper_port), "-address", "127.0.0.1"], [program]):
                process = subprocess.Popen(
                    command,
                    cwd=folder,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
                stack.callback(process.wait, 20)
                stack.callback(process.send_signal, signal.SIGKILL)  # nothing of it is kept
        server = Rabbit(port, distribution_port, redis)
        _wait_until_up(server, process, folder)
        yield server


def _environment(folder: Path, port: int, distribution_port: int, mapper_port: int) -> dict[str, str]:
    (folder / "enabled_plugins").write_text("[].\n")
    (folder / "env.conf").touch()
    (folder / "rabbitmq.conf").touch()
    cookie = folder / ".erlang.cookie"
    cookie.write_text("cookie")
    cookie.chmod(0o400)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "peers@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution_port),
        "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
        "RABBITMQ_LOG_BASE": f"{folder}/log",
        "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
        "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
        "RABBITMQ_CONF_ENV_FILE": f"{folder}/env.conf",
        "RUNNING_UNDER_SYSTEMD": "1",  # so that its script becomes the node, and has not one beside it
    }


def _wait_until_up(server: Rabbit, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if server.evaluate("rabbit:is_running().") == "true":
                return
        except RuntimeError:
            pass
        time.sleep(0.1)
    said = (folder / "server.log").read_text(errors="replace")[-2000:]
    raise SystemExit(f"rabbitmq-server did not start (exit code {process.poll()}); it said:\n{said}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def redis_url_from_environment() -> str:
    """Return the URL of the Redis beside it, as client and worker are told it."""
    return os.environ["PEERS_REDIS_URL"]


def queue_type_from_environment() -> str | None:
    """Return the kind of queue that is asked for, None where that is nobody's matter."""
    return os.environ.get(QUEUE_TYPE)
