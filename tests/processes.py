"""Real `aiotask` processes for tests: started, waited for by what they say, and gone when the test is."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PATIENCE_S = 30.0
"""What has not come after this long counts as not coming; far more than it takes on a slow machine."""

READY = r"Worker (\S+) is ready"


class WorkerProcess:
    """A running `aiotask run`. What it writes, to stdout and stderr alike, is in `output`.

    A context manager: whatever is left of it and of its children is killed at the end.
    """

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self._popen = popen
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in (self.pid, *self.children()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def output(self) -> str:
        with self._news:
            return "".join(self._lines)

    def children(self) -> list[int]:
        """Return the processes that it has started and that still run."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def wait_for(self, pattern: str, *, count: int = 1, timeout: float = PATIENCE_S) -> re.Match[str]:
        """Wait until `pattern` is found `count` times in its output; return the last of them."""
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                found = list(re.finditer(pattern, "".join(self._lines), re.MULTILINE))
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = "it ended" if self._ended else f"{timeout:g} s passed"
                    raise AssertionError(f"{why} without {pattern!r}; it said:\n{''.join(self._lines)}")
                self._news.wait(left)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def terminate(self) -> None:
        """Ask it to stop, as a service manager does."""
        self.send(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a chance to say anything."""
        self.send(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Wait until it has ended, and all that holds its output; return its exit code."""
        code = self._popen.wait(timeout)
        self._reader.join(timeout)
        return code

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()


def start_worker(
    target: str,
    *options: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    ready: bool = True,
) -> WorkerProcess:
    """Start `aiotask run TARGET OPTIONS...`.

    Args:
        target: As on the command line.
        *options: As on the command line.
        cwd: The folder that it is started in; the default app directory.
        env: Set in its environment over that of the tests, which says nothing to aiotask.
        ready: True returns when it takes tasks (as many processes as `--processes` says, when that is given).
    """
    worker = WorkerProcess(
        subprocess.Popen(
            command("run", target, *options),
            cwd=cwd,
            env=clean_environment() | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    )
    if ready:
        try:
            worker.wait_for(
                READY, count=int(options[options.index("--processes") + 1]) if "--processes" in options else 1
            )
        except BaseException:
            worker.__exit__(None, None, None)
            raise
    return worker


def run_aiotask(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run an `aiotask` command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=clean_environment() | dict(env or {}),
        input=stdin or "",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "aiotask", *arguments]


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of aiotask's; with it prints come when they are made."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AIOTASK_")}
    return kept | {"PYTHONUNBUFFERED": "1"}
