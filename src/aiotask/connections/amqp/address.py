"""Reads an AMQP URL: where the server is, which virtual host, and how to get in. No I/O."""

import os
import socket
from typing import Final, NamedTuple

from yarl import URL

from aiotask.exceptions import ImproperlyConfigured
from aiotask.suggestions import did_you_mean
from aiotask.urls import mask_url

SCHEMES: Final = ("amqp", "amqps")
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_PARAMETERS: Final = frozenset(
    {"heartbeat", "name", "auth", "cafile", "capath", "cadata", "keyfile", "certfile", "no_verify_ssl"}
)
_FORM: Final = "amqp://user:password@host:5672/vhost, or amqps:// for TLS; the virtual host / is written %2F"


class Address(NamedTuple):
    """What a URL says. Its `repr` has the password masked."""

    masked: str
    url: URL
    """For the driver: whole, with the heartbeat and a name for the server's list of connections."""
    vhost: str

    def __repr__(self) -> str:
        return f"Address({self.masked})"


def read_url(url: str, *, heartbeat: float = 60.0) -> Address:
    """Return what `url` says.

    Args:
        url: amqp:// or amqps://.
        heartbeat: Seconds, where the URL says nothing; 0 for none.

    Raises:
        ImproperlyConfigured: It can't be read; the message says what to write.
    """
    masked = mask_url(url)
    try:
        read = URL(url)
        port = read.explicit_port
    except ValueError as error:
        raise ImproperlyConfigured(f"{masked!r} is no AMQP URL ({error}); write {_FORM}.") from None
    if read.scheme not in SCHEMES or not read.host:
        raise ImproperlyConfigured(f"{masked!r} is no AMQP URL; write {_FORM}.")
    unknown = next((name for name in read.query if name not in _PARAMETERS), None)
    if unknown is not None:
        raise ImproperlyConfigured(
            f"{masked!r} has the parameter {unknown!r}, which is unknown.{did_you_mean(unknown, _PARAMETERS)}"
        )
    whole = read.with_port(port or _PORTS[read.scheme])
    given = whole.query
    more = {
        "heartbeat": given.get("heartbeat", f"{heartbeat:.0f}"),
        "name": given.get("name", f"aiotask {os.getpid()}@{socket.gethostname()}"),
    }
    vhost = read.path.removeprefix("/") or "/"
    return Address(masked, whole.update_query(more), vhost.replace("%2F", "/"))
