"""Follows results: one listening connection for all that an event loop watches, and a hub that hands out the news.

What is published is taken as it is when it is final, since nothing replaces that. Anything else that is published is
a hint to read: two connections have no common order, and a reader that follows one of them only sees none turned round.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import islice
from types import TracebackType
from typing import Final

from aiotask.connections.redis import Listener, RedisLink
from aiotask.connections.redis.rows import is_final
from aiotask.exceptions import BackendConnectionError, BackendError
from aiotask.outcome import TaskMeta
from aiotask.results.redis.reading import ERRORS, decode_row, read_rows

LOOK_EVERY_S: Final = 5.0
"""With jitter. What is published may be missed without a word: results are never waited for by listening alone."""
LEAVE_AT_ONCE: Final = 100
"""So many channels that nobody follows any more are left together: each costs the server as much as one that is."""
READ_ALONG: Final = 10
"""So many new ones are read by the connection that listens, in one write with the subscription. More may be too long:
servers cut a connection that listens and has 32 MB to read (`client-output-buffer-limit`)."""
READ_AT_ONCE: Final = 500
"""Rows may be long; so many are read between what others ask of the same connection."""

_log = logging.getLogger(__name__)


class Watch(AbstractAsyncContextManager[AsyncIterator[TaskMeta]], AsyncIterator[TaskMeta]):
    """One reader's rows that it has not seen: of each key the last one only, so a slow reader costs no memory."""

    def __init__(self, hub: "Callable[[], Hub]", keys: Sequence[str]) -> None:
        """Take what to watch. No I/O.

        Args:
            hub: Returns the running loop's hub, when watching begins.
            keys: Where the rows lie.
        """
        self.keys = tuple(dict.fromkeys(keys))
        self.begun = False
        """True once the server has been asked, or has said something."""
        self._find_hub = hub
        self._hub: Hub | None = None
        self._unread: dict[str, bytes] = {}
        self._order: deque[str] = deque()
        self._read: dict[str, bytes] = {}
        self._waiter: asyncio.Future[None] | None = None
        self._failure: BackendError | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncIterator[TaskMeta]:
        self._hub = self._find_hub()
        self._hub.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        if self._hub is not None:
            self._hub.remove(self)
        self._wake()

    def push(self, key: str, row: bytes) -> None:
        """Take what is stored by now."""
        if row == self._unread.get(key, self._read.get(key)):
            return
        if key not in self._unread:
            self._order.append(key)
        self._unread[key] = row
        self._wake()

    def fail(self, failure: BackendError) -> None:
        """End the iteration with an error, once what came before is read."""
        self._failure = failure
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __anext__(self) -> TaskMeta:
        while not self._closed and self._hub is not None:
            while self._order:
                key = self._order.popleft()
                row = self._unread.pop(key)
                if self._read.get(key) != row:  # it has changed and changed back meanwhile
                    self._read[key] = row
                    return self._hub.decode(key, row)
            if self._failure is not None:
                raise type(self._failure)(str(self._failure)) from self._failure
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        raise StopAsyncIteration


