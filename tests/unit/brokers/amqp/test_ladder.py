import pytest

from aiotask.brokers.amqp.ladder import LONGEST_S, RUNGS, UNIT_S, Ladder
from aiotask.brokers.amqp.names import word


def waited(way: tuple[str, str]) -> float:
    """Follow a message over the rungs, as the bindings do; return how long it waits in all."""
    exchange, key = way
    bits = key.split(".")[:RUNGS]
    begin = int(exchange.rsplit(".", 1)[1])
    return sum(UNIT_S * (1 << number) for number in range(begin + 1) if bits[RUNGS - 1 - number] == "1")


@pytest.mark.parametrize("delay_s", [0.001, 0.02, 0.3, 1.0, 59.99, 3600.0, 86400 * 365.0, LONGEST_S])
def test_message_waits_its_delay_and_less_than_a_unit_more(delay_s: float) -> None:
    total = waited(Ladder("aiotask").way("q", delay_s))
    assert delay_s - 1e-6 <= total < delay_s + UNIT_S + 1e-6


def test_message_begins_at_its_highest_rung_and_ends_at_its_queue() -> None:
    ladder = Ladder("aiotask")
    exchange, key = ladder.way("a.queue", 5.0)
    assert exchange == ladder.rung(ladder.highest(5.0)) == "aiotask.delay.07"
    assert key.endswith(f".{word('a.queue')}")
    assert ladder.key("a.queue") == f"#.{word('a.queue')}"
    assert len(key) <= 255


def test_rung_hands_on_to_the_next_lower_one_and_the_last_to_the_exit() -> None:
    ladder = Ladder("aiotask")
    assert [ladder.arguments(number)["x-dead-letter-exchange"] for number in (0, 1, 31)] == [
        "aiotask.delay.out",
        "aiotask.delay.00",
        "aiotask.delay.30",
    ]
    assert ladder.arguments(3)["x-message-ttl"] == 160
    assert ladder.arguments(0)["x-dead-letter-strategy"] == "at-least-once"
    assert ladder.arguments(0)["x-overflow"] == "reject-publish"
