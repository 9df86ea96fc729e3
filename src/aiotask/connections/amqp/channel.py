"""A channel of a link: publishes batches with confirms, acknowledges batches, declares, consumes.

It stands on aio-pika's channel under it (aiormq), which opens, asks and declares. Messages, confirms and
acknowledgements go past that, by the wire: there each of them costs tasks and futures.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeVar

from aiormq.exceptions import AMQPError, ChannelClosed

from aiotask.connections.amqp.errors import NOT_ENABLED, ChannelError, LinkDown
from aiotask.connections.amqp.frames import Message, ack_frames, flow_frame, publish_frames
from aiotask.connections.amqp.received import Inbox, Received
from aiotask.connections.amqp.wire import Wire

T = TypeVar("T")

Consume = Callable[[Received], Coroutine[Any, Any, None] | None]

_WRITE_BYTES: Final = 256 * 1024
"""So much goes into one write at most: the loop has other things to do."""
_FLUSH_S: Final = 1.0
_AT_ONCE_S: Final = 1.0
"""A server that ends a connection has had by then what was written before; one that is not reached ends it later."""

_log = logging.getLogger(__name__)

_CODES: Final = {"ChannelAccessRefused": 403, "ChannelNotFoundEntity": 404, "ChannelLockedResource": 405}
_DISABLED: Final = "feature flag is disabled"
"""What a server says that was upgraded, and not told to use what it can do since: quorum queues, say."""


class NotRouted(Exception):  # noqa: N818 - says what the message is
    """A message reached no queue. Nothing was stored."""


class NotTaken(Exception):  # noqa: N818 - says what the message is
    """The server would not store a message: its queue refuses it, since it is full or has failed."""


class QueueState(NamedTuple):
    """What the server says of a queue."""

    ready: int
    consumers: int


_UNANSWERED: Final = LinkDown("", sent=True)
"""What is said of each message until something is known of it. Never raised itself."""


class _Batch:
    """The confirms that a call of `publish` waits for."""

    __slots__ = ("done", "left", "messages", "outcomes", "timer")

    def __init__(self, messages: Sequence[Message], loop: asyncio.AbstractEventLoop) -> None:
        self.messages = messages
        self.left = len(messages)
        self.outcomes: list[Exception | None] = [_UNANSWERED] * self.left
        self.done: asyncio.Future[None] = loop.create_future()
        self.timer: asyncio.TimerHandle

    def settle(self, position: int, outcome: Exception | None) -> None:
        self.outcomes[position] = outcome
        self.left -= 1
        if not self.left:
            self.end()

    def end(self) -> None:
        """Let the call go on with what is known by now. Idempotent."""
        if not self.done.done():
            self.done.set_result(None)


class AmqpChannel:
    """One channel. Once it is closed it stays so; whoever uses it asks the link for another."""

    def __init__(self, channel: Any, wire: Wire, is_blocked: Callable[[], bool], *, timeout: float, place: str) -> None:
        """Take an open channel of the driver's.

        Args:
            channel: With confirms, if it is to publish.
            wire: Of its connection.
            is_blocked: Tells whether the server takes no messages by that, and reads nothing.
            timeout: Seconds that the server may take to answer.
            place: The masked URL.
        """
        self._channel: Any = channel
        self._wire = wire
        self._is_blocked = is_blocked
        self._number: int = channel.number
        self._inbox = Inbox(self._confirmed, self._returned, self._answered)
        wire.inboxes[self._number] = self._inbox
        self._published = 0
        """The number that the server knows the last message by."""
        self._unconfirmed: dict[int, tuple[_Batch, int]] = {}
        """By their numbers, in their order."""
        self._timeout_s = timeout
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._batches: set[_Batch] = set()
        self._prefetch: int | None = None
        self._asking: set[asyncio.Task[Any]] = set()
        self._acks: list[bytes] = []
        self._unanswered: deque[tuple[asyncio.Future[bool], float]] = deque()
        """Those who wait until the server has had their acknowledgements, in their order, and since when."""
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        """Done once the channel is closed, by whomever; its result says why."""
        channel.closing.add_done_callback(self._on_closed)

    @property
    def usable(self) -> bool:
        """True until it is known to be closed."""
        return not self.lost.done()

    @property
    def ended(self) -> bool:
        """True once it is closed, or its connection has ended, which is a moment before that is known to close it.

        What it has delivered the server gives to others from then on.
        """
        return self._wire.ended or self.lost.done()

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        if not self.lost.done():
            self.lost.set_result(self._translated(error))
        if self._wire.inboxes.get(self._number) is self._inbox:
            del self._wire.inboxes[self._number]
        self._inbox.consumers.clear()
        self._unconfirmed.clear()
        for batch in self._batches:
            batch.end()
        hung_up = error is not None and not isinstance(error, asyncio.CancelledError)  # by which the driver ends it
        for answer, written_at in self._unanswered:
            _tell(answer, hung_up and self._loop.time() - written_at < _AT_ONCE_S)
        self._unanswered.clear()

    def _translated(self, error: BaseException | None) -> Exception:
        code = _CODES.get(type(error).__name__, 406 if type(error).__name__ == "ChannelPreconditionFailed" else 0)
        if code:
            return ChannelError(str(error), code)
        if isinstance(error, ChannelClosed) and error.args and isinstance(error.args[0], int):
            return ChannelError(str(error.args[-1]), error.args[0])
        said = f": {error}" if error is not None and str(error) else ""
        if _DISABLED in said:  # it closes the connection; to try again would be refused again
            return ChannelError(str(error), NOT_ENABLED)
        return LinkDown(f"The connection to RabbitMQ {self._place} was lost{said}.", sent=True)

    # ---- publishing ----

    async def publish(
        self, messages: Sequence[Message], timeout: float, wait_on: Callable[[], float] = lambda: 0.0
    ) -> list[Exception | None]:
        """Send `messages` and wait for their confirms.

        Args:
            messages: What to send.
            timeout: Seconds to wait.
            wait_on: Asked when they are over; returns how many more.

        Returns:
            For each, in order: None where it is stored, else `NotRouted`, `NotTaken`, a `ValueError` where AMQP can't
            carry it, or `LinkDown` where nobody knows.

        Cost: one round trip for the batch.
        """
        frame_max = self._channel.connection.connection_tune.frame_max
        try:
            framed = [publish_frames(self._number, message, frame_max) for message in messages]
        except ValueError:
            return await self._publish_rest(messages, frame_max, timeout, wait_on)
        if not self.usable:
            return [LinkDown("The channel is closed.", sent=False)] * len(messages)
        batch = _Batch(messages, self._loop)
        self._batches.add(batch)
        self._end_later(batch, timeout, wait_on)
        try:
            await self._write_all(batch, framed)
            await batch.done
        finally:
            batch.timer.cancel()
            self._batches.discard(batch)
            if batch.left and self.usable:
                self._give_up(batch)
        return batch.outcomes

    def _end_later(self, batch: _Batch, seconds: float, wait_on: Callable[[], float]) -> None:
        def over() -> None:
            more = wait_on()
            if more > 0 and not batch.done.done():
                self._end_later(batch, more, wait_on)
            else:
                batch.end()

        batch.timer = self._loop.call_later(seconds, over)  # costs less than an `asyncio.timeout` for each

    async def _publish_rest(
        self, messages: Sequence[Message], frame_max: int, timeout: float, wait_on: Callable[[], float]
    ) -> list[Exception | None]:
        """Publish what can be: what can't is its sender's matter, and not that of those beside it."""
        outcomes: list[Exception | None] = []
        for message in messages:
            try:
                publish_frames(self._number, message, frame_max)
            except ValueError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        good = [at for at, error in enumerate(outcomes) if error is None]
        if good:
            told = await self.publish([messages[at] for at in good], timeout, wait_on)
            for at, outcome in zip(good, told, strict=True):
                outcomes[at] = outcome
        return outcomes

    async def _write_all(self, batch: _Batch, framed: Sequence[bytes]) -> None:
        """Number and write; other batches may come in between, since what is numbered is written at once."""
        parts: list[bytes] = []
        size = 0
        unconfirmed, number = self._unconfirmed, self._published
        last = len(framed) - 1
        for position, part in enumerate(framed):
            number += 1
            unconfirmed[number] = batch, position
            parts.append(part)
            size += len(part)
            if size >= _WRITE_BYTES or position == last:
                self._published = number
                self._wire.write(b"".join(parts))
                parts, size = [], 0
                if self._wire.congested:
                    await self._drain(batch)
                    if not self.usable or batch.done.done():
                        return
                number = self._published

    async def _drain(self, batch: _Batch) -> None:
        """Wait until little is left to be written, or the batch has ended."""
        draining = self._begin(self._wire.drain())  # of an error the driver finds out as well, and closes the channel
        try:
            await asyncio.wait([draining, batch.done], return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()

    def _give_up(self, batch: _Batch) -> None:
        """Wait no longer for the confirms of a batch; they may come all the same."""
        for number in [number for number, (whose, _) in self._unconfirmed.items() if whose is batch]:
            del self._unconfirmed[number]

    def _confirmed(self, number: int, multiple: bool, stored: bool) -> None:
        """Note what the server says of a message, or of all up to it."""
        unconfirmed = self._unconfirmed
        numbers = [number]
        if multiple:
            numbers = list(takewhile(number.__ge__, unconfirmed))
        for one in numbers:
            found = unconfirmed.pop(one, None)
            if found is not None:
                found[0].settle(found[1], None if stored else NotTaken())

    def _returned(self, message_id: str) -> None:
        """Note that a message reached no queue. The server confirms it as well, and says nothing of its number."""
        for number, (batch, position) in self._unconfirmed.items():
            message = batch.messages[position]
            if (message.properties or {}).get("message_id", message.message_id) == message_id:
                del self._unconfirmed[number]
                batch.settle(position, NotRouted())
                return

    # ---- consuming ----

    def acknowledge(self, tags: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge deliveries: each a tag, and whether all before it are meant, too. In the order of the calls.

        Not waited for: what does not arrive comes again.
        """
        if not tags or not self.usable:
            return
        if not self._acks:
            self._loop.call_soon(self._write_acks)  # with all that come in this iteration of the loop
        self._acks.append(ack_frames(self._number, tags))

    async def acknowledge_and_hear(self, tags: Sequence[tuple[int, bool]]) -> bool:
        """Acknowledge deliveries, and wait until the server has had it, which an acknowledgement alone does not tell.

        When this process is killed right after it has written, the server may hear of that first, one time in a
        hundred: it drops what a channel has not seen to.

        Returns:
            False where the channel was gone before, and where the server was silent until the connection was given up.
            True also where it has hung up at once instead, though then nobody knows.

        Cost: one round trip.
        """
        if self.ended:
            return False
        answer: asyncio.Future[bool] = self._loop.create_future()
        self._unanswered.append((answer, self._loop.time()))
        self._acks.append(ack_frames(self._number, tags) + flow_frame(self._number))
        self._write_acks()
        return await answer

    def _answered(self) -> None:
        answer, _ = self._unanswered.popleft()
        _tell(answer, True)

    def _write_acks(self) -> None:
        acks, self._acks = self._acks, []
        if acks and self.usable:
            self._wire.write(b"".join(acks))

    async def flush(self) -> None:
        """Wait until the server has had all acknowledgements."""
        self._write_acks()
        await self.ask()

    async def consume(
        self,
        queue: str,
        take: Consume,
        tag: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin to consume: `take` is called for each message. `exclusive` is refused (403) to all but one.

        A coroutine that it returns becomes a task. `arguments` say where in a stream to begin, say.

        Raises:
            ChannelError, LinkDown: It can't be.

        Cost: one round trip, two where `prefetch` is another than the time before.
        """
        if self._prefetch != prefetch:
            await self._asked(self._channel.basic_qos(prefetch_count=prefetch, timeout=self._timeout_s))
            self._prefetch = prefetch
        self._inbox.consumers[tag.encode()] = partial(self._hand, take)
        await self._asked(
            self._channel.basic_consume(
                queue,
                _nobody,
                consumer_tag=tag,
                exclusive=exclusive,
                arguments=dict(arguments or {}),
                timeout=self._timeout_s,
            )
        )

    def _hand(self, take: Consume, message: Received) -> None:
        if not self.usable:
            return
        try:
            more = take(message)
        except Exception:  # noqa: BLE001 - one message must not end the connection
            _log.exception("What has come from RabbitMQ %s could not be taken.", self._place)
            return
        if more is not None:
            self._begin(more)

    async def cancel(self, tag: str) -> None:
        """Consume no more; what was sent before that has come when this returns."""
        await self._asked(self._channel.basic_cancel(tag, timeout=self._timeout_s))
        self._inbox.consumers.pop(tag.encode(), None)

    def on_cancel(self, told: Callable[[str], None]) -> None:
        """Tell `told` the tag of each consumer that the server ends, its queue being gone."""
        self._channel.on_consumer_cancel_callbacks.add(lambda frame: told(frame.consumer_tag))

    async def get(self, queue: str) -> Received | None:
        """Take the first message of a queue, unacknowledged; None when it is empty."""
        message = await self._asked(self._channel.basic_get(queue, timeout=self._timeout_s))
        if message.delivery.name != "Basic.GetOk":
            return None
        delivery = message.delivery
        return Received(delivery.delivery_tag, delivery.redelivered, message.header.properties, message.body)

    # ---- topology ----

    async def declare_queue(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        passive: bool = False,
        transient: bool = False,
    ) -> QueueState:
        """Make a durable queue, or look at one (`passive`); a `transient` one is this connection's, and gone with it.

        Raises:
            ChannelError: It is not there (404), or is there otherwise (406); the channel is closed then.
        """
        ok = await self._asked(
            self._channel.queue_declare(
                name,
                durable=not transient,
                exclusive=transient,
                auto_delete=transient,
                passive=passive,
                arguments=dict(arguments or {}),
                timeout=self._timeout_s,
            )
        )
        return QueueState(ok.message_count, ok.consumer_count)

    async def declare_exchange(
        self,
        name: str,
        kind: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        passive: bool = False,
        durable: bool = True,
    ) -> None:
        """Make an exchange, or look at one; raises as `declare_queue` does."""
        await self._asked(
            self._channel.exchange_declare(
                name,
                exchange_type=kind,
                durable=durable,
                passive=passive,
                arguments=dict(arguments or {}),
                timeout=self._timeout_s,
            )
        )

    async def bind_queue(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue to an exchange. Idempotent."""
        await self._asked(self._channel.queue_bind(queue, exchange, routing_key=key, timeout=self._timeout_s))

    async def bind_exchange(self, exchange: str, source: str, key: str) -> None:
        """Bind an exchange to another. Idempotent."""
        await self._asked(self._channel.exchange_bind(exchange, source, routing_key=key, timeout=self._timeout_s))

    async def delete_queue(self, queue: str) -> None:
        """Drop a queue with all that waits in it. Idempotent."""
        await self._asked(self._channel.queue_delete(queue, timeout=self._timeout_s))

    async def purge(self, queue: str) -> int:
        """Drop what waits in a queue; return how many."""
        ok = await self._asked(self._channel.queue_purge(queue, timeout=self._timeout_s))
        return int(ok.message_count)

    async def ask(self) -> None:
        """Ask for an answer, whatever it be.

        Raises:
            LinkDown: None came in time.
        """
        await self._asked(self._channel.basic_qos(prefetch_count=self._prefetch or 1, timeout=self._timeout_s))

    def abandon(self, why: str) -> None:
        """Use it no more; the server finds out when the connection ends."""
        if not self.lost.done():
            self.lost.set_result(LinkDown(f"The channel is not used any more: {why}.", sent=True))

    async def close(self) -> None:
        """Close it; what was delivered and not acknowledged goes back to its queue. Never raises.

        A server that reads nothing is not waited for: it hears of that when it reads again, or by the connection's end.
        """
        if not self._is_blocked():
            await self._close()
            return
        self._begin(self._close())
        self.abandon("it was closed")

    async def _close(self) -> None:
        try:
            with suppress(AMQPError, TimeoutError, OSError, RuntimeError, asyncio.InvalidStateError):
                await self._channel.close(timeout=self._timeout_s)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            # The driver ends what waits on a connection that is lost by cancelling it.
        if not self.lost.done():
            self.lost.set_result(LinkDown("The channel was closed.", sent=False))

    async def close_in_order(self) -> None:
        """Close it once its acknowledgements have arrived: nobody waited for them, and it might overtake them."""
        with suppress(LinkDown, ChannelError, TimeoutError):
            async with asyncio.timeout(_FLUSH_S):
                await self.flush()
        await self.close()

    async def _asked(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call of the driver's. To be cancelled ends the waiting alone: the driver would close the channel."""
        asking = self._begin(call)
        try:
            return await asyncio.shield(asking)
        except TimeoutError as error:
            raise LinkDown(
                f"RabbitMQ {self._place} did not answer within {self._timeout_s:g} s (broker_command_timeout).",
                sent=True,
            ) from error
        except (AMQPError, OSError, RuntimeError) as error:
            raise (self.lost.result() if self.lost.done() else self._translated(error)) from error
        except asyncio.CancelledError as error:
            if not asking.cancelled() or is_cancelled():
                raise
            # The driver ends what waits on a channel that is closed by cancelling it.
            raise (self.lost.result() if self.lost.done() else self._translated(None)) from error

    def _begin(self, call: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Begin what goes on also when nobody waits for it."""
        task = self._loop.create_task(call)
        self._asking.add(task)
        task.add_done_callback(self._asked_for)
        return task

    def _asked_for(self, asking: "asyncio.Task[Any]") -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # whoever asked has gone, maybe


def _tell(answer: "asyncio.Future[bool]", heard: bool) -> None:
    if not answer.done():
        answer.set_result(heard)


async def _nobody(_: object) -> None:
    """Stands where the driver has who takes its messages: they do not come to it."""


def is_cancelled() -> bool:
    """Tell whether the running task is to end: an event loop that ends cancels what it waits for, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
