import pytest

from aiotask.connections.amqp import ChannelError, ServerRefused, Translation
from aiotask.connections.amqp.address import read_url
from aiotask.connections.amqp.errors import translated
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


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", " (it says 'SSH-2.0-OpenSSH_9.2')"),
        (b"220 mail ESMTP\r\n", " (it says '220 mail ESMTP')"),
        (b"\x5b\x00\x00\x00\x0a5.5.5-10.11.3-MariaDB\x00", " (it says '5.5.5-10.11.3-MariaDB')"),
        (b"\xff" * 100, ""),
    ],
)
def test_who_speaks_first_by_another_protocol_has_answered(heard: bytes, said: str) -> None:
    told = str(refused(read_url("amqp://host"), TimeoutError(), 5.0, heard))
    assert told == f"amqp://host answers, but not as a RabbitMQ does{said}. Are host and port right?"


@pytest.mark.parametrize("heard", [b"", b"\x01\x00\x00\x00\x00\x02\x00"])
def test_who_is_silent_or_stops_halfway_has_not_answered(heard: bytes) -> None:
    assert "did not answer within 5 s" in str(refused(read_url("amqp://host"), TimeoutError(), 5.0, heard))


@pytest.mark.parametrize(
    ("code", "said", "what_to_do"),
    [
        (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", "Give the user the permission"),
        (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", "Another program consumes it"),
        (403, "ACCESS_REFUSED - queue name 'amq.q' contains reserved prefix 'amq.*'", "use another name"),
        (406, "PRECONDITION_FAILED - cannot declare queue 'q': queue limit in vhost '/' (2) is reached", "max-queues"),
        (406, "PRECONDITION_FAILED - message size 2000 is larger than configured max size 9", "max_message_size"),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q'", "has made it otherwise"),
    ],
)
def test_refusal_of_the_server_is_told_with_what_to_do(code: int, said: str, what_to_do: str) -> None:
    error = translated("amqp://host", Translation(OSError, RuntimeError, MemoryError), ChannelError(said, code))
    assert isinstance(error, RuntimeError)
    told = str(error)
    assert told.startswith(f"RabbitMQ amqp://host refuses: {said}. ")
    assert what_to_do in told
    others = {"Give the user the permission", "has made it otherwise"} - {what_to_do}
    assert not any(other in told for other in others)
