"""What runs in a process of a worker: one body after the other, for tasks with `offload="process"`.

Started by `worker.processes` with one end of a pipe, and ended by it. The worker alone decides when: a signal that the
terminal or a service manager sends to all processes has no effect here, the end of the pipe ends everything.
"""

import asyncio
import contextvars
import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final

from aiotask.exceptions import Retry
from aiotask.message import Delivery
from aiotask.request import Request, find_current, set_current
from aiotask.task_logging import redirect_stdouts
from aiotask.tasks import Task
from aiotask.wire.errors import format_traceback
from aiotask.wire.payload import read_call
from aiotask.worker import inside
from aiotask.worker.finding import Finder, UnreadyError
from aiotask.worker.pipe import (
    Begun,
    Call,
    Log,
    PackedRetry,
    Raised,
    Reply,
    Returned,
    Setup,
    State,
    Unready,
    decode_call,
    decode_setup,
    pack_error,
    pack_record,
    pack_retry,
    pack_value,
    unpack_value,
)
from aiotask.worker.pipe_end import PipeEnd
from aiotask.worker.tracebacks import retry_traceback, users_traceback

_LEFT_ALONE: Final = (signal.SIGINT, signal.SIGTERM)

CallHandlers = Callable[[Any, logging.LogRecord], None]


def main(descriptor: int) -> None:
    """Run what comes through the pipe, until it ends."""
    inside.enter()
    end = PipeEnd(descriptor)
    for number in _LEFT_ALONE:
        # Not SIG_IGN, which the programs that a body starts would inherit.
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    handle = logging.Logger.callHandlers
    os.register_at_fork(after_in_child=partial(_leave_to_worker, end, handle))
    # Whatever handlers the imported modules install: the worker has the same, and handles the record.
    _handle_records_by(lambda _, record: end.send(Log(_number(), pack_record(record))))
    end.start()
    setup = end.receive()
    if setup is not None:
        Bodies(end, decode_setup(setup)).run()


def _leave_to_worker(end: PipeEnd, handle: CallHandlers) -> None:
    """Make a process that a body forks off what it would be without us."""
    end.leave_to_worker()
    _handle_records_by(handle)
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    for number in _LEFT_ALONE:
        signal.signal(number, signal.SIG_DFL)


def _handle_records_by(handle: CallHandlers) -> None:
    logging.Logger.callHandlers = handle  # type: ignore[method-assign, assignment]


def _number() -> int:
    """Return the number of the call that the calling code belongs to, or 0."""
    request = find_current()
    number = None if request is None else request._execution
    return number if isinstance(number, int) else 0


class Bodies:
    """Runs the bodies of the tasks that are asked for, and answers."""

    def __init__(self, end: PipeEnd, setup: Setup) -> None:
        self._end = end
        self._setup = setup
        self._finder = Finder(setup)
        self._redirection = ExitStack()

    def run(self) -> None:
        """Answer one call after the other, until there are no more."""
        sys.argv = self._setup.argv
        redirect = self._setup.redirect
        if redirect is not None:
            self._redirection.enter_context(redirect_stdouts(logging.getLogger(redirect[0]), redirect[1]))
        while (frame := self._end.receive()) is not None:
            reply = self._answer(decode_call(frame))
            if self._end.is_forked:
                os._exit(0)  # the body has forked, and this is not the process that the worker waits for
            self._end.done()
            self._end.send(reply)
            if isinstance(reply, Unready):
                self._end.drain()
                return

    def _answer(self, call: Call) -> Reply:
        try:
            task = self._finder.find(call)
        except UnreadyError as error:
            cause = error.__cause__
            return Unready(call.number, str(error), None if cause is None else format_traceback(cause))
        return contextvars.copy_context().run(self._run, call, task)

    def _run(self, call: Call, task: Task) -> Reply:
        message = call.message
        delivery = Delivery(message.id, call.queue, b"", message.content_type, call.priority, None, call.delivery_count)
        request = Request(
            message,
            delivery,
            task_object=task,
            hostname=call.hostname,
            report=self._report,
            is_eager=call.is_eager,
            execution=call.number,
        )
        set_current(request)
        self._end.send(Begun(call.number))
        try:
            request.args, request.kwargs = _arguments(call, task)
            value = task.run(*request.args, **request.kwargs)
            if inspect.iscoroutine(value):
                value = asyncio.run(value)  # a plain wrapper around a coroutine function
            return _returned(call, task, request, value)
        except BaseException as exc:  # noqa: BLE001 - SystemExit, too, ends its own message only
            traceback = retry_traceback(exc) if isinstance(exc, Retry) else users_traceback(exc)
            return Raised(call.number, pack_error(exc, traceback), request.children)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):  # closed, or one of the body's own
                    stream.flush()

    def _report(self, number: int, state: str, meta: Any) -> None:
        self._end.send(State(number, state, pack_value(meta, "A state's meta")))


def _arguments(call: Call, task: Task) -> tuple[list[Any], dict[str, Any]]:
    if call.arguments is not None:
        args, kwargs = unpack_value(call.arguments, "An argument")
        return list(args), dict(kwargs)
    conf = task.app.conf
    return task.arguments.arrive(*read_call(call.message, conf.accept_content, conf.message_max_bytes))


def _returned(call: Call, task: Task, request: Request, value: Any) -> Reply:
    retry = request.pending_retry
    if retry is None:
        return Returned(call.number, pack_value(value, f"What {task.name} returns"), request.children, None)
    packed = pack_retry(retry, retry_traceback(retry))
    if not isinstance(packed, PackedRetry):
        return Raised(call.number, packed, request.children)
    return Returned(call.number, pack_value(None, ""), request.children, packed)
