import pytest

from aiotask.connections.amqp.address import read_url
from aiotask.exceptions import ImproperlyConfigured


@pytest.mark.parametrize(
    ("url", "vhost", "port"),
    [
        ("amqp://host", "/", 5672),
        ("amqp://host/", "/", 5672),
        ("amqp://host//", "/", 5672),
        ("amqp://host/%2F", "/", 5672),
        ("amqp://u:p@host:1234/shop", "shop", 1234),
        ("amqps://host/shop", "shop", 5671),
    ],
)
def test_url_says_where_to_and_which_virtual_host(url: str, vhost: str, port: int) -> None:
    address = read_url(url)
    assert (address.vhost, address.url.port) == (vhost, port)


def test_heartbeat_is_that_of_the_url_else_that_of_the_setting() -> None:
    assert read_url("amqp://host", heartbeat=30.0).url.query["heartbeat"] == "30"
    assert read_url("amqp://host?heartbeat=10", heartbeat=30.0).url.query["heartbeat"] == "10"


def test_password_is_masked() -> None:
    assert "secret" not in repr(read_url("amqp://u:secret@host/"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://", "is no AMQP URL; write amqp://user:password@host:5672/vhost"),
        ("amqp://host:port/", "is no AMQP URL"),
        ("amqp://host/?hartbeat=5", "'hartbeat', which is unknown. Did you mean 'heartbeat'?"),
    ],
)
def test_url_that_can_t_be_read_is_refused(url: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        read_url(url)
    assert said in str(raised.value)
