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


@pytest.mark.parametrize(("setting", "asked"), [(0.0, "0"), (0.4, "1"), (0.5, "1"), (1.5, "2"), (2.5, "3"), (60, "60")])
def test_heartbeat_is_rounded_up_since_amqp_takes_whole_seconds_and_0_is_none(setting: float, asked: str) -> None:
    assert read_url("amqp://host", heartbeat=setting).url.query["heartbeat"] == asked


def test_password_is_masked() -> None:
    assert "secret" not in repr(read_url("amqp://u:secret@host/"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("amqp://", "is no AMQP URL; write amqp://user:password@host:5672/vhost"),
        ("amqp://host:port/", "is no AMQP URL"),
        ("amqp://host:0/", "has the port 0, where nothing can listen"),
        (f"amqp://host/{'v' * 256}", "longer than 255 bytes"),
        ("amqp://host/?hartbeat=5", "'hartbeat', which is unknown. Did you mean 'heartbeat'?"),
        ("amqp://host/?heartbeat=soon", "has a heartbeat of 'soon'; it is in whole seconds"),
        ("amqp://host/?heartbeat=70000", "65534 at most"),
        ("amqp://host/?auth=kerberos", "asks for auth=kerberos; there are plain and external"),
        ("amqp://host/?cafile=ca.pem", "'cafile', which is for TLS: write amqps://"),
        ("amqps://host/?no_verify_ssl=yes", "no_verify_ssl, which is 0, or 1"),
        ("amqps://host/?cafile=no-such.pem", "a file that is not there, cafile=no-such.pem"),
        ("amqps://host/?capath=no-such", "a folder that is not there, capath=no-such"),
        (f"amqps://host/?keyfile={__file__}", "a keyfile and no certfile"),
        (f"amqps://host/?cafile={__file__}", "certificates that can't be used"),
        ("amqps://host/?cadata=x", "certificates that can't be used"),
    ],
)
def test_url_that_can_t_be_read_is_refused(url: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        read_url(url)
    assert said in str(raised.value)


def test_tls_is_what_the_scheme_says() -> None:
    assert (read_url("amqps://host").tls, read_url("amqp://host").tls) == (True, False)


@pytest.mark.parametrize("parameters", ["auth=EXTERNAL", "heartbeat=0", "name=mine"])
def test_parameters_that_fit_are_taken(parameters: str) -> None:
    name, _, value = parameters.partition("=")
    assert read_url(f"amqp://host/?{parameters}").url.query[name] == value
