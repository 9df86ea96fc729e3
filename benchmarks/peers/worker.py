"""A worker process as a user starts it."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.peers import processes
from benchmarks.peers.bodies import read_start
from benchmarks.peers.protocol import Peer

ROOT = Path(__file__).parents[2]


class Worker:
    """The started process, in a group of its own with its children."""

    def __init__(self, process: "subprocess.Popen[bytes]", started: Path, log: Path) -> None:
        self._process = process
        self._started = started
        self._log = log

    @property
    def first_start(self) -> float | None:
        """When the first body started, by the monotonic clock."""
        return read_start(self._started)

    def check(self) -> None:
        """Raise when it has ended."""
        if self._process.poll() is not None:
            log = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the worker ended with exit code {self._process.returncode}:\n{log}")

    def processes(self) -> list[int]:
        """Return its pid and those of its children."""
        return processes.belonging(processes.GROUP, self._process.pid)

    def end(self) -> None:
        """Ask it to end, as a service manager does; kill what is left of its group."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        processes.kill(self.processes())
        self._process.wait(10)


@contextlib.contextmanager
def running(peer: Peer) -> Iterator[Worker]:
    """Start the worker of `peer`; end it with the block."""
    program, *arguments = peer.worker()
    with tempfile.TemporaryDirectory() as folder:
        started, log = Path(folder, "started"), Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / program), *arguments],
                cwd=ROOT,
                env={**os.environ, "PEERS_STARTED": str(started), "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        worker = Worker(process, started, log)
        try:
            yield worker
        finally:
            worker.end()
