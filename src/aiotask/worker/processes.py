"""The processes of a worker: made on demand, each runs one body at a time and is used again. Called by `offloading`.

Each is a Python interpreter of its own at the other end of a socket pair. multiprocessing's would bring along a process
that tracks semaphores, and could not be awaited; forking would copy the locks of threads that the copy does not have.
"""

import asyncio
import contextvars
import logging
import os
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from aiotask.worker.pipe import (
    Begun,
    Call,
    FrameReader,
    Log,
    News,
    Reply,
    Setup,
    State,
    Unready,
    decode_news,
    framed,
    unpack_record,
)

logger = logging.getLogger("aiotask.worker")

_READ_BYTES: Final = 256 * 1024
_LOOK_S: Final = 0.005
"""How soon to look again whether a process that has closed its pipe has ended; it takes microseconds."""
_END_S: Final = 1.0
"""How long a process that has nothing to do may take to end."""
_KILLED_S: Final = 10.0
"""How long a killed process may take to end; only one that the kernel can't stop takes longer."""

_CLOSED: Final = "was not started: the worker has ended"

OnState = Callable[[str, Any], None]


class ProcessLost(Exception):  # noqa: N818 - the field's name
    """The process ended before it had answered; says how. The body may have run in part."""


class _NotStartedError(Exception):
    """The process ended before it had started the body: another one may."""


class _Running:
    """A call that a process has been given."""

    def __init__(self, number: int, on_state: OnState, future: "asyncio.Future[Reply]") -> None:
        self.number = number
        self.on_state = on_state
        self.future = future
        self.context = contextvars.copy_context()
        self.has_begun = False


