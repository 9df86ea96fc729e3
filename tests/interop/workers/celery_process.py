"""Celery's worker as a process of its own, which runs the tasks of `celery_side.py`."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from tests.interop.workers.shared_queue import QUEUE

CELERY_SIDE = Path(__file__).parents[1]  # the folder that Celery's programs find `celery_side` in


class CeleryWorker:
    """A worker process of Celery's, gone with the test."""

    def __init__(self, broker: str, backend: str) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_side", "worker", "-Q", QUEUE),
                *("--pool", "threads", "-c", "4", "--without-gossip", "--without-mingle", "-l", "INFO"),
            ],
            cwd=CELERY_SIDE,
            env={**os.environ, "BROKER": broker, "BACKEND": backend},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with self._popen.stdout as stream:
            for line in stream:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()

    def wait_for(self, text: str) -> None:
        with self._news:
            found = self._news.wait_for(lambda: any(text in line for line in self.lines), timeout=60)
            assert found, f"no {text!r}; it said:\n{''.join(self.lines)}"

    def end(self) -> None:
        self._popen.kill()
        self._popen.wait(10)
        self._reader.join(10)
