"""A process's own end of the pipe to its worker: sends without waiting, and ends the process with the worker."""

import os
import select
import signal
import socket
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Any, Final

from aiotask.worker.pipe import FrameReader, framed

_READ_BYTES: Final = 256 * 1024
_LOOK_S: Final = 2.0
"""How often to look whether the worker lives: something that it has forked may hold its end of the pipe open."""
_LEAVE_S: Final = 5.0
"""How long this process may take to end by itself."""


class PipeEnd:
    """Frames in and out. What comes is read by a thread, so that the end of the pipe is seen while a body runs."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._poll = select.poll()  # select() knows no descriptor above 1023
        self._poll.register(self._socket, select.POLLIN)
        self._worker = os.getppid()
        self._received: SimpleQueue[bytes | None] = SimpleQueue()
        self._busy = False
        self._unsent: deque[bytes] = deque()
        self._news = threading.Condition()
        self._sender: threading.Thread | None = None
        self.is_forked = False
        """True in a process that a body has forked off: it is none of the worker's, and says nothing to it."""

    def start(self) -> None:
        """Start to read."""
        threading.Thread(target=self._read, name="aiotask-pipe", daemon=True).start()

    def receive(self) -> bytes | None:
        """Wait for a frame; None when there are no more."""
        return self._received.get()

    def done(self) -> None:
        """Note that nothing runs any more: the end of the pipe lets this process end by itself."""
        self._busy = False

    def send(self, frame: Any) -> None:
        """Send a frame, after all that was sent before. From any thread; never waits for the worker to read.

        At once where there is room, so that it arrives whatever becomes of this process.
        """
        if self.is_forked:
            return
        data = framed(frame)
        with self._news:
            if not self._unsent:
                data = data[self._send_some(data) :]
            if data:
                self._unsent.append(data)
                if self._sender is None:
                    self._sender = threading.Thread(target=self._send_rest, name="aiotask-sender", daemon=True)
                    self._sender.start()
                self._news.notify_all()

    def drain(self) -> None:
        """Wait until everything is sent."""
        with self._news:
            self._news.wait_for(lambda: not self._unsent, _LEAVE_S)

    def leave_to_worker(self) -> None:
        """In a forked process: have no part in the pipe, nor in its locks, which a thread may have held."""
        self.is_forked = True
        self._socket.close()

    def _send_some(self, data: bytes) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # the worker is gone, and we are about to be

    def _send_rest(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._unsent)
                data = self._unsent[0]  # stays until it is sent: what comes now must not overtake it
            try:
                self._socket.sendall(data)
            except OSError:
                return  # as in `_send_some`
            with self._news:
                self._unsent.popleft()
                self._news.notify_all()

    def _read(self) -> None:
        frames = FrameReader()
        while self._is_open():
            try:
                data = self._socket.recv(_READ_BYTES)
            except OSError:
                break
            if not data:
                break
            for frame in frames.feed(data):
                self._busy = True
                self._received.put(frame)
        if self._busy:
            _kill()
        self._received.put(None)
        time.sleep(_LEAVE_S)
        _kill()

    def _is_open(self) -> bool:
        """Wait until there is something to read; False when the worker is gone."""
        while not self._poll.poll(_LOOK_S * 1000):
            if os.getppid() != self._worker:
                return False
        return True


def _kill() -> None:
    """End this process and what it has started: nobody waits for it."""
    os.killpg(0, signal.SIGKILL)