class Child:
    """One process, and our end of its pipe."""

    def __init__(self, setup: Setup, hostname: str, reaped: Callable[["Child"], None]) -> None:
        """Start a process.

        Args:
            setup: What it has to know.
            hostname: Seen in the list of processes.
            reaped: Told when it has ended for good.

        Raises:
            OSError: The system has no room for another.

        Cost: about 2 ms, in which the loop stands still.
        """
        self._loop = asyncio.get_running_loop()
        self._reaped = reaped
        self._frames = FrameReader()
        self._call: _Running | None = None
        self._unsent = memoryview(b"")
        self._greeting = framed(setup)
        self._has_answered = False
        self._kill_at = 0.0
        self.ended: asyncio.Future[int] = self._loop.create_future()
        """Its exit code, negative for a signal."""
        self.is_usable = True
        """False once its pipe is closed."""
        self._socket, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and code of ours
                    _command(theirs.fileno(), hostname),
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    # A group of its own: a Ctrl-C of the terminal is for the worker, and it is killed with what it has
                    # started.
                    start_new_session=True,
                )
            except BaseException:
                self._socket.close()
                raise
        self._socket.setblocking(False)
        # Not in the context of the call that happens to need a new process.
        contextvars.Context().run(self._loop.add_reader, self._socket, self._read)

    async def run(self, call: Call, on_state: OnState) -> Reply:
        """Run one call; cancelled, the process is killed.

        Raises:
            ProcessLost: It has ended.
            _NotStartedError: It ended after other calls, and before this one was started.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._call = _Running(call.number, on_state, future)
        self._send(self._greeting + framed(call))
        self._greeting = b""
        try:
            reply = await future
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            self._call = None
        self._has_answered = True
        if isinstance(reply, Unready):
            self.end()  # it ends by itself: what it could not import may be there for the next one
        return reply

    def end(self) -> None:
        """Let it end; killed when it runs something or does not end soon."""
        if self._call is not None:
            self.kill()
        else:
            self._hang_up(_END_S)

    def kill(self) -> None:
        """Kill it and what it has started."""
        self._signal()
        self._hang_up(0.0)

    def abandon(self) -> None:
        """Kill it when its loop may be gone, from whatever thread."""
        self._signal()
        if not self._loop.is_running():
            if not self._loop.is_closed():
                self._loop.remove_reader(self._socket)
            self._socket.close()
            self._process.wait()

    # Sending

    def _send(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.kill()  # it has ended already
            return
        if sent < len(data):
            self._unsent = memoryview(data)[sent:]
            contextvars.Context().run(self._loop.add_writer, self._socket, self._send_rest)

    def _send_rest(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            self._unsent = memoryview(b"")  # it has ended, and the reader is about to see that
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    # Reading

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.kill()  # it has ended, or is good for nothing; what it has started ends with it
            return
        try:
            for frame in self._frames.feed(data):
                self._take(decode_news(frame))
        except msgspec.MsgspecError as error:
            logger.error("A process for offload='process' (pid %d) has sent nonsense: %s", self._process.pid, error)
            self.kill()

    def _take(self, news: News) -> None:
        """Take what the process says; each on its own, so that an error of a log handler costs nothing else."""
        call = self._call if self._call is not None and self._call.number == news.number else None
        if isinstance(news, Log):
            context = contextvars.Context() if call is None else call.context
            self._loop.call_soon(_handle, news.record, context=context)
        elif call is None:
            return  # what a body has left running has nothing to say any more
        elif isinstance(news, Begun):
            call.has_begun = True
        elif isinstance(news, State):
            self._loop.call_soon(call.on_state, news.state, news.meta)
        elif not call.future.done():
            call.future.set_result(news)

    # Ending

    def _hang_up(self, grace: float) -> None:
        if not self.is_usable:
            return
        self.is_usable = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._kill_at = self._loop.time() + grace
        self._reap()

    def _reap(self) -> None:
        code = self._process.poll()
        if code is None:
            if self._loop.time() >= self._kill_at:
                self._signal()
            self._loop.call_later(_LOOK_S, self._reap)
            return
        self._reaped(self)
        self.ended.set_result(code)
        call = self._call
        if call is not None and not call.future.done():
            # One that has never answered may have been ended by what it imports, and so would the next.
            unharmed = self._has_answered and not call.has_begun
            call.future.set_exception(_NotStartedError() if unharmed else ProcessLost(_how(code)))

    def _signal(self) -> None:
        if self._process.returncode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


class ProcessPool:
    """At most so many processes, used again. A call that finds none waits, in the order of the calls."""

    def __init__(self, size: int, hostname: str, setup: Callable[[], Setup]) -> None:
        """Allow `size` processes; none is made yet. Each is told what `setup` returns at that time."""
        self._size = size
        self._hostname = hostname
        self._setup = setup
        self._loop = asyncio.get_running_loop()
        self._idle: list[Child] = []
        self._waiting: deque[asyncio.Future[Child]] = deque()
        self._children: set[Child] = set()
        """All that have not ended for good."""
        self._numbers = 0
        self._closed = False
        # For a loop that is dropped with a pool that nobody has closed, and for the interpreter's end.
        self._last_resort = weakref.finalize(self, _abandon, self._children)

    async def run(self, call: Call, on_state: OnState) -> Reply:
        """Run a call in a process.

        Args:
            call: Gets its number.
            on_state: Takes each state that the body reports, and its meta, pickled.

        Raises:
            ProcessLost: The process ended before it had answered, or none could be started.
        """
        self._numbers += 1
        call.number = self._numbers
        while True:
            child = await self._take()
            try:
                return await child.run(call, on_state)
            except _NotStartedError:
                continue
            finally:
                self._give(child)

    async def close(self) -> None:
        """End all processes, and wait until they have."""
        self._last_resort.detach()
        self._closed = True
        if self._loop is not asyncio.get_running_loop():
            _abandon(self._children)
            return
        for turn in self._waiting:
            if not turn.done():
                turn.set_exception(ProcessLost(_CLOSED))
        ending = [child.ended for child in self._children]
        for child in tuple(self._children):
            child.end()
        if ending and (await asyncio.wait(ending, timeout=_KILLED_S))[1]:
            logger.error("%d processes for offload='process' were killed and have not ended", len(self._children))

    async def _take(self) -> Child:
        if self._closed:
            raise ProcessLost(_CLOSED)
        while self._idle:
            child = self._idle.pop()
            if child.is_usable:
                return child
        if sum(child.is_usable for child in self._children) < self._size:
            return self._start()
        turn: asyncio.Future[Child] = self._loop.create_future()
        self._waiting.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give(turn.result())
            raise

    def _give(self, child: Child) -> None:
        """Let the next one have a process: this one, or another in its place."""
        while self._waiting:
            turn = self._waiting.popleft()
            if turn.done():
                continue
            try:
                turn.set_result(child if child.is_usable else self._start())
            except Exception as error:  # noqa: BLE001 - it is for the one whose turn it is
                turn.set_exception(error)
                continue
            return
        if child.is_usable:
            self._idle.append(child)

    def _start(self) -> Child:
        setup = self._setup()
        try:
            child = Child(setup, self._hostname, self._children.discard)
        except OSError as error:
            raise ProcessLost(f"could not be started: {error}") from error
        self._children.add(child)
        return child


def _abandon(children: set[Child]) -> None:
    for child in tuple(children):
        child.abandon()
    children.clear()


def _command(descriptor: int, hostname: str) -> list[str]:
    """Return the command of a process, which finds the modules where this one does; the rest it is told."""
    paths = [str(path) for path in sys.path]
    code = f"import sys; sys.path[:] = {paths!a}; from aiotask.worker.child import main; main({descriptor})"
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-c", code, f"aiotask process of {hostname}"]


def _handle(packed: bytes) -> None:
    """Handle a log record as if it were made here."""
    try:
        record = unpack_record(packed)
    except Exception as error:  # noqa: BLE001 - what came as `extra` may be anything
        logger.warning("A log record of a process for offload='process' can't be read: %r", error)
        return
    target = logging.getLogger(record.name)
    if target.isEnabledFor(record.levelno):
        target.handle(record)


def _how(code: int) -> str:
    """Return what is said of an exit code."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "no name"
    hint = ", as when there is no memory left" if -code == signal.SIGKILL else ""
    return f"was ended by signal {-code} ({name}){hint}"
