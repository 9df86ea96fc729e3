"""Gives messages to the broker: asks first what has to be asked, and says for each message whether it is durable."""

import asyncio
from collections.abc import Sequence

from aiotask.exceptions import BrokerError, ImproperlyConfigured, PublishError, Unroutable
from aiotask.message import Envelope
from aiotask.protocols import Broker, Outgoing, QueueAdmin


async def publish(broker: Broker, batch: Sequence[Envelope], limit: float) -> list[Exception | None] | None:
    """Publish `batch`; return the error of each message, None for one that is durable; None when all are.

    Args:
        broker: An open one.
        batch: In the order in which they are sent.
        limit: Seconds after which what is not confirmed counts as not sent (`broker_publish_timeout`).

    Cost: one round trip.
    """
    try:
        async with asyncio.timeout(limit):
            await broker.publish(batch)
    except PublishError as error:
        unsent = set(error.unsent)
        return [error if envelope.id in unsent else None for envelope in batch]
    except TimeoutError as error:
        late = PublishError(
            f"The broker did not confirm within {limit:g} s (broker_publish_timeout); "
            "the messages may or may not be stored.",
            [envelope.id for envelope in batch],
        )
        late.__cause__ = error
        return [late] * len(batch)
    except BrokerError as error:
        return [error] * len(batch)
    return None


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
