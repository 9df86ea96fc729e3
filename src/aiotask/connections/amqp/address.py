"""Reads an AMQP URL: where the server is, which virtual host, and how to get in. No I/O but a look at files."""

import base64
import os
import socket
import ssl
from collections.abc import Mapping
from math import ceil
from typing import Final, NamedTuple

from yarl import URL

from aiotask.exceptions import ImproperlyConfigured
from aiotask.suggestions import did_you_mean
from aiotask.urls import mask_url

SCHEMES: Final = ("amqp", "amqps")
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_FILES: Final = ("cafile", "certfile", "keyfile")
_CERTIFICATES: Final = frozenset({*_FILES, "capath", "cadata"})
_TLS_PARAMETERS: Final = _CERTIFICATES | {"no_verify_ssl"}
_PARAMETERS: Final = frozenset({"heartbeat", "name", "auth"}) | _TLS_PARAMETERS
_MECHANISMS: Final = ("plain", "external")
_LONGEST_NAME_BYTES: Final = 255
_LONGEST_HEARTBEAT_S: Final = 65534
_FORM: Final = "amqp://user:password@host:5672/vhost, or amqps:// for TLS; the virtual host / is written %2F"


class Address(NamedTuple):
    """What a URL says. Its `repr` has the password masked."""

    masked: str
    url: URL
    """For the driver: whole, with the heartbeat and a name for the server's list of connections."""
    vhost: str

    @property
    def tls(self) -> bool:
        """Whether the connection is by TLS."""
        return self.url.scheme == "amqps"

    def __repr__(self) -> str:
        return f"Address({self.masked})"


def read_url(url: str, *, heartbeat: float = 60.0) -> Address:
    """Return what `url` says.

    Args:
        url: amqp:// or amqps://.
        heartbeat: Seconds, where the URL says nothing; 0 for none. AMQP takes whole ones: the next larger are.

    Raises:
        ImproperlyConfigured: It can't be read, or asks for what there is not; the message says what to write.
    """
    masked = mask_url(url)
    try:
        read = URL(url)
        port = read.explicit_port
    except ValueError as error:
        raise ImproperlyConfigured(f"{masked!r} is no AMQP URL ({error}); write {_FORM}.") from None
    if read.scheme not in SCHEMES or not read.host:
        raise ImproperlyConfigured(f"{masked!r} is no AMQP URL; write {_FORM}.")
    if port == 0:
        raise ImproperlyConfigured(f"{masked!r} has the port 0, where nothing can listen; write {_FORM}.")
    whole = read.with_port(port or _PORTS[read.scheme])
    given = whole.query
    more = {
        "heartbeat": given.get("heartbeat", str(ceil(heartbeat))),
        "name": given.get("name", f"aiotask {os.getpid()}@{socket.gethostname()}"),
    }
    vhost = read.path.removeprefix("/") or "/"
    address = Address(masked, whole.update_query(more), vhost.replace("%2F", "/"))
    wrong = _wrong_parameter(address)
    if wrong:
        raise ImproperlyConfigured(f"{masked!r} {wrong}")
    return address


def _wrong_parameter(address: Address) -> str | None:
    """Return what is wrong with the parameters, as the end of a sentence; None where nothing is."""
    query = address.url.query
    if len(address.vhost.encode()) > _LONGEST_NAME_BYTES:
        return f"has a virtual host whose name is longer than {_LONGEST_NAME_BYTES} bytes, which AMQP does not take."
    unknown = next((name for name in query if name not in _PARAMETERS), None)
    if unknown is not None:
        return f"has the parameter {unknown!r}, which is unknown.{did_you_mean(unknown, _PARAMETERS)}"
    if not query["heartbeat"].isdecimal() or int(query["heartbeat"]) > _LONGEST_HEARTBEAT_S:
        return f"has a heartbeat of {query['heartbeat']!r}; it is in whole seconds, {_LONGEST_HEARTBEAT_S} at most."
    if query.get("auth", "plain").lower() not in _MECHANISMS:
        return f"asks for auth={query['auth']}; there are {' and '.join(_MECHANISMS)}."
    for_tls = next((name for name in query if name in _TLS_PARAMETERS), None)
    if not address.tls:
        return None if for_tls is None else f"has the parameter {for_tls!r}, which is for TLS: write amqps://."
    if query.get("no_verify_ssl", "0") not in {"0", "1"}:
        return "has no_verify_ssl, which is 0, or 1 for a server that anybody may be."
    return _wrong_certificates(query) if _CERTIFICATES & set(query) else None


def _wrong_certificates(query: Mapping[str, str]) -> str | None:
    absent = next((name for name in _FILES if name in query and not os.path.isfile(query[name])), None)
    if absent is not None:
        return f"names a file that is not there, {absent}={query[absent]}."
    if "capath" in query and not os.path.isdir(query["capath"]):
        return f"names a folder that is not there, capath={query['capath']}."
    if "keyfile" in query and "certfile" not in query:
        return "has a keyfile and no certfile, which it is the key of."
    try:
        data = base64.b64decode(query["cadata"], validate=True) if "cadata" in query else None
        context = ssl.create_default_context(cafile=query.get("cafile"), capath=query.get("capath"), cadata=data)
        if "certfile" in query:
            context.load_cert_chain(query["certfile"], query.get("keyfile"), password=_no_password)
    except (OSError, ValueError) as error:  # those of ssl are OSErrors
        return f"has certificates that can't be used ({error}). Files are PEM; cadata is DER, base64-encoded."
    return None


def _no_password() -> str:
    """Answer instead of a person at the terminal, whom OpenSSL would ask."""
    raise ValueError("the key is encrypted")