class Hub:
    """All watches of one event loop: each key is subscribed and read once for all of them.

    A key that somebody watches is in `_new`, `_joining` or `_heard`: to be subscribed, being subscribed, subscribed.
    Nobody watches those in `_left`, which are heard until there is an occasion to leave them.
    """

    def __init__(self, link: RedisLink) -> None:
        """Begin to work for the running loop.

        Args:
            link: Open.
        """
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._listener = Listener(link, self._hear, self._catch_up)
        self._watches: dict[str, tuple[Watch, ...]] = {}
        self._new: dict[str, None] = {}
        self._joining: dict[str, None] = {}
        self._heard: set[str] = set()
        self._left: dict[str, None] = {}
        self._unread: dict[str, None] = {}
        self._reading: set[str] = set()
        """What the read in flight will tell the truth about: a key leaves it when a final row is heard."""
        self._failure: BackendError | None = None
        self._to_subscribe = asyncio.Event()
        self._to_read = asyncio.Event()
        self._tasks = [
            self._loop.create_task(work, name=f"aiotask results of {link.place}: {what}")
            for what, work in (("hear", self._subscribe()), ("read", self._read()), ("look", self._look()))
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Let every watch know that nothing more will come, and stop listening."""
        if self._loop is not asyncio.get_running_loop():  # that loop is gone, and all that was on it
            return
        self._end(BackendConnectionError("The result backend was closed while a result was waited for."))
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)
        await self._listener.close()

    def decode(self, key: str, row: bytes) -> TaskMeta:
        """Return what a row says.

        Raises:
            DecodeError: It is no row; the message names the key.
        """
        return decode_row(self._link, key, row)

    def add(self, watch: Watch) -> None:
        """Send `watch` what is stored of its keys, and what will be."""
        for key in watch.keys:
            key.encode()  # raises here what would end everybody's listening there
        if self._failure is not None:
            watch.fail(self._failure)
        for key in watch.keys:
            others = self._watches.get(key)
            self._watches[key] = (watch,) if others is None else (*others, watch)
            if key in self._heard:
                self._left.pop(key, None)
                self._unread[key] = None
                self._to_read.set()
            elif key not in self._joining:
                self._new[key] = None
                self._to_subscribe.set()

    def remove(self, watch: Watch) -> None:
        """Send `watch` nothing more. Idempotent."""
        for key in watch.keys:
            left = tuple(other for other in self._watches.get(key, ()) if other is not watch)
            if left:
                self._watches[key] = left
            elif self._watches.pop(key, None) is not None:
                self._new.pop(key, None)
                self._unread.pop(key, None)
                if key in self._heard:
                    self._left[key] = None

    # ---- what is published ----

    async def _subscribe(self) -> None:
        """Subscribe what is new, for all in one step; what came meanwhile in the next."""
        while True:
            await self._to_subscribe.wait()
            self._to_subscribe.clear()
            while self._new:
                if len(self._left) >= LEAVE_AT_ONCE:
                    await self._leave()
                joining = self._joining = self._new
                self._new = {}
                read = ("MGET", *joining) if len(joining) <= READ_ALONG else ()
                try:
                    with self._link.translating(ERRORS):
                        rows = await self._listener.subscribe(*joining, then=read, wait=self._link.command_timeout_s)
                except BackendConnectionError as error:
                    self._joining = {}
                    self._new.update(dict.fromkeys(key for key in joining if key in self._watches))
                    if not self._link.connected:
                        self._fail(joining, error, begun=False)
                    self._ask(joining)  # where only listening fails, reading shows the same, if later
                    break
                except BackendError as error:  # the user may not subscribe
                    self._joining = {}
                    self._fail(joining, error)
                else:
                    self._joining = {}
                    self._heard.update(joining)
                    self._left.update(dict.fromkeys(key for key in joining if key not in self._watches))
                    if rows is None:
                        self._ask(joining)
                    else:
                        for key, row in zip(joining, rows, strict=True):
                            self._reading.discard(key)  # asked on another connection, perhaps before
                            self._show(key, row)

    async def _leave(self) -> None:
        left, self._left = self._left, {}
        if left:
            self._heard -= left.keys()
            await self._listener.unsubscribe(*left)

    def _hear(self, key: str, row: bytes) -> None:
        if is_final(row):
            self._unread.pop(key, None)
            self._reading.discard(key)
            self._show(key, row)
        else:
            self._ask((key,))

    def _catch_up(self) -> None:
        """Read all that is watched, subscribed or not, and subscribe what could not be."""
        if self._new:
            self._to_subscribe.set()
        self._ask(self._watches)

    # ---- what is stored ----

    def _ask(self, keys: Iterable[str]) -> None:
        """Read `keys`, as far as they are watched, from now on."""
        for key in keys:
            if key in self._watches:
                self._unread[key] = None
        self._to_read.set()

    async def _read(self) -> None:
        """Read what is to be read: one command at a time, so that what is read later is younger."""
        while True:
            await self._to_read.wait()
            self._to_read.clear()
            while self._unread:
                keys = tuple(islice(self._unread, READ_AT_ONCE))
                for key in keys:
                    del self._unread[key]
                self._reading.update(keys)
                try:
                    rows = await read_rows(self._link, keys)
                except BackendConnectionError as error:
                    self._fail(keys, error, begun=False)  # the others' turn comes again when there is a connection
                except BackendError as error:
                    self._fail(keys, error)
                else:
                    for key, row in zip(keys, rows, strict=True):
                        if key in self._reading:
                            self._show(key, self._unturned(key, row))
                self._reading.clear()

    def _unturned(self, key: str, row: bytes | None) -> bytes | None:
        """Return `row`; None where what the subscription under way will tell may be older, and be shown after it."""
        return None if row is not None and key in self._joining and not is_final(row) else row

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S * random.uniform(0.8, 1.2))  # noqa: S311 - spreads processes
            await self._leave()
            self._catch_up()

    # ---- the watches ----

    def _show(self, key: str, row: bytes | None) -> None:
        for watch in self._watches.get(key, ()):
            watch.begun = True
            if row is not None:
                watch.push(key, row)

    def _fail(self, keys: Iterable[str], failure: BackendError, *, begun: bool = True) -> None:
        """End the watches of `keys`; without `begun` only those that have read nothing yet."""
        for key in keys:
            for watch in self._watches.get(key, ()):
                if begun or not watch.begun:
                    watch.fail(failure)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Let nobody wait for a task that is gone: it has met what it should have handled."""
        if not task.cancelled():
            error = task.exception()
            _log.error("Following results in Redis %s has failed.", self._link.place, exc_info=error)
            self._end(BackendError(f"Following results in Redis {self._link.place} has failed: {error!r}"))

    def _end(self, failure: BackendError) -> None:
        self._failure = failure
        self._fail(self._watches, failure)
