"""The result backend on RabbitMQ: outcomes are sent to who has called, into a reply queue of its process.

Nothing is stored but in the memory of that process, so no other one can ask. Messages are Celery's: the row is the
body, the task id the correlation id, the reply queue the routing key of the default exchange.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiotask.connections.amqp import AmqpChannel, AmqpLink, ChannelError, LinkClosed, LinkDown, Received
from aiotask.connections.backoff import Backoff
from aiotask.connections.memory import Row, RowStore
from aiotask.exceptions import BackendConnectionError, BackendError, ContentDisallowed, DecodeError
from aiotask.outcome import TaskMeta
from aiotask.results.memory import MemoryWatch, fail_watches
from aiotask.results.replies import CONTENT_TYPE, ERRORS, Reply, ReplySender, encode_reply
from aiotask.states import FAILURE
from aiotask.wire.errors import to_record
from aiotask.wire.rows import decode_meta, encode_meta

MOST_KNOWN: Final = 500_000
"""Of so many of the calls that were sent last the results are kept; older ones are forgotten."""

_QUEUE_EXPIRES_S: Final = 600.0
"""The server drops the queue of a process that has been gone for so long."""
_PREFETCH: Final = 1000
_ACKNOWLEDGED_TOGETHER: Final = _PREFETCH // 4
_ACKNOWLEDGED_WITHIN_S: Final = 0.02
"""By and by: who waits for a result is about to send the next task, and each write costs it 40 us."""
_ABSENT: Final = 404

_log = logging.getLogger(__name__)


class RpcBackend:
    """A `ResultBackend` and `ReplyReceiver` on an `AmqpLink`."""

    def __init__(self, link: AmqpLink, *, persistent: bool = False, expires: float | None = None) -> None:
        """Name the reply queue; nothing is connected.

        Args:
            link: May be a broker's as well.
            persistent: Whether results outlive a restart of the server (`result_persistent`).
            expires: Seconds for which results are kept here (`result_expires`); None for as long as the process lives.
        """
        self.link = link
        self._persistent = persistent
        self._expires_s = expires
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Be the backend of this process, which has sent nothing yet: its queue is nobody else's."""
        self._pid = os.getpid()
        self._reply_to = f"{self.link.key_prefix}.reply.{os.urandom(16).hex()}"
        self._rows = RowStore(time.time)
        self._known: dict[str, None] = {}
        """The ids whose results come here, in the order in which they were sent."""
        self._sender = ReplySender(self.link, persistent=self._persistent)
        self._incoming: AmqpChannel | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._listened = False
        """True once the reply queue was made."""
        self._watches: set[MemoryWatch] = set()
        self._taken = 0
        """The delivery tag up to which all is taken."""
        self._acknowledged = 0
        """The one up to which all is acknowledged."""
        self._open = False

    def _leave_parent(self) -> None:
        """In a process that was forked, leave its parent what is the parent's: they would take each other's results."""
        if os.getpid() != self._pid:
            self._begin_anew()

    @property
    def reply_to(self) -> str:
        """The name of the queue of this process."""
        self._leave_parent()
        return self._reply_to

    @property
    def connected(self) -> bool:
        """True while it is open and there is a connection."""
        return self._open and self.link.connected

    async def open(self) -> None:
        """Open the link, make the reply queue and begin to take from it.

        Raises:
            BackendConnectionError: There is no RabbitMQ that can be used.
            BackendError: It does not let us have a queue.
        """
        self._leave_parent()
        if self._open:
            return
        with self.link.translating(ERRORS):
            await self.link.open()
            try:
                channel = await self._listen()
            except BaseException:
                await self.link.close()
                raise
        self._sender = ReplySender(self.link, persistent=self._persistent)
        self._keeper = asyncio.get_running_loop().create_task(self._keep_listening(channel), name="aiotask replies")
        self._open = True

    async def close(self) -> None:
        """End what is watched, and take no more.

        What comes meanwhile waits in the queue, for ten minutes; where nothing can come, that is dropped.
        """
        self._leave_parent()
        if not self._open:
            return
        self._open = False
        fail_watches(self._watches)
        keeper, self._keeper = self._keeper, None
        # Of a loop that was closed with the app left open there is nothing to wait for.
        if keeper is not None and keeper.get_loop() is asyncio.get_running_loop():
            keeper.cancel()
            await asyncio.wait([keeper])
            await self._leave_queue()
            if self._incoming is not None:
                await self._incoming.close_in_order()
            await self._sender.close()
        self._incoming = None
        await self.link.close()

    async def _leave_queue(self) -> None:
        """Tell the server what was taken; drop the queue when nobody has been told to answer there."""
        incoming = self._incoming
        if incoming is None or not incoming.usable:
            return
        if self._known:
            self._acknowledge(incoming)
            return
        if self.link.blocked:
            return  # it would not answer; the queue is gone by itself in ten minutes
        with suppress(LinkDown, ChannelError):
            await incoming.delete_queue(self.reply_to)
            self._listened = False

    # ---- sending results ----

    def encode(self, meta: TaskMeta, expires: float | None) -> Reply:
        """See `ResultBackend`; how long it is kept is the receiver's to say."""
        return encode_reply(meta)

    async def store(self, rows: Sequence[Reply]) -> None:
        """Send encoded outcomes to who waits for them. What waits in a queue that is gone has nobody to read it.

        A result that is larger than the server takes becomes a failure that says so; a state that is not final, and is
        larger, is left out.

        Raises:
            BackendConnectionError: There is no connection, or it was lost.
            BackendError: The server refuses it, or is full.
        """
        await self._sender.send(rows)

    # ---- reading what has come ----

    def expect(self, ids: Sequence[str]) -> None:
        """See `ReplyReceiver`."""
        known = self._known
        known.update(dict.fromkeys(ids))
        if len(known) > MOST_KNOWN:
            oldest = list(known)[: len(known) - MOST_KNOWN]
            for id_ in oldest:
                del known[id_]
            self._rows.forget(oldest)

    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        """Return what has come of each id. Cost: none.

        Raises:
            BackendConnectionError: It is not open.
            BackendError: One was not sent by this process.
        """
        self._must_be_ours(ids)
        return [None if row is None else decode_meta(row.data) for row in self._rows.fetch(ids)]

    def watch(self, ids: Sequence[str]) -> AbstractAsyncContextManager[AsyncIterator[TaskMeta]]:
        """See `ResultBackend`; pushed. Cost: none.

        Raises:
            BackendConnectionError: It is not open; or, from the iterator, it was closed.
            BackendError: One was not sent by this process; or, from the iterator, the reply queue was gone.
        """
        self._must_be_ours(ids)
        return MemoryWatch(self._rows, ids, self._watches)

    async def forget(self, ids: Sequence[str]) -> int:
        """Drop what has come; return how many there were. Cost: none."""
        return self._rows.forget(ids)

    def _must_be_ours(self, ids: Sequence[str]) -> None:
        if not self._open:
            raise BackendConnectionError(
                f"The result backend rpc:// on {self.link.place} is not open. Open the app first."
            )
        for id_ in ids:
            if id_ not in self._known:
                raise BackendError(
                    f"The result of task {id_} does not come here: with rpc:// only the process that has sent a task "
                    f"gets its result (and that of its last {MOST_KNOWN:,} calls). Ask there, or use a backend that "
                    "stores results, such as redis://."
                )

    # ---- the reply queue ----

    async def _listen(self) -> AmqpChannel:
        """Take from the reply queue, making it where it is not: who waits is told when it was there before."""
        was_there = await self._is_there()
        channel = await self.link.channel()
        channel.on_cancel(lambda _: channel.abandon("the reply queue was deleted"))
        await channel.declare_queue(self.reply_to, {"x-expires": int(_QUEUE_EXPIRES_S * 1000)})
        self._incoming, self._taken, self._acknowledged = channel, 0, 0
        await channel.consume(self.reply_to, partial(self._take, channel), self.reply_to, prefetch=_PREFETCH)
        if self._listened and not was_there:
            self._tell_of_loss()
        self._listened = True
        return channel

    async def _is_there(self) -> bool:
        channel = await self.link.channel()
        try:
            await channel.declare_queue(self.reply_to, passive=True)
        except ChannelError as error:
            if error.code != _ABSENT:
                raise
            return False
        finally:
            await channel.close()
        return True

    def _tell_of_loss(self) -> None:
        """End what waits with an error, since its result may have been sent while there was no queue for it."""
        _log.warning(
            "The reply queue was gone from RabbitMQ %s and is made again: results that were sent meanwhile are lost",
            self.link.place,
        )
        for watch in tuple(self._watches):
            watch.fail(
                BackendError(
                    f"The reply queue of this process was gone from RabbitMQ {self.link.place} for a while: the server "
                    "was emptied, somebody has deleted it, or there was no connection for ten minutes. A result that "
                    "was sent meanwhile is lost. To wait for one that is still to come, ask again; a backend that "
                    "stores results, such as redis://, keeps them."
                )
            )

    async def _keep_listening(self, channel: AmqpChannel) -> None:
        backoff = Backoff()
        while True:
            if channel.usable:
                await asyncio.wait([channel.lost])
            await channel.close()
            try:
                channel = await self._listen()
                backoff.reset()
            except (LinkDown, LinkClosed, ChannelError) as error:
                _log.info("The reply queue is out of reach, trying again: %s", error)
                await backoff.pause()

    def _take(self, channel: AmqpChannel, message: Received) -> None:
        """Keep a result; acknowledge it by and by, with others."""
        task_id = message.properties.correlation_id
        if task_id in self._known:
            self._rows.store([self._read(message, task_id)])
        if self._taken == self._acknowledged:
            asyncio.get_running_loop().call_later(_ACKNOWLEDGED_WITHIN_S, self._acknowledge, channel)
        self._taken = message.tag
        if self._taken - self._acknowledged >= _ACKNOWLEDGED_TOGETHER:
            self._acknowledge(channel)

    def _acknowledge(self, channel: AmqpChannel) -> None:
        if channel is self._incoming and self._taken > self._acknowledged:
            self._acknowledged = self._taken
            channel.acknowledge([(self._taken, True)])

    def _read(self, message: Received, task_id: str) -> Row:
        """Return a message as a row; what can't be read is a failure, so that nobody waits for ever."""
        data = message.body
        try:
            meta = _decoded(message, task_id)
        except (ContentDisallowed, DecodeError) as error:
            meta = TaskMeta(id=task_id, state=FAILURE, result=to_record(error), date_done=datetime.now(UTC))
            data = encode_meta(meta)
        return Row(task_id, data, meta.ready, None if self._expires_s is None else time.time() + self._expires_s)


def _decoded(message: Received, task_id: str) -> TaskMeta:
    content_type = message.properties.content_type
    if content_type != CONTENT_TYPE:
        raise ContentDisallowed(
            f"The result came as {content_type!r:.80}; only JSON is read here (Celery's result_serializer)."
        )
    meta = decode_meta(message.body)
    if meta.id != task_id:
        raise DecodeError(f"The result of {meta.id!r:.80} came as that of {task_id!r:.80}.")
    return meta
