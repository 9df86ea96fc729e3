"""Commands over a SQLite file: a node that answers, and the asking. Both are told of changes by the storage thread."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from aiotask.brokers.sqlite import questions
from aiotask.connections.sqlite.database import FileRefused
from aiotask.connections.sqlite.link import SqliteLink
from aiotask.connections.sqlite.storage import LinkClosed
from aiotask.protocols import Answering
from aiotask.wire.commands import carry_out, pack, unpack

LISTEN_S: Final = 0.25
"""A node looks for questions so often at most: while it is busy, its own commits would have it look at each."""

_log = logging.getLogger(__name__)


class Listener:
    """A node that answers while its context is open. Whatever goes wrong with it, the worker goes on without."""

    def __init__(self, link: SqliteLink, node: str, commands: Mapping[str, Answering]) -> None:
        """Take what is answered; nothing is done yet.

        Args:
            link: Open for as long as this is.
            node: The worker's name; several workers may have one.
            commands: By their names.
        """
        self._link = link
        self._node = node
        self._commands = commands
        self._listener = f"{node}#{os.urandom(4).hex()}"
        self._heard: int | None = None
        self.loop: asyncio.AbstractEventLoop

    async def __aenter__(self) -> None:
        """Begin to listen."""
        self.loop = asyncio.get_running_loop()
        try:
            self._link.add_chore(self._keep)
            self._link.observe(self, every_s=LISTEN_S)
            await self._link.run(self._keep, durable=False)
        except (sqlite3.Error, FileRefused, LinkClosed) as error:
            _log.warning("%s can't be told that %s listens, trying again later: %s", self._link.path, self._node, error)

    async def __aexit__(self, *_: object) -> None:
        """Listen no more. That this is told in the file is not waited for: somebody may have locked it."""
        self._link.unobserve(self)
        self._link.remove_chore(self._keep)
        with suppress(LinkClosed):
            leaving = self._link.run(partial(questions.leave, listener=self._listener), durable=False)
            leaving.add_done_callback(_see)

    def _keep(self, connection: sqlite3.Connection) -> bool:
        """Let it be known, for a while, that it listens. A step, and a chore of the storage thread."""
        last = questions.listen(connection, self._listener, self._node)
        if self._heard is None or last < self._heard:  # lower: it is another file by now
            self._heard = last
        return False

    def look(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        """Read what is asked; in the storage thread."""
        asked = [] if self._heard is None else questions.new(connection, self._node, self._heard)
        if not asked:
            return None
        self._heard = asked[-1].number
        return partial(self._answer, asked)

    def _answer(self, asked: Sequence[questions.Question]) -> None:
        answers = [(question.number, carry_out(self._commands, *question[1:])) for question in asked]
        step = partial(questions.answer, listener=self._listener, node=self._node, answers=answers)
        with suppress(LinkClosed):
            self._link.run(step, durable=False).add_done_callback(self._note)

    def _note(self, answered: "asyncio.Future[None]") -> None:
        error = None if answered.cancelled() else answered.exception()
        if error is not None:
            _log.warning("An answer of %s can't be written to %s: %s", self._node, self._link.path, error)


class _Asking:
    """Somebody who waits for answers, as an observer of the link."""

    def __init__(self, asked: questions.Asked) -> None:
        self.loop = asyncio.get_running_loop()
        self.answered = asyncio.Event()
        self._asked = asked

    def look(self, connection: sqlite3.Connection) -> Callable[[], None] | None:
        return self.answered.set if questions.is_answered(connection, self._asked) else None


async def ask(
    link: SqliteLink, command: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, timeout: float
) -> dict[str, Any]:
    """Ask, and wait until all that are known to listen have answered, at most `timeout` seconds."""
    step = partial(questions.ask, command=command, arguments=pack(arguments), destination=destination, seconds=timeout)
    asked = await link.run(step, durable=False, undo=partial(_drop, link))
    asking = _Asking(asked)
    link.observe(asking)
    try:
        if not await link.run(partial(questions.is_answered, asked=asked), writes=False):
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await asking.answered.wait()
    finally:
        link.unobserve(asking)
        ended = _end(link, asked)
    return {node: unpack(answer) for node, answer in (await asyncio.shield(ended)).items()}


def _drop(link: SqliteLink, asked: questions.Asked) -> None:
    with suppress(LinkClosed):
        _end(link, asked)


def _end(link: SqliteLink, asked: questions.Asked) -> "asyncio.Future[dict[str, bytes]]":
    """Remove a question, also when its asker is cancelled; where that fails, it is removed with the next."""
    ended = link.run(partial(questions.end, number=asked.number), durable=False)
    ended.add_done_callback(_see)
    return ended


def _see(ended: "asyncio.Future[Any]") -> None:
    if not ended.cancelled():
        ended.exception()
