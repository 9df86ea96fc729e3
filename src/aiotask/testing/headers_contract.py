"""The clauses of `aiotask.protocols.HeaderCarrier`: what lies beside the body comes with it, wherever it has been."""

from typing import Any, Final

from aiotask.message import Delivery, Envelope, Settlement, Start, Verdict, new_id
from aiotask.protocols import HeaderCarrier
from aiotask.testing.harness import LINE, BrokerHarness, settle

HEADERS: Final[dict[str, Any]] = {
    "task": "proj.add",
    "retries": 3,
    "eta": None,
    "ignore_result": False,
    "timelimit": [60, None],
    "stamps": {"tenant": "acme"},
    "x-of-the-caller": "ü",
    "x-depth": 2,
}
PROPERTIES: Final[dict[str, Any]] = {
    "content_encoding": "utf-8",
    "reply_to": "a-queue",
    "app_id": "an-app",
}


def _foreign(harness: BrokerHarness, **fields: Any) -> Envelope:
    task_id = new_id()
    properties = PROPERTIES | {"correlation_id": task_id}
    return harness.envelope(id=task_id, headers=dict(HEADERS), properties=properties, **fields)


def _carried(found: Any) -> None:
    """Fail unless all that was sent is there; more may be."""
    for name, sent, came in (("headers", HEADERS, found.headers), ("properties", PROPERTIES, found.properties)):
        assert came is not None, f"the {name} are gone"
        changed = {key: came.get(key, "is gone") for key in sent if came.get(key, "is gone") != sent[key]}
        assert not changed, f"the {name} have changed: {changed}"


async def _taken(harness: BrokerHarness, **fields: Any) -> Delivery:
    await harness.publish(_foreign(harness, **fields))
    [delivery] = await harness.take(await harness.consumer())
    return delivery


async def ability_is_told_when_headers_are_carried(harness: BrokerHarness) -> None:
    """It is a `HeaderCarrier`."""
    broker = await harness.broker()
    assert isinstance(broker, HeaderCarrier), "it has no attribute carries_headers"
    assert broker.carries_headers is True


async def headers_and_properties_come_when_they_were_sent(harness: BrokerHarness) -> None:
    """They come back as they were sent, and the rest of the envelope with them."""
    delivery = await _taken(harness, body=b"foreign", content_type="application/json")
    assert (delivery.body, delivery.content_type) == (b"foreign", "application/json")
    _carried(delivery)


async def headers_are_none_when_the_message_has_none(harness: BrokerHarness) -> None:
    """A message without headers comes without: the broker's own are not shown."""
    await harness.publish(harness.envelope())
    [delivery] = await harness.take(await harness.consumer())
    assert delivery.headers is None, f"it has {delivery.headers!r}"


async def headers_come_when_it_was_delayed(harness: BrokerHarness) -> None:
    """A delayed message keeps them."""
    _carried(await _taken(harness, delay_s=0.05))


async def headers_come_when_it_was_released(harness: BrokerHarness) -> None:
    """A released message keeps them, at once and later."""
    await harness.publish(_foreign(harness))
    consumer = await harness.consumer()
    for delay_s in (0.0, 0.05):
        [delivery] = await harness.take(consumer)
        _carried(delivery)
        await settle(consumer, Settlement(delivery, "release", delay_s))
    _carried((await harness.take(consumer))[0])


async def headers_come_when_it_was_lost(harness: BrokerHarness) -> None:
    """A message whose consumer was lost keeps them."""
    _, delivery = await harness.lost(headers=dict(HEADERS), properties=dict(PROPERTIES))
    _carried(delivery)


async def headers_come_when_it_was_parked(harness: BrokerHarness) -> None:
    """A parked message keeps them."""
    await harness.park(_foreign(harness))
    [delivery] = await (await harness.consumer()).unpark({LINE: 1})
    _carried(delivery)


async def headers_come_when_it_is_replaced(harness: BrokerHarness) -> None:
    """The envelope of a `replace` is published with its own."""
    await harness.publish(harness.envelope())
    consumer = await harness.consumer()
    [delivery] = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "replace", envelope=_foreign(harness)))
    _carried((await harness.take(consumer))[0])


async def headers_come_when_a_dead_letter_is_read_and_replayed(harness: BrokerHarness) -> None:
    """A dead letter shows them, and brings them along when it is replayed."""
    await harness.publish(_foreign(harness))
    consumer = await harness.consumer()
    [delivery] = await harness.take(consumer)
    await settle(consumer, Settlement(delivery, "dead", reason="DecodeError", detail="why"))
    admin = await harness.admin()
    [letter] = await admin.dead_letters([harness.queue])
    _carried(letter)
    assert await admin.replay_dead([letter.id]) == [letter.id]
    _carried((await harness.take(consumer))[0])


async def message_has_expired_when_its_reader_says_so(harness: BrokerHarness) -> None:
    """`begin` goes by an `expires_at` that the reader has set, who knows what stands in the headers."""
    await harness.publish(_foreign(harness), _foreign(harness))
    consumer = await harness.consumer()
    over, not_over = await harness.take(consumer, 2)
    over.expires_at, not_over.expires_at = harness.now() - 5.0, harness.now() + 60.0
    verdicts = await consumer.begin([Start(over), Start(not_over)])
    assert verdicts == [Verdict.EXPIRED, Verdict.RUN], verdicts


CLAUSES: Final = (
    message_has_expired_when_its_reader_says_so,
    ability_is_told_when_headers_are_carried,
    headers_and_properties_come_when_they_were_sent,
    headers_are_none_when_the_message_has_none,
    headers_come_when_it_was_delayed,
    headers_come_when_it_was_released,
    headers_come_when_it_was_lost,
    headers_come_when_it_was_parked,
    headers_come_when_it_is_replaced,
    headers_come_when_a_dead_letter_is_read_and_replayed,
)
