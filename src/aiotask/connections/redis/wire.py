"""One connection that many callers share: what they submit goes out in few writes, replies are matched in order.

Used by the link for commands, for blocking reads and for subscriptions. It never reconnects and never repeats anything.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import hiredis

from aiotask.connections.redis.commands import pack_command
from aiotask.connections.redis.errors import LinkDown, ReplyError

_NOTHING_YET: Final = object()
_HELLO_3: Final = pack_command(("HELLO", 3))
_PING: Final = pack_command(("PING",))
_PING_AFTER: Final = 0.8
"""Part of the timeout that a wire may be silent before it is asked for a sign of life."""


_PUSH: Final[type | None] = getattr(hiredis, "PushNotification", None)
"""What hiredis makes of what comes unasked in RESP 3, from 3.1 on."""


class Garbled(Exception):  # noqa: N818 - says what the reply is
    """The bytes are not of the Redis protocol."""


def new_reader() -> hiredis.Reader:
    """Return a parser of RESP 2 and 3. Error replies come as `ReplyError` values, and `has_reply` tells what is one."""
    return hiredis.Reader(protocolError=Garbled, replyError=ReplyError, notEnoughData=_NOTHING_YET)


def has_reply(reply: object) -> bool:
    """False for what the parser returns when it needs more bytes."""
    return reply is not _NOTHING_YET


class _Call:
    """What was submitted, and waits for its replies."""

    __slots__ = ("allowance_s", "future", "packed", "replies", "sent_at", "wanted")

    def __init__(self, packed: bytes, wanted: int, allowance_s: float, future: "asyncio.Future[Any]") -> None:
        self.packed = packed
        self.wanted = wanted
        self.allowance_s = allowance_s
        self.future = future
        self.replies: list[Any] = []
        self.sent_at = 0.0


class Wire(asyncio.Protocol):
    """A connection that has been opened and greeted, from now on driven by this object alone.

    Everything happens in the event loop's callbacks: there is no task to be cancelled halfway. What is submitted in one
    iteration of the loop leaves in at most three writes. A caller that is cancelled leaves its reply to be dropped.
    """

    def __init__(
        self,
        stream: asyncio.StreamWriter,
        place: str,
        *,
        timeout: float,
        ping: bool = True,
        on_push: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        """Take over the connection of `stream`.

        Args:
            stream: Nothing may be unread.
            place: The masked URL, for messages.
            timeout: Seconds after which the connection is given up when a reply is due, none comes, and nothing of what
                is submitted leaves. A half-open one is noticed by nothing else.
            ping: Ask for a sign of life before it has been silent for so long, so that it is noticed when idle too.
            on_push: Gets channel and payload of each published message; called in the loop, must not raise.
        """
        self.place = place
        self.scripts: set[str] = set()
        """The hashes that this server has been sent over this wire."""
        self._loop = asyncio.get_running_loop()
        self.down: asyncio.Future[str] = self._loop.create_future()
        """Done, with the reason, as soon as nothing more should be submitted; what is pending may still be answered."""
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is closed."""
        self._timeout_s = timeout
        self._ping = ping
        self._on_push = on_push
        self._push_type: type = list
        self._reader = new_reader()
        self._outbox: list[_Call] = []
        self._pending: deque[_Call] = deque()
        self._flush_scheduled = False
        self._paused = False
        self._heard_at = self._loop.time()
        self._unsent_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stream = stream  # kept: the stream would close the transport when it is collected
        self._transport = stream.transport
        self._transport.set_protocol(self)
        if ping:
            self._set_timer(self._heard_at + timeout * _PING_AFTER)

    @property
    def usable(self) -> bool:
        """True while something can be submitted."""
        return not self.down.done()

    def submit(self, packed: bytes, replies: int = 1, *, allowance: float = 0.0) -> "asyncio.Future[Any]":
        """Send `packed` now, or, after others, at the end of this iteration of the loop.

        Args:
            packed: One or more commands.
            replies: How many replies they have.
            allowance: Seconds that the server may take on top of the timeout, for commands that block.

        Returns:
            The reply, or the list of them when it is not one; errors are `ReplyError` values. The future raises
            `LinkDown`.
        """
        call = _Call(packed, replies, allowance, self._loop.create_future())
        if self.down.done():
            self._fail(call, self.down.result(), sent=False)
            return call.future
        self._outbox.append(call)
        if not self._flush_scheduled:
            # The first of an iteration leaves at once: the server works on it while this process does other things.
            busy = bool(self._pending)
            self._flush()
            if busy:
                self._flush_scheduled = True
                self._loop.call_soon(self._flush)
        return call.future

    async def speak_3(self) -> None:
        """Go over to RESP 3 where the server and the parser know it; nothing may be subscribed yet. See `mixes`.

        Raises:
            LinkDown: The connection was lost meanwhile.

        Cost: one round trip.
        """
        if _PUSH is not None and type(await self.submit(_HELLO_3)) is not ReplyError:
            self._push_type = _PUSH

    @property
    def mixes(self) -> bool:
        """True when other commands may follow a subscription on this connection, as RESP 2 forbids."""
        return self._push_type is not list

    def retire(self, why: str) -> None:
        """Take nothing more; close once everything that was sent is answered."""
        self._go_down(why)
        if not self._pending:
            self.close(why)

    def close(self, why: str) -> None:
        """Close at once. What has no reply yet fails. Idempotent."""
        self._go_down(why)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        pending, self._pending = self._pending, deque()
        for call in pending:
            self._fail(call, why, sent=True)
        self._transport.abort()

    # ---- writing ----

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._paused or not self._outbox:
            return
        now = self._loop.time()
        packed: list[bytes] = []
        for call in self._outbox:
            if call.future.cancelled():
                continue
            if not self._pending:
                self._set_timer(now + self._timeout_s + call.allowance_s)
            call.sent_at = now
            packed.append(call.packed)
            call.packed = b""
            self._pending.append(call)
        self._outbox.clear()
        if packed:
            self._transport.write(b"".join(packed))
            self._unsent_bytes = self._transport.get_write_buffer_size()

    def pause_writing(self) -> None:
        """The server does not read: keep what is submitted, so that it is known not to have been sent."""
        self._paused = True

    def resume_writing(self) -> None:
        """Send what was kept."""
        self._paused = False
        self._flush()

    # ---- reading ----

    def data_received(self, data: bytes) -> None:
        """Hand each reply to the one who waits for it."""
        self._heard_at = self._loop.time()
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not _NOTHING_YET:
                if self._on_push is None or not self._is_push(reply):
                    self._take(reply)
        except Garbled as error:
            self.close(f"the server sent what is not the Redis protocol ({error})")

    def _is_push(self, reply: Any) -> bool:
        if isinstance(reply, list) and type(reply) is self._push_type and len(reply) == 3 and reply[0] == b"message":
            assert self._on_push is not None  # noqa: S101 - asked by the caller
            self._on_push(reply[1], reply[2])
            return True
        return False

    def _take(self, reply: Any) -> None:
        if not self._pending:
            self.close(f"the server sent a reply that nobody asked for ({reply!r})")
            return
        call = self._pending[0]
        if call.wanted == 1:
            self._pending.popleft()
            if not call.future.done():
                call.future.set_result(reply)
        else:
            call.replies.append(reply)
            if len(call.replies) == call.wanted:
                self._pending.popleft()
                if not call.future.done():
                    call.future.set_result(call.replies)
        if type(reply) is ReplyError and reply.is_stale:
            self.retire(f"the server said {reply}")
        elif not self._pending and self.down.done():
            self.close(self.down.result())

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits. Called by the transport, also after `close`."""
        self.close(f"{exc}" if exc else "the server closed it")
        if not self.closed.done():
            self.closed.set_result(None)

    # ---- time ----

    def _set_timer(self, at: float) -> None:
        """Look no later than `at`."""
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._look)

    def _look(self) -> None:
        """Give the connection up when a reply is overdue; ask for a sign of life when all is silent."""
        self._timer = None
        now = self._loop.time()
        if self._pending:
            unsent_bytes = self._transport.get_write_buffer_size()
            if unsent_bytes < self._unsent_bytes:  # a large batch is still on its way
                self._heard_at = now
            self._unsent_bytes = unsent_bytes
            head = self._pending[0]
            due = max(head.sent_at, self._heard_at) + self._timeout_s + head.allowance_s
            if now >= due:
                self.close(f"the server did not answer within {self._timeout_s + head.allowance_s:g} s")
            else:
                self._set_timer(due)
        elif self._ping:
            due = self._heard_at + self._timeout_s * _PING_AFTER
            if now >= due:
                self.submit(_PING)
            else:
                self._set_timer(due)

    # ---- the end ----

    def _go_down(self, why: str) -> None:
        if self.down.done():
            return
        self.down.set_result(why)
        outbox, self._outbox = self._outbox, []
        for call in outbox:
            self._fail(call, why, sent=False)

    def _fail(self, call: _Call, why: str, *, sent: bool) -> None:
        if call.future.done():
            return
        fate = (
            "before the reply came: nobody knows whether the server carried out the command"
            if sent
            else "before the command was sent"
        )
        error = LinkDown(f"The connection to Redis {self.place} was lost {fate} ({why}).", sent=sent)
        call.future.set_exception(error)
        call.future.exception()  # a caller that has left is no reason for a warning
