"""Brokers and result backends by the scheme of their URL: the one place that imports by name.

A driver that nobody's URL asks for is never imported.
"""

import importlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiotask.exceptions import ImproperlyConfigured
from aiotask.protocols import Broker, ResultBackend
from aiotask.settings import Settings
from aiotask.suggestions import did_you_mean
from aiotask.urls import complete_redis, mask_url, resolve_sqlite


class _Place(NamedTuple):
    module: str
    name: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


_REDIS: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+unix",
    "redis+socket",
    "sentinel",
    "redis+sentinel",
    "rediss+sentinel",
)
_AMQP: Final = ("amqp", "amqps")
_TCP: Final = _REDIS[:2]
_LINKS: Final = {
    "memory": _Place("aiotask.connections.memory", "MemoryLink"),
    "sqlite": _Place("aiotask.connections.sqlite", "SqliteLink"),
    **dict.fromkeys(_REDIS, _Place("aiotask.connections.redis", "RedisLink")),
    **dict.fromkeys(_AMQP, _Place("aiotask.connections.amqp", "AmqpLink")),
}
_BROKERS: Final = {
    "memory": _Place("aiotask.brokers.memory", "MemoryBroker"),
    "sqlite": _Place("aiotask.brokers.sqlite", "SqliteBroker"),
    **dict.fromkeys(_REDIS, _Place("aiotask.brokers.redis", "RedisBroker")),
    **dict.fromkeys(_AMQP, _Place("aiotask.brokers.amqp", "AmqpBroker")),
}
_BACKENDS: Final = {
    "memory": _Place("aiotask.results.memory", "MemoryBackend"),
    "sqlite": _Place("aiotask.results.sqlite", "SqliteBackend"),
    **dict.fromkeys(_REDIS, _Place("aiotask.results.redis", "RedisBackend")),
    "rpc": _Place("aiotask.results.rpc", "RpcBackend"),
}
_NOT_YET: Final = frozenset(
    {
        "mongodb",
        "tyrant",
        "disabled",
        "cache+memcached",
    }
)


def implied_backend(broker_url: str) -> str:
    """Return the result backend that a broker brings along when none is named."""
    return "rpc://" if broker_url.startswith("amqp") else broker_url


def check_url(setting: str, url: str) -> str:
    """Return the scheme of a broker or backend URL.

    Raises:
        ImproperlyConfigured: The scheme is unknown, or not available in this version.
    """
    table = _BROKERS if setting == "broker_url" else _BACKENDS
    scheme, separator, _ = url.partition("://")
    if separator and scheme in table:
        return scheme
    known = ", ".join(f"{name}://" for name in table)
    if separator and (scheme in _NOT_YET or scheme.startswith("db+")):
        raise ImproperlyConfigured(
            f"{setting} {mask_url(url)!r}: {scheme}:// is not available in this version yet; there are {known}."
        )
    hint = did_you_mean(scheme, [*table, *_NOT_YET])
    raise ImproperlyConfigured(f"{setting} {mask_url(url)!r}: unknown scheme; there are {known}.{hint}")


def make_pair(broker_url: str, backend_url: str, settings: Settings) -> tuple[Broker, ResultBackend]:
    """Make a broker and a result backend; they share a link where both URLs name the same place. No I/O.

    Raises:
        ImproperlyConfigured: A URL's scheme is unknown, or its rest can't be read.
    """
    check_url("broker_url", broker_url)
    check_url("result_backend", backend_url)
    links: dict[str, Any] = {}

    def link(url: str) -> tuple[str, Any]:
        scheme = url.partition("://")[0]
        key = whole_url(url)
        if key not in links:
            links[key] = _make_link(scheme, url, settings)
        return scheme, links[key]

    scheme, broker_link = link(broker_url)
    broker: Broker = _BROKERS[scheme].load()(broker_link, **_broker_options(scheme, settings))
    if backend_url.startswith("rpc:"):
        return broker, _make_rpc(scheme, broker_link, settings)
    scheme, backend_link = link(backend_url)
    backend: ResultBackend = _BACKENDS[scheme].load()(backend_link)
    return broker, backend


def _make_rpc(broker_scheme: str, link: Any, settings: Settings) -> ResultBackend:
    if broker_scheme not in _AMQP:
        raise ImproperlyConfigured(
            f"result_backend 'rpc://' sends results over the broker, and {broker_scheme}:// has no reply queues: it "
            "takes an amqp:// broker. Leave it out to have the results where the messages are."
        )
    options = {"persistent": settings.result_persistent, "expires": settings.result_expires}
    backend: ResultBackend = _BACKENDS["rpc"].load()(link, **options)
    return backend


def _broker_options(scheme: str, settings: Settings) -> dict[str, Any]:
    if scheme not in {*_REDIS, *_AMQP}:
        return {}
    options: dict[str, Any] = {"publish_timeout": settings.broker_publish_timeout}
    if scheme in _AMQP:
        options["queue_type"] = settings.broker_transport_options.get("queue_type", "quorum")
        options["max_priority"] = settings.task_queue_max_priority
        options["bindings"] = settings.router.bindings()
    return options


def make_backend(url: str, settings: Settings) -> ResultBackend:
    """Make a result backend with a link of its own. No I/O.

    Raises:
        ImproperlyConfigured: The URL's scheme is unknown, or its rest can't be read.
    """
    scheme = check_url("backend", url)
    if scheme == "rpc":
        raise ImproperlyConfigured(
            "A task can't have a result backend 'rpc://' of its own: whoever waits has one reply queue for all. Set "
            "result_backend."
        )
    backend: ResultBackend = _BACKENDS[scheme].load()(_make_link(scheme, url, settings))
    return backend


def whole_url(url: str) -> str:
    """Return the URL in full: a SQLite path absolute, a Redis URL with its port and database.

    Processes of a project so meet in one file, and two ways to write one place are seen to be one.
    """
    scheme = url.partition("://")[0]
    if scheme == "sqlite":
        return f"sqlite:///{resolve_sqlite(url, Path.cwd())}"
    return complete_redis(url) if scheme in _TCP else url


def _make_link(scheme: str, url: str, settings: Settings) -> Any:
    kind = _LINKS[scheme].load()
    options = settings.broker_transport_options
    if scheme == "sqlite":
        return kind(whole_url(url).removeprefix("sqlite:///"), synchronous=options.get("synchronous", "FULL"))
    if scheme in _REDIS:
        return kind(
            url,
            connection_timeout=settings.broker_connection_timeout,
            command_timeout=settings.broker_command_timeout,
            key_prefix=options.get("key_prefix", "aiotask"),
        )
    if scheme in _AMQP:
        return kind(
            url,
            connection_timeout=settings.broker_connection_timeout,
            command_timeout=settings.broker_command_timeout,
            heartbeat=settings.broker_heartbeat,
            key_prefix=options.get("key_prefix", "aiotask"),
        )
    return kind()
