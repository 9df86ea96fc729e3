"""Celery's remote control as messages (kombu's pidbox): commands and answers, made and read. No I/O."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

import msgspec

EXCHANGE: Final = "celery.pidbox"
"""Fanout, not durable: every worker hears every command."""
REPLY_EXCHANGE: Final = "reply.celery.pidbox"
"""Direct, not durable: an answer goes to who has asked."""
CONTENT_TYPE: Final = "application/json"
PROPERTIES: Final = {"content_encoding": "utf-8"}
OURS: Final = "aiotask"
"""A header of answers: a worker of ours has sent it, not one of Celery's."""


class _ReplyTo(msgspec.Struct):
    exchange: str
    routing_key: str


class _Body(msgspec.Struct):
    method: str
    arguments: dict[str, Any] | None = None
    destination: list[str] | None = None
    pattern: str | None = None
    matcher: str | None = None
    ticket: str | None = None
    reply_to: _ReplyTo | None = None


class Command(NamedTuple):
    """What a node is asked to do."""

    method: str
    arguments: Mapping[str, Any]
    reply_to: tuple[str, str] | None
    """The exchange and the routing key of the answer; None where none is wanted."""
    ticket: str | None
    clock: int


class Answer(NamedTuple):
    """What a node answers."""

    exchange: str
    routing_key: str
    body: bytes
    headers: dict[str, Any]


_decode = msgspec.json.Decoder(_Body).decode
_decode_answer = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder(enc_hook=repr).encode


def read_command(body: bytes, headers: Mapping[str, Any], node: str, now: float) -> Command | None:
    """Return what `node` is asked; None where it is not meant, it is too late, or the message is none.

    Args:
        body: Of the message.
        headers: Of the message.
        node: The node's name.
        now: Epoch seconds; a sender's clock that is behind makes its commands late.
    """
    try:
        said = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    expires, clock = headers.get("expires"), headers.get("clock")
    if isinstance(expires, (int, float)) and 0 < expires < now:
        return None
    if said.destination is not None and node not in said.destination:
        return None
    # A regular expression (pcre) of anybody's could keep the worker busy for ever: it is no node's name here.
    if said.pattern is not None and not (said.matcher in (None, "glob") and fnmatchcase(node, said.pattern)):
        return None
    to = said.reply_to
    return Command(
        said.method,
        said.arguments or {},
        None if to is None else (to.exchange, to.routing_key),
        said.ticket,
        clock if isinstance(clock, int) else 0,
    )


def make_answer(command: Command, node: str, reply: Any) -> Answer | None:
    """Return the message that answers a command; None where no answer is wanted."""
    if command.reply_to is None:
        return None
    exchange, routing_key = command.reply_to
    headers = {"ticket": command.ticket, "clock": command.clock + 1, OURS: True}
    return Answer(exchange, routing_key, _encode({node: reply}), headers)


def make_command(
    method: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, ticket: str, reply_queue: str
) -> tuple[bytes, dict[str, Any]]:
    """Return the body and the headers of a command that every worker hears, and that holds however late it is heard.

    Answers go straight to a queue, by the exchange that has no name, which Celery's workers do not declare.
    """
    reply_to = {"exchange": "", "routing_key": reply_queue}
    said = {"pattern": None, "matcher": None, "ticket": ticket, "reply_to": reply_to}
    body = {"method": method, "arguments": arguments, "destination": destination, **said}
    return _encode(body), {"clock": 0, "expires": 0}


def read_answer(body: bytes, headers: Mapping[str, Any], ticket: str) -> dict[str, Any]:
    """Return an answer to a ticket by the name of its node; nothing where it is none."""
    if headers.get("ticket") != ticket:
        return {}
    try:
        return _decode_answer(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
