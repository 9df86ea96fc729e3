"""The errors of the link, told as the broker's."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aiotask.brokers.amqp.sender import Unconfirmed, Unsendable
from aiotask.connections.amqp import (
    AmqpLink,
    ChannelError,
    LinkClosed,
    LinkDown,
    ServerBlocked,
    ServerRefused,
    Translation,
)
from aiotask.exceptions import BrokerConnectionError, BrokerError, BrokerFull

ERRORS: Final = Translation(BrokerConnectionError, BrokerError, BrokerFull)
LINK_ERRORS: Final = (LinkClosed, LinkDown, ChannelError, ServerRefused)


@contextmanager
def settling(link: AmqpLink) -> Generator[None]:
    """Raise the broker's errors for those of the link and of the sender."""
    with link.translating(ERRORS):
        try:
            yield
        except Unconfirmed as error:
            if isinstance(error.why, ServerBlocked):
                raise error.why from error
            raise BrokerError(f"RabbitMQ {link.place} has not confirmed {why_unconfirmed(error)}") from error
        except Unsendable as error:
            raise BrokerError(f"What was to be sent to RabbitMQ {link.place} is no message: {error}.") from error


def why_unconfirmed(error: Unconfirmed) -> str:
    """Return the end of a sentence."""
    count = len(error.positions)
    said = str(error.why).rstrip(".")
    return f"{count} message{'s' if count != 1 else ''} in time{f': {said}' if said else ''}."
