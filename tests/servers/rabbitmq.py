"""Real RabbitMQ servers for tests: each on free ports of this machine, in a folder of its own, and gone with the test.

None that the system may run is looked for or used. Each has a port mapper (epmd) of its own, and is told what to do by
`erl_call`, which takes milliseconds where `rabbitmqctl` takes seconds.
"""

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import pytest
from tests.servers.redis import dying_with_us, free_port

PATIENCE_S = 60.0
"""A server that is not up by then is not coming; it takes 6 s on a machine that has nothing else to do."""

LOOK_S = 3.0
"""A node that is asked while it starts does not always answer: it is asked again."""

PACKAGE = "rabbitmq-server"
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's own is a wrapper that insists on the system's folders and on its user; this is the server's."""

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 1 << 30
"""A file system in memory, and what has to be free there: to make a queue waits for the disk several times."""

MISSING = f"{PACKAGE} is not installed. Run tools/need-servers, or: sudo apt-get install {PACKAGE}"
USER = "guest"


def program() -> str | None:
    """Return the program that starts a server, None where there is none."""
    return str(PROGRAM) if PROGRAM.exists() else shutil.which(PACKAGE)


def need_rabbitmq() -> None:
    """Skip the test where there is no server program; fail where `CI` says that there has to be one."""
    if program() is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)


