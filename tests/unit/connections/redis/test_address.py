"""What a Redis URL says, and what is said of one that can't be read."""

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.connection import Connection as BlockingConnection

from aiotask.connections.redis.address import Place, read_url
from aiotask.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("redis://", {"host": "localhost", "port": 6379}),
        ("redis://example.org", {"host": "example.org", "port": 6379}),
        ("redis://example.org:7000/3", {"host": "example.org", "port": 7000, "db": 3}),
        ("redis://example.org/?db=4", {"host": "example.org", "port": 6379, "db": 4}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("redis://:p%40ss%2Fword@h", {"host": "h", "port": 6379, "password": "p@ss/word"}),
        ("redis://me:secret@h/1", {"host": "h", "port": 6379, "username": "me", "password": "secret", "db": 1}),
        ("redis://h?client_name=web", {"host": "h", "port": 6379, "client_name": "web"}),
        ("unix:///run/redis.sock", {"path": "/run/redis.sock"}),
        (
            "unix://me:secret@/run/redis.sock?db=2",
            {"path": "/run/redis.sock", "db": 2} | {"username": "me", "password": "secret"},
        ),
        ("redis+unix:///run/redis.sock?db=2", {"path": "/run/redis.sock", "db": 2}),
        ("redis+socket:///run/redis.sock?virtual_host=2", {"path": "/run/redis.sock", "db": 2}),
    ],
)
def test_url_names_a_server(url: str, options: dict[str, Any]) -> None:
    address = read_url(url)
    assert address.options == options
    assert not address.sentinels
    assert not address.tls


@pytest.mark.parametrize(
    ("query", "required", "names"),
    [
        ("", "required", True),
        ("?ssl_cert_reqs=required", "required", True),
        ("?ssl_cert_reqs=CERT_REQUIRED", "required", True),
        ("?ssl_cert_reqs=CERT_OPTIONAL", "optional", True),
        ("?ssl_cert_reqs=none", "none", False),
        ("?ssl_cert_reqs=CERT_NONE", "none", False),
        ("?ssl_check_hostname=false", "required", False),
    ],
)
def test_tls_url_checks_certificates_unless_told_not_to(query: str, required: str, names: bool) -> None:
    address = read_url(f"rediss://h:7000/1{query}")
    assert address.tls
    assert address.options == {
        "host": "h",
        "port": 7000,
        "db": 1,
        "ssl_cert_reqs": required,
        "ssl_check_hostname": names,
    }


def test_tls_url_names_files(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    assert read_url(f"rediss://h?ssl_ca_certs={tmp_path}/ca.crt").options["ssl_ca_certs"] == f"{tmp_path}/ca.crt"


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:pw@h1:1001;sentinel://:pw@h2:1002;sentinel://h3/2?master_name=main",
        "sentinel://:pw@h1:1001/2;sentinel://:pw@h2:1002/2;sentinel://h3/2?master_name=main",
        "sentinel://:pw@h1:1001,h2:1002,h3/2?master_name=main",
        "redis+sentinel://:pw@h1:1001;redis+sentinel://h2:1002;h3/2?master_name=main",
    ],
)
def test_sentinel_url_names_sentinels_and_the_masters_name(url: str) -> None:
    address = read_url(url)
    assert address.sentinels == (Place("h1", 1001), Place("h2", 1002), Place("h3", 26379))
    assert address.master_name == "main"
    assert address.options == {"password": "pw", "db": 2, "port": 6379} or address.options == {
        "password": "pw",
        "db": 2,
    }
    assert address.sentinel_options == {}


def test_sentinel_url_gives_sentinels_a_password_of_their_own() -> None:
    address = read_url("sentinel://me:pw@h?master_name=m&sentinel_username=you&sentinel_password=other")
    assert address.options == {"username": "me", "password": "pw"}
    assert address.sentinel_options == {"username": "you", "password": "other"}
    assert "other" not in repr(address)


def test_sentinel_url_with_tls_uses_it_for_both() -> None:
    address = read_url("rediss+sentinel://h?master_name=m&ssl_cert_reqs=none")
    assert address.tls
    assert address.sentinel_options == address.options == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://h", "is no Redis URL"),
        ("redis", "is no Redis URL"),
        ("redis:///h/0", "something else than a database number"),
        ("redis://h/zero", "something else than a database number"),
        ("redis://h/0/1", "something else than a database number"),
        ("redis://:pass/word@h", "percent|can't be read|%2F"),
        ("redis://:pass#word@h", "%23"),
        ("redis://h:port", "can't be read"),
        ("redis://h:99999", "can't be read"),
        ("redis://h?db=x", "can't be read"),
        ("redis://h?client_nam=x", "'client_nam'.*Did you mean 'client_name'"),
        ("redis://h?socket_timeout=3", "'socket_timeout'.*broker_command_timeout"),
        ("redis://h?socket_connect_timeout=3", "broker_connection_timeout"),
        ("redis://h?ssl_cert_reqs=none", "rediss://"),
        ("rediss://h?ssl_cert_reqs=perhaps", "can't be used.*perhaps"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "a file that is not there, ssl_ca_certs=/no/such/file"),
        ("unix://relative.sock", "whole path"),
        ("unix://", "whole path"),
        ("redis+socket:///run/redis.sock?virtual_host=x", "can't be read"),
        ("sentinel://h", "master_name"),
        ("sentinel://h1;;h2?master_name=m", "names no host"),
        ("sentinel://:a@h1;sentinel://:b@h2?master_name=m", "several passwords"),
        ("sentinel://h1/1;sentinel://h2/2?master_name=m", "several passwords or databases"),
        ("sentinel://h1?master_name=m;sentinel://h2", "once, at the end"),
        ("redis://h?master_name=m", "'master_name'"),
    ],
)
def test_url_that_is_wrong_is_answered_with_the_remedy(url: str, why: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=why) as raised:
        read_url(url)
    assert "Write redis://user:password@host:6379/0" in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter2@h/zero",
        "redis://:hunter2@h?nonsense=1",
        "redis://:hun#ter2@h",
        "redis://:hunter2/x@h",
        "sentinel://:hunter2@h1;sentinel://:hunter2@h2",
        "sentinel://h1?master_name=m&sentinel_password=hunter2&x=1",
        "rediss://h?ssl_password=hunter2&x=1",
    ],
)
def test_password_is_in_no_message(url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        read_url(url)
    for error in (raised.value, raised.value.__cause__):
        assert "hunter" not in str(error)
        assert "ter2" not in str(error)


def test_password_is_not_in_the_repr() -> None:
    assert repr(read_url("redis://me:hunter2@h/1")) == "Address(redis://me:***@h/1)"


@pytest.mark.parametrize(
    ("url", "kind"),
    [("redis://h", Connection), ("rediss://h", SSLConnection), ("unix:///s", UnixDomainSocketConnection)],
)
def test_connection_never_repeats_by_itself(url: str, kind: type[Any]) -> None:
    connection = read_url(url).connection()
    assert type(connection) is kind
    assert connection.retry._retries == 0
    assert not connection.health_check_interval


def test_connection_for_threads_never_repeats_and_has_timeouts() -> None:
    connection = read_url("redis://h").connection(blocking_timeout=3)
    assert type(connection) is BlockingConnection
    assert connection.retry._retries == 0
    assert connection.socket_timeout == connection.socket_connect_timeout == 3
