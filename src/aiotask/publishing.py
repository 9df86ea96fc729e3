"""Gives messages to the broker: asks first what has to be asked, and says for each message whether it is durable."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from aiotask.exceptions import BrokerError, ImproperlyConfigured, PublishError, Unroutable
from aiotask.message import Envelope
from aiotask.protocols import Broker, Outgoing, QueueAdmin
from aiotask.settings import Settings


class Publisher:
    """What an open app publishes by, one batch after the other."""

    def __init__(self, broker: Broker, conf: Settings) -> None:
        """Work for the running loop.

        Args:
            broker: An open one.
            conf: Says after how many seconds what is not confirmed counts as not sent (`broker_publish_timeout`).
        """
        self._broker = broker
        self._conf = conf
        self._limit = _Limit()

    async def publish(self, batch: Sequence[Envelope]) -> list[Exception | None] | None:
        """Publish `batch`; return the error of each message, None for one that is durable; None when all are.

        Args:
            batch: In the order in which they are sent.

        Cost: one round trip.
        """
        limit_s = self._conf.broker_publish_timeout
        try:
            with self._limit.of(limit_s):
                await self._broker.publish(batch)
        except PublishError as error:
            unsent = set(error.unsent)
            return [error if envelope.id in unsent else None for envelope in batch]
        except TimeoutError as error:
            late = PublishError(
                f"The broker did not confirm within {limit_s:g} s (broker_publish_timeout); "
                "the messages may or may not be stored.",
                [envelope.id for envelope in batch],
            )
            late.__cause__ = error
            return [late] * len(batch)
        except BrokerError as error:
            return [error] * len(batch)
        return None


class _Limit:
    """`asyncio.timeout` for steps that follow one another: one timer, set anew now and then, not for each."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._task: asyncio.Task[Any] | None = None
        """Whose step is under way."""
        self._cancelling = 0
        self._is_over = False

    def of(self, seconds: float) -> Self:
        """Let the step that follows, `with` this, take so long."""
        self._due = self._loop.time() + seconds
        if self._timer is None or self._timer.when() > self._due:  # the limit may be lower than it was
            self._set_timer()
        return self

    def __enter__(self) -> None:
        self._task = task = asyncio.current_task()
        assert task is not None  # noqa: S101 - what awaits is a task's
        self._cancelling = task.cancelling()
        self._is_over = False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        ours = self._is_over and task is not None and task.uncancel() <= self._cancelling  # and nobody else's as well
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._task is None:
            return
        if self._loop.time() < self._due:
            self._set_timer()
        else:
            self._is_over = True
            self._task.cancel()


async def refuse_unconsumed(broker: Broker, calls: Sequence[Outgoing]) -> None:
    """See that workers consume the queues of those calls that are `immediate`.

    Raises:
        Unroutable: None consumes one of them.
        ImproperlyConfigured: The broker can't tell.

    Cost: one round trip when a call is `immediate`.
    """
    wanted: dict[str, str] = {}
    for call in calls:
        if call.beyond is not None and call.beyond.immediate:
            wanted.update(dict.fromkeys((call.queue, *call.beyond.queues), call.message.task))
    if not wanted:
        return
    if not isinstance(broker, QueueAdmin):
        raise ImproperlyConfigured("The broker can't tell which queues are consumed: leave out `immediate`.")
    counts = await broker.consumers(list(wanted))
    for (queue, task), count in zip(wanted.items(), counts, strict=True):
        if not count:
            raise Unroutable(
                f"{task}: no worker consumes the queue {queue!r} at this moment, and the call is not to wait for "
                "one (immediate). Nothing was sent."
            )