def data_folder(otherwise: Path) -> Path:
    """Return a folder for what a server writes: in memory, where there is room, under the name of this process.

    Those of processes that were killed are deleted.
    """
    for left in MEMORY.glob("aiotask-rabbitmq-*"):
        if not Path(f"/proc/{left.name.split('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_BYTES:
        return otherwise
    return Path(tempfile.mkdtemp(prefix=f"aiotask-rabbitmq-{os.getpid()}-", dir=MEMORY))


class RabbitServer:
    """A RabbitMQ node. A context manager: it is killed at the end, and by the kernel when the tests are."""

    def __init__(self, folder: Path, *settings: str, tls: bool = False) -> None:
        """Say what is to be started. Nothing is.

        Args:
            folder: Its working folder, made when it is missing.
            *settings: Lines of its `rabbitmq.conf`.
            tls: Speak TLS on a second port, with `server.crt`, `server.key` and `ca.crt` in `folder`.
        """
        self.folder = folder
        self.port = 0
        self.tls_port = 0
        self._tls = tls
        self._distribution_port = 0
        self._mapper_port = 0
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._mapper: subprocess.Popen[bytes] | None = None
        self._data: Path | None = None
        self._vhosts = 0

    # ---- its life ----

    def start(self) -> Self:
        """Start it, and return when it takes connections. On the ports that it had before, if it had some."""
        need_rabbitmq()
        if self._data is None:
            self._data = data_folder(self.folder)
        deadline = time.monotonic() + PATIENCE_S
        anywhere = self.port == 0
        while True:
            if anywhere:
                self.port, self._distribution_port, self._mapper_port = free_port(), free_port(), free_port()
                self.tls_port = free_port()
            self._write_files()
            mapper = ["epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1"]
            with self.log_path.open("ab") as log:
                self._mapper = self._started(mapper, log.fileno())
                self._process = self._started([program() or PACKAGE], log.fileno())
            if self._wait_until_it_is_up(deadline):
                return self
            self.kill9()
            if time.monotonic() >= deadline or "eaddrinuse" not in self.log or not anywhere:
                raise AssertionError(f"{PACKAGE} did not start; it said:\n{self.log}")

    def stop(self) -> None:
        """Ask it to end, as a service manager does, and wait."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End it without a chance to write or say anything."""
        self._end(signal.SIGKILL)

    def restart(self, *, keep: bool = True) -> None:
        """Start it again on the same ports; kill it first when it runs.

        Args:
            keep: False forgets what it has written to disk.
        """
        self.kill9()
        if not keep:
            self._forget()
        self.start()

    def sigstop(self) -> None:
        """Freeze it: it keeps its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def sigcont(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start() if self._process is None else self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill it, and forget what it has written."""
        self.kill9()
        self._forget()

    # ---- what it is ----

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        return self.folder / "server.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def url(
        self, vhost: str = "/", *, user: str = USER, password: str = USER, port: int | None = None, **parameters: str
    ) -> str:
        """Return its URL.

        Args:
            vhost: The virtual host.
            user: Who connects.
            password: Theirs.
            port: Another one, of a proxy in front of it.
            **parameters: After the `?`.
        """
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        who = f"{quote(user, safe='')}:{quote(password, safe='')}"
        where = f"127.0.0.1:{port or self.port}/{quote(vhost, safe='')}"
        return f"amqp://{who}@{where}" + (f"?{query}" if query else "")

    # ---- what it is told ----

    def evaluate(self, expression: str, patience: float = PATIENCE_S) -> str:
        """Return what an Erlang expression, with a full stop at its end, comes to on the node."""
        for _ in range(3):  # it gives its connection up at once when the node is busy
            done = subprocess.run(
                ["erl_call", "-address", f"localhost:{self._distribution_port}", "-c", "cookie", "-r", "-e"],
                input=f"{expression}\n".encode(),
                capture_output=True,
                timeout=patience,
                check=False,
            )
            if b"failed to connect" not in done.stderr:
                break
        answer = done.stdout.decode(errors="replace")
        assert answer.startswith("{ok, "), f"{expression}\n{answer}\n{done.stderr.decode(errors='replace')}"
        return answer.removeprefix("{ok, ").removesuffix("}")

    def make_vhost(self) -> str:
        """Make a virtual host that nobody else uses, and return its name."""
        self._vhosts += 1
        name = f"test-{os.getpid()}-{self._vhosts}"
        self.evaluate(f'ok = rabbit_vhost:add(<<"{name}">>, <<"test">>), {_permitting(name, USER, ".*")}.')
        return name

    def drop_vhost(self, name: str) -> None:
        """Delete a virtual host and all that is in it."""
        self.evaluate(f'rabbit_vhost:delete(<<"{name}">>, <<"test">>).')

    def allow(self, vhost: str, *, user: str = USER, allowed: str = ".*") -> None:
        """Say what a user may do in a virtual host: to what names the regular expression fits."""
        self.evaluate(f"{_permitting(vhost, user, allowed)}.")

    def set_memory_alarm(self, *, on: bool) -> None:
        """Let it have no memory left for publishers, or have it again; each connection has heard when this returns."""
        self.evaluate(f"vm_memory_monitor:set_vm_memory_high_watermark({'0.000001' if on else '0.8'}).")
        before = "[running]" if on else "[blocking, blocked]"
        self.evaluate(
            "Wait = fun Again(0) -> timeout; Again(Left) -> "
            "States = [catch rabbit_reader:info(P, [state]) || P <- rabbit_networking:connections()], "
            f"case [S || [{{state, S}}] <- States, lists:member(S, {before})] of "
            "[] -> ok; _ -> timer:sleep(20), Again(Left - 1) end end, ok = Wait(500)."
        )

    def close_connections(self) -> None:
        """Close every client's connection, as its operator can."""
        self.evaluate('[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].')

    def wait_until_queues_last(self) -> None:
        """Wait until the quorum queues and streams that there are would survive a kill.

        The server notes in a file which quorum queues there are half a second after the last was made. Of one that is
        not there it has lost all that it has confirmed when it is killed, and the queue never gets a leader again
        (3.10.8). In another file it notes that there are streams, once for all of them, and loses what is not noted.
        """
        names = self.evaluate(
            "string:join([atom_to_list(element(1, amqqueue:get_pid(Q))) || Q <- rabbit_amqqueue:list(), "
            'amqqueue:get_type(Q) =:= rabbit_quorum_queue], "\n").'
        )
        streams = self.evaluate("whereis(rabbit_stream_coordinator).") != "undefined"
        self._wait_until_noted("quorum", names.strip('"[]').split("\\n"))
        if streams:
            self._wait_until_noted("coordination", ["rabbit_stream_coordinator"])

    def _wait_until_noted(self, system: str, names: list[str]) -> None:
        assert self._data is not None, "it was not started"
        file = self._data / "mnesia/rabbit@localhost" / system / "rabbit@localhost/names.dets"
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            noted = file.read_bytes()
            missing = [name for name in names if name.encode() not in noted]
            if not missing and time.time() - file.stat().st_mtime > 1.0:
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {PATIENCE_S:g} s: the server has noted its queues; missing {missing}")

    def queues(self, vhost: str) -> list[str]:
        """Return the names of the queues of a virtual host, sorted."""
        names = self.evaluate(
            f"string:join(lists:sort([binary_to_list(element(4, amqqueue:get_name(Q))) || Q <- "
            f'rabbit_amqqueue:list(<<"{vhost}">>)]), "\\n").'
        )
        return names.strip('"').split("\\n") if names not in {"[]", '""'} else []

    # ---- inside ----

    def _forget(self) -> None:
        if self._data is not None:
            shutil.rmtree(self._data / "mnesia", ignore_errors=True)
            if self._data != self.folder:
                shutil.rmtree(self._data, ignore_errors=True)
            self._data = None

    def _write_files(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").touch()
        lines = ["vm_memory_high_watermark.relative = 0.8", "disk_free_limit.absolute = 1MB", *self._settings]
        if self._tls:
            files = {"cacertfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
            lines += [f"ssl_options.{option} = {self.folder / name}" for option, name in files.items()]
            lines.append(f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}")
        (self.folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        cookie = self.folder / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text("cookie")
            cookie.chmod(0o400)

    def _started(self, command: list[str], log: int) -> "subprocess.Popen[bytes]":
        folder = str(self.folder)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))},
            "HOME": folder,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": "rabbit@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{self._data}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/env.conf",
            "RUNNING_UNDER_SYSTEMD": "1",  # so that its script becomes the node, and has not one beside it
        }
        return subprocess.Popen(
            [*dying_with_us(), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def _wait_until_it_is_up(self, deadline: float) -> bool:
        while time.monotonic() < deadline and self.running:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                if self.evaluate("rabbit:is_running().", LOOK_S) == "true":
                    return True
            time.sleep(0.05)
        return False

    def _end(self, number: signal.Signals) -> None:
        for process, how in ((self._process, number), (self._mapper, signal.SIGKILL)):
            if process is None:
                continue
            process.send_signal(how)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)  # a frozen one ends only when it goes on
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)
        self._process = self._mapper = None


def _permitting(vhost: str, user: str, allowed: str) -> str:
    pattern = f'<<"{allowed}">>'
    return (
        f'ok = rabbit_auth_backend_internal:set_permissions(<<"{user}">>, <<"{vhost}">>, '
        f'{pattern}, {pattern}, {pattern}, <<"test">>)'
    )


@functools.cache
def server_of_this_process() -> RabbitServer:
    """Return a server that all tests of this process share, since it takes seconds to start; gone with the process."""
    need_rabbitmq()
    folder = Path(tempfile.mkdtemp(prefix="aiotask-rabbitmq-"))
    server = RabbitServer(folder).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.end)
    return server


@contextlib.contextmanager
def vhost_of(server: RabbitServer) -> Iterator[str]:
    """A virtual host of the server, which is gone at the end."""
    name = server.make_vhost()
    try:
        yield name
    finally:
        if server.running:
            server.drop_vhost(name)
