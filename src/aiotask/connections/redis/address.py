"""Reads a Redis URL: where the server is, directly or behind Sentinels, and how to get in. No I/O but a look for files.

The part that all such URLs have in common is read by redis-py's own `parse_url`.
"""

import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import Connection as BlockingConnection
from redis.connection import SSLConnection as BlockingSSLConnection
from redis.connection import UnixDomainSocketConnection as BlockingUnixConnection
from redis.connection import parse_url
from redis.exceptions import RedisError

from aiotask.exceptions import ImproperlyConfigured
from aiotask.suggestions import did_you_mean
from aiotask.urls import mask_url

TCP_SCHEMES: Final = frozenset({"redis", "rediss"})
UNIX_SCHEMES: Final = frozenset({"unix", "redis+unix", "redis+socket"})
SENTINEL_SCHEMES: Final = frozenset({"sentinel", "redis+sentinel", "rediss+sentinel"})

_REDIS_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_FORMS: Final = (
    "redis://user:password@host:6379/0, rediss://... (TLS), unix:///path/to/redis.sock?db=0 or "
    "sentinel://:password@host1:26379;sentinel://host2:26379/0?master_name=mymaster"
)
_KEEPALIVE: Final = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
    if hasattr(socket, name)
}
"""When the system looks whether the other side is there: what listens and never speaks would notice nothing else."""
_HOSTS_END: Final = re.compile(r"[;,]")
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_PARAMETERS: Final = frozenset(
    {*_FILES, "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ciphers", "ssl_password"}
)
_PARAMETERS: Final = frozenset({"db", "username", "password", "client_name"})
_SENTINEL_PARAMETERS: Final = frozenset({"master_name", "sentinel_username", "sentinel_password"})
_INSTEAD: Final = {
    "socket_connect_timeout": "set 'broker_connection_timeout'",
    "socket_timeout": "set 'broker_command_timeout'",
    "timeout": "set 'broker_command_timeout'",
    "health_check_interval": "connections are always checked",
    "max_connections": "the number of connections does not grow with the load",
    "retry_on_timeout": "only what can be repeated without harm is, always",
    "decode_responses": "leave it out",
    "protocol": "leave it out",
}


class Place(NamedTuple):
    """One server to connect to."""

    host: str
    port: int


class Address(NamedTuple):
    """What a URL says. Its `repr` has the password masked."""

    masked: str
    tls: bool
    options: Mapping[str, Any]
    """For redis-py's connection classes: user, password, database, TLS; without host and port behind Sentinels."""
    sentinels: tuple[Place, ...] = ()
    sentinel_options: Mapping[str, Any] = {}
    master_name: str = ""

    def __repr__(self) -> str:
        return f"Address({self.masked})"

    def connection(self, place: Place | None = None, *, blocking_timeout: float | None = None) -> Any:
        """Return a connection of redis-py, not connected yet, to the server or to the master at `place`.

        Args:
            place: The master, behind Sentinels.
            blocking_timeout: Given, it is a synchronous connection, with that timeout for each step. An asynchronous
                one has none, and whoever uses it limits the whole: with one redis-py sends each command by
                `asyncio.wait_for`, which loses cancellations before Python 3.12.
        """
        return self._new(self.options, place, blocking_timeout)

    def sentinel_connection(self, place: Place, *, blocking_timeout: float | None = None) -> Any:
        """Return a connection of redis-py, not connected yet, to one of the Sentinels."""
        return self._new(self.sentinel_options, place, blocking_timeout)

    def _new(self, options: Mapping[str, Any], place: Place | None, timeout: float | None) -> Any:
        blocking = timeout is not None
        kind: Any
        if "path" in options:
            kind = BlockingUnixConnection if blocking else UnixDomainSocketConnection
        elif self.tls:
            kind = BlockingSSLConnection if blocking else SSLConnection
        else:
            kind = BlockingConnection if blocking else Connection
        where = {} if place is None else place._asdict()
        if "path" not in options:
            where |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        # RESP 2: published messages and replies differ in shape, which is all that is needed. No `retry`: of redis-py's
        # connections, those that get none connect once.
        return kind(**options, **where, protocol=2, socket_timeout=timeout, socket_connect_timeout=timeout)


def read_url(url: str) -> Address:
    """Return what `url` says.

    Raises:
        ImproperlyConfigured: It can't be read, or asks for what there is not; the message says what to write.
    """
    masked = mask_url(url)
    scheme, separator, rest = url.partition("://")
    try:
        if not separator:
            raise _wrong(masked, "is no Redis URL")
        if scheme in SENTINEL_SCHEMES:
            address = _read_sentinel(masked, scheme, rest)
        elif scheme in UNIX_SCHEMES:
            address = Address(masked, tls=False, options=_read_unix(masked, rest))
        elif scheme in TCP_SCHEMES:
            address = _read_tcp(masked, scheme, rest)
        else:
            raise _wrong(masked, "is no Redis URL")
    except ValueError as error:  # urllib's and redis-py's
        raise _wrong(masked, f"can't be read ({error})") from error
    _try_options(address)
    return address


