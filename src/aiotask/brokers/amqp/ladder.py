"""Delays: a ladder of queues in which messages wait until their time is over, one per power of two.

A message that is to wait 5 units goes to the rung of 4 and from there, its time over, to the rung of 1: the bits of its
delay are the words of its routing key, and each rung's exchange looks at one. So none waits behind another that waits
longer, and no worker holds any. The rungs are quorum queues that hand on what is due only when the next has confirmed
it (docs/rabbitmq.md has what was found without).
"""

from collections.abc import Mapping
from math import ceil
from typing import Any, Final

from aiotask.brokers.amqp.names import server_name, word
from aiotask.connections.amqp import AmqpChannel

UNIT_S: Final = 0.02
RUNGS: Final = 32
LONGEST_S: Final = UNIT_S * ((1 << RUNGS) - 1)
"""2.7 years."""


class Ladder:
    """The names, and what they are made with."""

    def __init__(self, prefix: str) -> None:
        """Take what the names begin with."""
        self._prefix = server_name(f"{prefix}.delay")
        self.exit = f"{self._prefix}.out"
        """The exchange that what is due comes out of."""
        self.nowhere = f"{self._prefix}.nowhere"
        """What of that has no queue goes there: the exit's alternate exchange, and a queue."""

    def rung(self, number: int) -> str:
        """Return the name of a rung: of its queue, and of its exchange."""
        return f"{self._prefix}.{number:02}"

    def number(self, rung: str) -> int | None:
        """Return the number of the rung of this name; None when it is none."""
        return next((number for number in range(RUNGS) if self.rung(number) == rung), None)

    def highest(self, delay_s: float) -> int:
        """Return the number of the rung that a message begins at which is to wait so long."""
        return _units(delay_s).bit_length() - 1

    def way(self, queue: str, delay_s: float) -> tuple[str, str]:
        """Return the exchange and the routing key by which a message reaches `queue` after so long."""
        units = _units(delay_s)
        return self.rung(units.bit_length() - 1), ".".join((*f"{units:0{RUNGS}b}", word(queue)))

    def key(self, queue: str) -> str:
        """Return the pattern that binds a queue to the exit."""
        return f"#.{word(queue)}"

    def arguments(self, number: int) -> Mapping[str, Any]:
        """Return what a rung's queue is made with."""
        return {
            "x-queue-type": "quorum",
            "x-message-ttl": round(UNIT_S * 1000) << number,
            "x-dead-letter-exchange": self.rung(number - 1) if number else self.exit,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }

    async def build_exit(self, channel: AmqpChannel) -> None:
        """Make the exit. Idempotent.

        Raises:
            ChannelError: It is there with another alternate exchange, or with none (406).
        """
        await channel.declare_exchange(self.exit, "topic", {"alternate-exchange": self.nowhere})

    async def build(self, channel: AmqpChannel, highest: int) -> None:
        """Make it as high as that upon its exit: where a rung is, what it hands on to is there. Idempotent.

        Raises:
            ChannelError: Another program has queues or exchanges of these names.

        Cost: five round trips for each rung.
        """
        below = self.exit
        for number in range(highest + 1):
            rung, rest = self.rung(number), "*." * (RUNGS - 1 - number)
            await channel.declare_exchange(rung, "topic")
            await channel.bind_exchange(below, rung, f"{rest}0.#")
            await channel.declare_queue(rung, self.arguments(number))
            await channel.bind_queue(rung, rung, f"{rest}1.#")
            below = rung


def _units(delay_s: float) -> int:
    return max(1, ceil(delay_s / UNIT_S))
