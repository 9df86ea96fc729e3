import pytest

from aiotask.connections.amqp import ServerRefused
from aiotask.connections.amqp.address import read_url
from aiotask.connections.amqp.refusals import check_server, refused


@pytest.mark.parametrize("version", ["3.10.0", "3.10.8", "3.13.7", "4.1.0"])
def test_server_is_taken_when_it_is_new_enough(version: str) -> None:
    check_server("amqp://host", {"product": "RabbitMQ", "version": version})


def test_server_without_safe_dead_letters_is_refused() -> None:
    with pytest.raises(ServerRefused, match=r"is version 3\.9\.29; it takes 3\.10 or later"):
        check_server("amqp://host", {"product": "RabbitMQ", "version": "3.9.29"})


@pytest.mark.parametrize(
    ("url", "said"), [("amqp://host", "want TLS (amqps://)"), ("amqps://host", "ask for a certificate (?certfile=")]
)
def test_hanging_up_is_told_with_what_the_port_may_want(url: str, said: str) -> None:
    assert said in str(
        refused(read_url(url, heartbeat=60.0), ConnectionResetError(104, "Connection reset by peer"), 5.0)
    )
