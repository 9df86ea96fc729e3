"""The one Redis server that all are measured on, and a client for it that needs no library."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Server:
    """A plain connection for what the observer asks: one command, one reply. Usable in every environment."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._reader = self._socket.makefile("rb")
        self.asked = 0
        """Commands that this connection has sent: they are taken off what the server counts."""

    def call(self, *words: str | int) -> Any:
        """Send a command and return its reply; text as `str`."""
        self.asked += 1
        parts = [str(word).encode() for word in words]
        packed = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)
        self._socket.sendall(b"*%d\r\n%s" % (len(parts), packed))
        return self._read()

    @classmethod
    def at(cls, place: str) -> "Server":
        """Return a connection to the server that another process has started, by its `place` there."""
        return cls(int(place))

    @property
    def place(self) -> str:
        return str(self.port)

    @property
    def environment(self) -> dict[str, str]:
        """What client and worker are told."""
        return {"PEERS_URL": self.url}

    def version(self) -> str:
        """Return what runs here."""
        return f"Redis {self.info('server')['redis_version']}"

    def renew(self) -> None:
        """Begin anew: an empty server."""
        self.call("FLUSHALL")

    def info(self, section: str) -> dict[str, str]:
        """Return one section of `INFO`."""
        lines = str(self.call("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def keys(self, pattern: str) -> int:
        """Count the keys that match. It goes through all of them: not while something is measured."""
        return len(self.call("KEYS", pattern))

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _read(self) -> Any:
        line = self._reader.readline()[:-2]
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._reader.read(int(rest) + 2)[:-2].decode(errors="replace")
        if kind == b"*":
            return [self._read() for _ in range(int(rest))]
        raise RuntimeError(f"Redis answered {line!r}")


@contextmanager
def redis_server() -> Iterator[Server]:
    """Start a redis-server with default settings but no persistence, on a free port of 127.0.0.1; end it by its pid."""
    program = shutil.which("redis-server")
    if program is None:
        raise SystemExit("redis-server is not installed. Run tools/need-servers, or: sudo apt-get install redis-server")
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
        try:
            yield _connected(port, process)
        finally:
            process.terminate()
            process.wait(20)


def _connected(port: int, process: "subprocess.Popen[bytes]") -> Server:
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return Server(port)
        except OSError:
            time.sleep(0.02)
    raise SystemExit(f"redis-server did not start on port {port} (exit code {process.poll()}).")


def url_from_environment() -> str:
    """Return the server's URL as client and worker are told it."""
    return os.environ["PEERS_URL"]
