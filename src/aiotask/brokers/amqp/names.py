"""What the queues and exchanges are called, and what they are made with."""

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from aiotask.exceptions import ImproperlyConfigured
from aiotask.routing import Binding

_NOT_TAKEN: Final = re.compile(r"[^a-zA-Z0-9\-_.:@#,/+ ]")
_LONGEST: Final = 255
"""AMQP's names have at most so many bytes."""
_LONGEST_EXCHANGE: Final = 127
"""The driver takes no longer name of an exchange."""


class Kind(Enum):
    """What of a queue's messages lies in which queue of the server. The value ends its name."""

    MAIN = ""
    RETURNED = ".returned"
    """Handed back, or lost once: consumed ahead of what waits."""
    SUSPECTS = ".suspects"
    """Lost more often: taken one at a time by each consumer, so that a further loss is its own."""
    DEAD = ".dead"
    WORKERS = ".workers"
    """Always empty: who consumes it is a worker of the queue."""


class Source(NamedTuple):
    """A queue of the server that messages of ours are taken from."""

    queue: str
    kind: Kind

    @property
    def name(self) -> str:
        """Its name on the server."""
        return server_name(f"{self.queue}{self.kind.value}")


def line_name(queue: str, line: str) -> str:
    """Return the name of the server's queue that is a waiting line."""
    return server_name(f"{queue}.line.{line}")


@lru_cache(maxsize=4096)
def server_name(name: str) -> str:
    """Return a name as the server, and the driver, take it: nearly always as it is.

    Of a letter that they don't take comes `@` and its number; a name that is too long ends in a hash of the whole.
    """
    fitting = _NOT_TAKEN.sub(lambda found: f"@{ord(found[0]):x}@", name)
    if len(fitting) <= _LONGEST:
        return fitting
    digest = word(name)
    return f"{fitting[: _LONGEST - len(digest) - 1]}.{digest}"


def check_binding(binding: Binding) -> None:
    """See that the server and the driver take a binding as it is: other programs know it by that.

    Raises:
        ImproperlyConfigured: They don't.
    """
    exchange, key = binding.exchange, binding.key
    if _NOT_TAKEN.search(exchange) or len(exchange) > _LONGEST_EXCHANGE:
        raise ImproperlyConfigured(
            f"Queue {binding.queue!r:.80}: the exchange {exchange!r:.160} can't be on RabbitMQ. A name takes up to "
            f"{_LONGEST_EXCHANGE} of the letters a to z and A to Z, digits, spaces and - _ . : @ # , / +."
        )
    size = len(key.encode())
    if size > _LONGEST:
        raise ImproperlyConfigured(
            f"Queue {binding.queue!r:.80}: its routing_key has {size} bytes; AMQP takes at most {_LONGEST}."
        )


def word(name: str) -> str:
    """Return a word without dots that stands for a name in a topic exchange's keys."""
    return blake2b(name.encode(), digest_size=12).hexdigest()


class Make(NamedTuple):
    """How queues are made that there are not."""

    queue_type: str = "quorum"
    max_priority: int | None = None
    """Classic queues then, which are the only ones with priorities."""

    def arguments(self, kind: Kind | None) -> Mapping[str, Any]:
        """Return the arguments of a queue of this kind; None is a waiting line."""
        if self.max_priority is not None and kind in {Kind.MAIN, Kind.RETURNED, None}:
            return {"x-max-priority": self.max_priority}
        if kind is Kind.WORKERS or self.queue_type == "classic":
            return {}
        return {"x-queue-type": self.queue_type}
