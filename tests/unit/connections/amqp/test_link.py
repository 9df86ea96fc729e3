import pytest

from aiotask.connections.amqp import AmqpLink
from aiotask.exceptions import ImproperlyConfigured


@pytest.mark.parametrize("prefix", ["", "amq", "amq.shop", "ü😀", "x" * 201, "a{b}", "a\nb"])
def test_key_prefix_that_no_name_can_begin_with_is_refused(prefix: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="can't begin names on RabbitMQ: it takes 1 to 200") as raised:
        AmqpLink("amqp://host", key_prefix=prefix)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("prefix", ["aiotask", "amqp", "amqs.shop", "a b", "x" * 200, "shop:a/b"])
def test_key_prefix_that_names_can_begin_with_is_taken(prefix: str) -> None:
    assert AmqpLink("amqp://host", key_prefix=prefix).key_prefix == prefix
