"""Real Redis servers for tests: each on a free port of this machine, in a folder of its own, and gone with the test.

None that the system may run is looked for or used.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import pytest
import redis

PATIENCE_S = 20.0
"""A server that has not answered by then is not coming; far more than it takes on a slow machine."""

PROGRAM = "redis-server"
MISSING = f"{PROGRAM} is not installed. Run tools/need-servers, or: sudo apt-get install {PROGRAM}"


def need_redis() -> None:
    """Skip the test where there is no server program; fail where `CI` says that there has to be one."""
    if shutil.which(PROGRAM) is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)


def free_port() -> int:
    """Return a port that nobody listens on. Another process may take it before it is used: starting tries again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A `redis-server` process. A context manager: it is killed at the end, and by the kernel when the tests are."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        password: str = "",
        tls: bool = False,
        sentinel: bool = False,
    ) -> None:
        """Say what is to be started. Nothing is.

        Args:
            folder: Its working folder, made when it is missing.
            *options: As on its command line: `"--maxmemory", "4mb"`. Nothing is written to disk unless they say so.
            password: Asked for, by `requirepass`.
            tls: Speak TLS only, with the certificate in `folder` (see `certificates`).
            sentinel: Be a Sentinel; its settings are in `sentinel.conf` in `folder`.
        """
        self.folder = folder
        self.password = password
        self.port = 0
        self._options = options
        self._tls = tls
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    # ---- its life ----

    def start(self) -> Self:
        """Start it, and return when it answers. On the port that it had before, if it had one."""
        need_redis()
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + PATIENCE_S
        anywhere = self.port == 0
        while True:
            if anywhere:
                self.port = free_port()
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    [*dying_with_us(), *self._command()],
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            if self._wait_until_it_answers(deadline):
                return self
            if time.monotonic() >= deadline or "in use" not in self.log or not anywhere:
                self.kill9()
                raise AssertionError(f"{PROGRAM} did not start; it said:\n{self.log}")

    def stop(self) -> None:
        """Ask it to end, as a service manager does, and wait."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End it without a chance to write or say anything."""
        self._end(signal.SIGKILL)

    def restart(self, *, keep: bool = True) -> None:
        """Start it again on the same port; kill it first when it runs.

        Args:
            keep: False forgets what it has written to disk.
        """
        self.kill9()
        if not keep:
            for path in self.folder.glob("*.rdb"):
                path.unlink()
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)
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
        self.kill9()

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

    @property
    def socket_path(self) -> Path:
        """Its Unix socket."""
        return self.folder / "redis.sock"

    def url(self, db: int = 0, *, port: int | None = None, **parameters: str) -> str:
        """Return its URL.

        Args:
            db: The database.
            port: Another one, of a proxy in front of it.
            **parameters: After the `?`.
        """
        user = f":{quote(self.password, safe='')}@" if self.password else ""
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in parameters.items())
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}://{user}127.0.0.1:{port or self.port}/{db}" + (f"?{query}" if query else "")

    def call(self, *words: str | bytes | float, db: int = 0) -> Any:
        """Send it a command, past all that is tested, and return the reply."""
        with self.client(db) as client:
            return client.execute_command(*words)

    @contextlib.contextmanager
    def client(self, db: int = 0) -> Iterator["redis.Redis"]:
        """A plain client of redis-py's, closed at the end."""
        tls: dict[str, Any] = {"ssl_ca_certs": str(self.folder / "ca.crt")} if self._tls else {}
        client = redis.Redis.from_url(self.url(db), socket_timeout=PATIENCE_S, protocol=2, **tls)
        try:
            yield client
        finally:
            client.close()

    # ---- inside ----

    def _command(self) -> list[str]:
        port = ["--tls-port", str(self.port), "--port", "0"] if self._tls else ["--port", str(self.port)]
        if self._sentinel:
            return [PROGRAM, "sentinel.conf", "--sentinel", *port, "--bind", "127.0.0.1", *self._options]
        files = {"--tls-cert-file": "server.crt", "--tls-key-file": "server.key", "--tls-ca-cert-file": "ca.crt"}
        certificate = ["--tls-auth-clients", "no", *(word for pair in files.items() for word in pair)]
        quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--unixsocket", "redis.sock"]
        quiet += ["--repl-diskless-sync-delay", "0"]  # 5 s by default, in which a replica waits for others to come
        password = ["--requirepass", self.password] if self.password else []
        return [PROGRAM, *port, *quiet, *(certificate if self._tls else []), *password, *self._options]

    def _wait_until_it_answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline and self.running:
            try:
                self.call("PING")
            except redis.exceptions.AuthenticationError:
                return True
            except redis.exceptions.ConnectionError:  # not there yet, or loading
                time.sleep(0.01)
            else:
                return True
        return False

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)  # a frozen one ends only when it goes on
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE_S)
        self._process = None


def dying_with_us() -> list[str]:
    """Return the words before a command that let the kernel kill it with the process that started it."""
    program = shutil.which("setpriv")
    return [program, "--pdeathsig", "KILL"] if program else []


def certificates(folder: Path) -> Path:
    """Make a certificate for 127.0.0.1 and localhost that signs itself; return the file that vouches for it."""
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate, authority = folder / "server.key", folder / "server.crt", folder / "ca.crt"
    what = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        ["openssl", "req", *what.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    authority.write_bytes(certificate.read_bytes())
    return authority
