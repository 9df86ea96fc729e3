from collections.abc import Iterator
from typing import Any

import pytest
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.frame import marshal
from pamqp.header import ContentHeader

from aiotask.connections.amqp.received import Inbox, Received, read_header


class Told:
    """What an inbox has told."""

    def __init__(self) -> None:
        self.confirmed: list[tuple[int, bool, bool]] = []
        self.returned: list[str] = []
        self.taken: list[Received] = []
        self.flows: list[None] = []
        self.inbox = Inbox(
            lambda *told: self.confirmed.append(told), self.returned.append, lambda: self.flows.append(None)
        )
        self.inbox.consumers[b"mine"] = self.taken.append

    def take(self, *frames: Any) -> list[bool]:
        """Give the inbox frames; return which were its own."""
        return [self.inbox.take(kind, payload) for kind, payload in map(parts, frames)]


def parts(frame: Any) -> tuple[int, bytes]:
    data = marshal(frame, 3)
    return data[0], data[7:-1]


def content(*bodies: bytes, **properties: Any) -> Iterator[Any]:
    yield ContentHeader(body_size=sum(map(len, bodies)), properties=commands.Basic.Properties(**properties))
    yield from map(ContentBody, bodies)


def deliver(
    tag: int, *bodies: bytes, consumer: str = "mine", redelivered: bool = False, **properties: Any
) -> list[Any]:
    begin = commands.Basic.Deliver(consumer, tag, redelivered, "exchange", "key")
    return [begin, *content(*bodies, **properties)]


def test_delivery_is_handed_to_its_consumer() -> None:
    told = Told()
    assert all(told.take(*deliver(7, b"body", redelivered=True, content_type="x/y", correlation_id="täsk")))
    [message] = told.taken
    assert (message.tag, message.redelivered, message.body) == (7, True, b"body")
    assert (message.properties.content_type, message.properties.correlation_id) == ("x/y", "täsk")


def test_answers_that_the_driver_never_asks_for_are_told() -> None:
    told = Told()
    assert told.take(commands.Channel.FlowOk(True), commands.Basic.QosOk(), commands.Channel.FlowOk(True)) == [
        True,
        False,
        True,
    ]
    assert len(told.flows) == 2


def test_body_may_come_in_pieces_or_be_empty() -> None:
    told = Told()
    told.take(*deliver(1, b"one", b"two", b"three"), *deliver(2), *deliver(3, b"x"))
    assert [(message.tag, message.body) for message in told.taken] == [(1, b"onetwothree"), (2, b""), (3, b"x")]


def test_delivery_to_who_has_gone_is_dropped_whole() -> None:
    told = Told()
    assert all(told.take(*deliver(1, b"body", consumer="gone"), *deliver(2, b"body")))
    assert [message.tag for message in told.taken] == [2]


def test_confirms_are_told_as_the_server_says_them() -> None:
    told = Told()
    assert all(told.take(commands.Basic.Ack(3, True), commands.Basic.Ack(5), commands.Basic.Nack(6, True)))
    assert told.confirmed == [(3, True, True), (5, False, True), (6, True, False)]


def test_what_was_returned_is_told_by_its_id() -> None:
    told = Told()
    returned = commands.Basic.Return(312, "NO_ROUTE", "", "key")
    assert all(told.take(returned, *content(b"body", message_id="mid"), commands.Basic.Ack(1)))
    assert (told.returned, told.confirmed, told.taken) == (["mid"], [(1, False, True)], [])


def test_answers_to_the_driver_are_left_to_it_with_their_contents() -> None:
    told = Told()
    got = commands.Basic.GetOk(1, False, "", "key", 0)
    assert not any(told.take(commands.Basic.QosOk(), got, *content(b"body", message_id="mid")))
    assert told.taken == []


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"content_type": "a", "content_encoding": "b", "delivery_mode": 2, "priority": 9, "app_id": "c"},
        {
            "headers": {"a": [1, {"b": None}], "c": True},
            "correlation_id": "x" * 255,
            "reply_to": "y",
            "message_id": "z",
        },
        {"headers": {"a": 1}, "expiration": "5000", "message_type": "t", "user_id": "u", "message_id": "z"},
    ],
)
def test_properties_are_read_as_the_driver_reads_them(properties: dict[str, Any]) -> None:
    [header] = content(**properties)
    size, read = read_header(header.marshal())
    assert size == 0
    assert {name: getattr(read, name) for name in properties} == properties
    others = {"content_type", "headers", "priority", "correlation_id", "reply_to", "message_id", "app_id"} - {
        *properties
    }
    assert {getattr(read, name) for name in others} <= {None}


def test_properties_that_cannot_be_read_are_none() -> None:
    told = Told()
    begin, header, body = deliver(1, b"body", headers={"a": "b"})
    kind, payload = parts(header)
    told.take(begin)
    told.inbox.take(kind, payload.replace(b"S\x00\x00\x00\x01b", b"?\x00\x00\x00\x01b"))
    told.take(body)
    [message] = told.taken
    assert (message.body, message.properties.headers) == (b"body", None)