def _read_tcp(masked: str, scheme: str, rest: str) -> Address:
    tls = scheme == "rediss"
    options = _read_common(masked, scheme, rest, _PARAMETERS | (_TLS_PARAMETERS if tls else frozenset()))
    return Address(masked, tls, {"host": "localhost", "port": _REDIS_PORT, **options})


def _read_unix(masked: str, rest: str) -> dict[str, Any]:
    options = _read_common(masked, "unix", rest, _PARAMETERS | {"virtual_host"})
    if not os.path.isabs(options.get("path", "")):
        raise _wrong(masked, "does not name the socket by its whole path")
    database = options.pop("virtual_host", None)  # kombu's word
    return options if database is None else {"db": int(database.strip("/")), **options}


def _read_sentinel(masked: str, scheme: str, rest: str) -> Address:
    """Read kombu's form: one URL for each Sentinel, `;` between them. `,` does as well, and the scheme once."""
    tls = scheme == "rediss+sentinel"
    body, _, query = rest.partition("?")
    if "://" in query:
        raise _wrong(masked, "has parameters in its middle; write them once, at the end")
    sentinels: list[Place] = []
    users: set[str] = set()
    databases: set[str] = set()
    for part in _HOSTS_END.split(body):
        user, _, host_and_path = part.removeprefix(f"{scheme}://").rpartition("@")
        host, _, database = host_and_path.partition("/")
        sentinels.append(_read_place(masked, host))
        users |= {user} - {""}
        databases |= {database} - {""}
    if len(users) > 1 or len(databases) > 1:
        raise _wrong(masked, "has several passwords or databases, which all are the master's; write one")
    one = f"{''.join(users)}@master/{''.join(databases)}?{query}"
    allowed = _PARAMETERS | _SENTINEL_PARAMETERS | (_TLS_PARAMETERS if tls else frozenset())
    options = _read_common(masked, "rediss" if tls else "redis", one, allowed)
    del options["host"]
    master_name = options.pop("master_name", "")
    if not master_name:
        raise _wrong(masked, "does not say for which master the Sentinels are asked; add ?master_name=mymaster")
    of_sentinels = {name: value for name, value in options.items() if name in _TLS_PARAMETERS}
    for name in ("username", "password"):
        if f"sentinel_{name}" in options:
            of_sentinels[name] = options.pop(f"sentinel_{name}")
    return Address(masked, tls, options, tuple(sentinels), of_sentinels, master_name)


def _read_place(masked: str, text: str) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise _wrong(masked, "names no host between its separators")
    return Place(parts.hostname, parts.port or _SENTINEL_PORT)


def _read_common(masked: str, scheme: str, rest: str, allowed: frozenset[str]) -> dict[str, Any]:
    """Read user, password, host, port, database and parameters, strictly: redis-py passes over what it can't read."""
    url = f"{scheme}://{rest}"
    parts = urlsplit(url)
    if parts.fragment or (scheme != "unix" and not re.fullmatch(r"/?\d*/?", parts.path)):
        raise _wrong(
            masked,
            "has something else than a database number after the host; in a password, write / ? # @ as %2F %3F %23 %40",
        )
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if name not in allowed:
            instead = _INSTEAD.get(name)
            if name in _TLS_PARAMETERS:
                instead = "it is for TLS: write rediss://"
            near = did_you_mean(name, allowed)
            hint = f": {instead}" if instead else near and f".{near}"
            raise _wrong(masked, f"has the parameter {name!r}, which is not known here{hint}")
    options: dict[str, Any] = dict(parse_url(url))  # type: ignore[no-untyped-call]
    options.pop("connection_class", None)
    if scheme == "rediss":
        # `CERT_NONE` is what Celery's users write. Names are checked unless that is given up in writing: redis-py's
        # default has changed between its versions.
        required = str(options.get("ssl_cert_reqs", "required")).lower().removeprefix("cert_")
        options["ssl_cert_reqs"] = required
        options.setdefault("ssl_check_hostname", required != "none")
    return options


def _try_options(address: Address) -> None:
    for name in _FILES:
        path = address.options.get(name)
        if path is not None and not os.path.isfile(path):
            raise _wrong(address.masked, f"names a file that is not there, {name}={path}")
    try:
        address.connection(Place("master", 0) if address.sentinels else None)
    except (RedisError, TypeError, ValueError) as error:
        raise _wrong(address.masked, f"can't be used ({error})") from error


def _wrong(masked: str, what: str) -> ImproperlyConfigured:
    end = "" if what.endswith("?") else "."
    return ImproperlyConfigured(f"The URL {masked!r} {what}{end} Write {_FORMS}.")
