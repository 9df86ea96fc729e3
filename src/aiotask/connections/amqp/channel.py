"""A channel of a link: publishes batches with confirms, acknowledges batches, declares, consumes.

It stands on aio-pika's channel under it (aiormq), whose way of sending costs a task and several futures per message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from aiormq.abc import ChannelFrame, DeliveredMessage
from aiormq.exceptions import AMQPError, ChannelClosed
from aiormq.exceptions import PublishError as ReturnedError

from aiotask.connections.amqp.errors import ChannelError, LinkDown
from aiotask.connections.amqp.frames import Message, ack_frames, publish_frames

T = TypeVar("T")

Consume = Callable[[DeliveredMessage], Awaitable[None]]

_WRITE_BYTES: Final = 256 * 1024
"""So much goes into one write at most: the loop has other things to do."""

_CODES: Final = {"ChannelAccessRefused": 403, "ChannelNotFoundEntity": 404, "ChannelLockedResource": 405}


class NotRouted(Exception):  # noqa: N818 - says what the message is
    """A message reached no queue. Nothing was stored."""


class NotTaken(Exception):  # noqa: N818 - says what the message is
    """The server would not store a message: its queue refuses it, since it is full or has failed."""


class QueueState(NamedTuple):
    """What the server says of a queue."""

    ready: int
    consumers: int


class _Batch:
    """The confirms that a call of `publish` waits for."""

    __slots__ = ("done", "left", "outcomes")

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.left = count
        self.outcomes: list[Exception | None] = [LinkDown("", sent=True)] * count
        self.done: asyncio.Future[None] = loop.create_future()

    def settle(self, position: int, outcome: Exception | None) -> None:
        self.outcomes[position] = outcome
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result(None)


class _Confirm:
    """Stands where the driver keeps a future for each message that is not confirmed."""

    __slots__ = ("_batch", "_position", "_settled", "forget")

    def __init__(self, batch: _Batch, position: int, forget: Callable[[], object]) -> None:
        self._batch = batch
        self._position = position
        self._settled = False
        self.forget = forget

    def done(self) -> bool:
        return self._settled

    def cancelled(self) -> bool:
        return False

    def set_result(self, _: Any) -> None:
        self._settle(None)

    def set_exception(self, error: BaseException) -> None:
        if isinstance(error, ReturnedError):
            self._settle(NotRouted())
        else:
            self._settle(NotTaken())

    def _settle(self, outcome: Exception | None) -> None:
        if not self._settled:
            self._settled = True
            self.forget()
            self._batch.settle(self._position, outcome)


class AmqpChannel:
    """One channel. Once it is closed it stays so; whoever uses it asks the link for another."""

    def __init__(self, channel: Any, *, timeout: float, place: str) -> None:
        """Take an open channel of the driver's.

        Args:
            channel: With confirms, if it is to publish.
            timeout: Seconds that the server may take to answer.
            place: The masked URL.
        """
        self._channel: Any = channel
        self._timeout_s = timeout
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._batches: set[_Batch] = set()
        self._prefetch: int | None = None
        self._writing = asyncio.Lock()
        self._asking: set[asyncio.Task[Any]] = set()
        self._acks: list[bytes] = []
        self._acking: asyncio.Task[None] | None = None
        self.lost: asyncio.Future[Exception] = self._loop.create_future()
        """Done once the channel is closed, by whomever; its result says why."""
        channel.closing.add_done_callback(self._on_closed)

    @property
    def usable(self) -> bool:
        """True until it is known to be closed."""
        return not self.lost.done()

    def _on_closed(self, closing: "asyncio.Future[Any]") -> None:
        error = None if closing.cancelled() else closing.exception()
        if not self.lost.done():
            self.lost.set_result(self._translated(error))
        for batch in self._batches:
            if not batch.done.done():
                batch.done.set_result(None)

    def _translated(self, error: BaseException | None) -> Exception:
        code = _CODES.get(type(error).__name__, 406 if type(error).__name__ == "ChannelPreconditionFailed" else 0)
        if code:
            return ChannelError(str(error), code)
        if isinstance(error, ChannelClosed) and error.args and isinstance(error.args[0], int):
            return ChannelError(str(error.args[-1]), error.args[0])
        said = f": {error}" if error is not None and str(error) else ""
        return LinkDown(f"The connection to RabbitMQ {self._place} was lost{said}.", sent=True)

    # ---- publishing ----

    async def publish(self, messages: Sequence[Message], timeout: float) -> list[Exception | None]:
        """Send `messages` and wait for their confirms.

        Returns:
            For each, in order: None where it is stored, else `NotRouted`, `NotTaken`, or `LinkDown` where nobody knows.

        Raises:
            ValueError: A name in it is longer than AMQP takes.

        Cost: one round trip for the batch.
        """
        channel = self._channel
        number, confirmations, tags = channel.number, channel.confirmations, channel.message_id_delivery_tag
        frame_max = channel.connection.connection_tune.frame_max
        framed = [publish_frames(number, message, frame_max) for message in messages]
        if not self.usable:
            return [LinkDown("The channel is closed.", sent=False)] * len(messages)
        batch = _Batch(len(messages), self._loop)
        self._batches.add(batch)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    async with self._writing:  # what is numbered first is written first
                        tag = channel.delivery_tag
                        for position, message in enumerate(messages):
                            tag += 1
                            message_id = (message.properties or {}).get("message_id", message.message_id)
                            tags[message_id] = tag
                            confirmations[tag] = _Confirm(batch, position, partial(tags.pop, message_id, None))
                        channel.delivery_tag = tag
                        await self._write_all(framed)
                    await batch.done
        finally:
            self._batches.discard(batch)
        return batch.outcomes

    async def _write_all(self, framed: Sequence[bytes]) -> None:
        parts: list[bytes] = []
        size = 0
        try:
            for part in framed:
                parts.append(part)
                size += len(part)
                if size >= _WRITE_BYTES:
                    await self._write(b"".join(parts))
                    parts, size = [], 0
            if parts:
                await self._write(b"".join(parts))
        except BaseException:
            # Numbered and not sent: from here on the server counts otherwise than we do.
            self.abandon("a write to it was cut off")
            raise

    async def _write(self, payload: bytes) -> None:
        await self._channel.write_queue.put(ChannelFrame(payload=payload, should_close=False))

    # ---- consuming ----

    def acknowledge(self, tags: Sequence[tuple[int, bool]]) -> None:
        """Acknowledge deliveries: each a tag, and whether all before it are meant, too. In the order of the calls.

        Not waited for: what does not arrive comes again.
        """
        if not tags or not self.usable:
            return
        self._acks.append(ack_frames(self._channel.number, tags))
        if self._acking is None:
            self._acking = self._loop.create_task(self._write_acks(), name="aiotask AMQP acknowledgements")

    async def _write_acks(self) -> None:
        try:
            while self._acks and self.usable:
                acks, self._acks = b"".join(self._acks), []
                await self._write(acks)
        finally:
            self._acking = None

    async def flush(self) -> None:
        """Wait until the server has had all acknowledgements."""
        if self._acking is not None:
            await asyncio.wait([self._acking])
        await self.ask()

    async def consume(self, queue: str, take: Consume, tag: str, *, prefetch: int, exclusive: bool = False) -> None:
        """Begin to consume: `take` is awaited for each message. `exclusive` is refused (403) to all but one.

        Raises:
            ChannelError, LinkDown: It can't be.

        Cost: one round trip, two where `prefetch` is another than the time before.
        """
        if self._prefetch != prefetch:
            await self._asked(self._channel.basic_qos(prefetch_count=prefetch, timeout=self._timeout_s))
            self._prefetch = prefetch
        await self._asked(
            self._channel.basic_consume(queue, take, consumer_tag=tag, exclusive=exclusive, timeout=self._timeout_s)
        )

    async def cancel(self, tag: str) -> None:
        """Consume no more; what was sent before that has come when this returns."""
        await self._asked(self._channel.basic_cancel(tag, timeout=self._timeout_s))

    def on_cancel(self, told: Callable[[str], None]) -> None:
        """Tell `told` the tag of each consumer that the server ends, its queue being gone."""
        self._channel.on_consumer_cancel_callbacks.add(lambda frame: told(frame.consumer_tag))

    async def get(self, queue: str) -> Any:
        """Take the first message of a queue, unacknowledged; None when it is empty."""
        message = await self._asked(self._channel.basic_get(queue, timeout=self._timeout_s))
        return message if message.delivery.name == "Basic.GetOk" else None

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

    async def declare_exchange(self, name: str, kind: str, *, passive: bool = False, durable: bool = True) -> None:
        """Make an exchange, or look at one; raises as `declare_queue` does."""
        await self._asked(
            self._channel.exchange_declare(
                name, exchange_type=kind, durable=durable, passive=passive, timeout=self._timeout_s
            )
        )

    async def bind_queue(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue to an exchange. Idempotent."""
        await self._asked(self._channel.queue_bind(queue, exchange, routing_key=key, timeout=self._timeout_s))

    async def bind_exchange(self, exchange: str, source: str, key: str) -> None:
        """Bind an exchange to another. Idempotent."""
        await self._asked(self._channel.exchange_bind(exchange, source, routing_key=key, timeout=self._timeout_s))

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
        """Close it; what was delivered and not acknowledged goes back to its queue. Never raises."""
        with suppress(AMQPError, TimeoutError, OSError, RuntimeError, asyncio.InvalidStateError):
            await self._channel.close(timeout=self._timeout_s)
        if not self.lost.done():
            self.lost.set_result(LinkDown("The channel was closed.", sent=False))

    async def _asked(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call of the driver's. To be cancelled ends the waiting alone: the driver would close the channel."""
        asking = self._loop.create_task(call)
        self._asking.add(asking)
        asking.add_done_callback(self._asked_for)
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
            if not asking.cancelled():
                raise
            # The driver ends what waits on a channel that is closed by cancelling it.
            raise (self.lost.result() if self.lost.done() else self._translated(None)) from error

    def _asked_for(self, asking: "asyncio.Task[Any]") -> None:
        self._asking.discard(asking)
        if not asking.cancelled():
            asking.exception()  # whoever asked has gone, maybe
