"""How the scripts are called: repeated where that does no harm, with their errors told as the broker's."""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from aiotask.brokers.redis.keys import Keys
from aiotask.brokers.redis.lanes import Lanes
from aiotask.brokers.redis.packing import Parcel
from aiotask.brokers.redis.scripts import RIGHTS, STRANGERS
from aiotask.connections.redis import (
    LinkClosed,
    LinkDown,
    RedisLink,
    ReplyError,
    Script,
    ServerRefused,
    Translation,
    Word,
)
from aiotask.connections.redis.rows import row_key
from aiotask.exceptions import BrokerConnectionError, BrokerError, BrokerFull

ERRORS: Final = Translation(BrokerConnectionError, BrokerError, BrokerFull)
LINK_ERRORS: Final = (LinkClosed, LinkDown, ReplyError, ServerRefused)

_LONG_S: Final = 3600.0

_log = logging.getLogger(__name__)


class Calls:
    """The link as a broker and its subscriptions use it."""

    def __init__(self, link: RedisLink) -> None:
        self.link = link
        self.keys = Keys(link.key_prefix)
        self._lanes = Lanes()
        self._named: set[str] = set()

    async def fail(self, error: Exception, queues: Sequence[str], translation: Translation = ERRORS) -> NoReturn:
        """Raise the broker's error for one of `LINK_ERRORS`; name the key that belongs to another program."""
        with self.link.translating(translation):
            if isinstance(error, ReplyError) and error.code == "WRONGTYPE":
                stranger = await self.stranger(queues)
                if stranger:
                    raise translation.other(stranger) from error
            raise error

    async def examine(self, queues: Sequence[str]) -> None:
        """See that a worker could take from `queues`.

        Raises:
            BrokerError: The user may not do all that it takes, or a key belongs to another program.

        Cost: two round trips.
        """
        keys = [self.keys.prefix(queues[0])]
        if self.link.holds_results:
            keys.append(row_key("rights"))
        with self.link.translating(ERRORS):
            refused = await self.link.run(RIGHTS, keys, [self.keys.revoked])
            if refused:
                command, key, why = (word.decode(errors="replace") for word in refused)
                raise BrokerError(
                    f"Redis {self.link.place} does not allow this user what a worker needs, {command} on the key "
                    f"{key!r}: {why}. Extend the user's ACL."
                )
            stranger = await self.stranger(queues)
        if stranger:
            raise BrokerError(stranger)

    async def stranger(self, queues: Sequence[str]) -> str:
        """Return what is wrong with the keys that `queues` need: nothing, or that one belongs to another program."""
        found = await self.link.run(STRANGERS, [self.keys.revoked, *self.keys.prefixes(queues)])
        if not found:
            return ""
        key, type_, wanted = (word.decode(errors="replace") for word in found)
        return (
            f"The key {key!r} in Redis {self.link.place} is a {type_}, and should be a {wanted}: it belongs to another "
            "program. Use another database, or set broker_transport_options={'key_prefix': 'another'}."
        )

    async def repeat(
        self, script: Script, keys: Sequence[str], args: Sequence[Word], deadline: float = math.inf
    ) -> Any:
        """Run a script that does no harm when repeated until there is an answer.

        Args:
            script: See its header.
            keys: KEYS.
            args: ARGV.
            deadline: By the loop's clock. The link's being closed ends it, too.
        """
        now = asyncio.get_running_loop().time
        while True:
            try:
                return await self.link.run(script, keys, args, wait=min(_LONG_S, deadline - now()))
            except LinkDown:
                if now() >= deadline:
                    raise

    async def once(self, script: Script, parcel: Parcel, deadline: float = math.inf) -> Any:
        """Run a script that takes a lane, until there is an answer; it has its effect once."""
        fresh = [queue for queue in parcel.queues if queue not in self._named]
        lane, number = self._lanes.take()
        try:
            if fresh:
                await self._name(fresh, deadline)
            return await self.repeat(script, parcel.prefixes, (lane, number, *parcel.args), deadline)
        finally:
            self._lanes.give(lane)

    async def _name(self, queues: Sequence[str], deadline: float) -> None:
        """Put queues on the list of all that there are, once: it is no part of any queue's hash tag."""
        now = asyncio.get_running_loop().time
        while True:
            try:
                await self.link.command("SADD", self.keys.queues, *queues, wait=min(_LONG_S, deadline - now()))
            except LinkDown:
                if now() >= deadline:
                    raise
            except ReplyError as error:
                if not error.is_full:
                    raise
                return  # the script that follows knows whether it needs room: what ends a message doesn't
            else:
                self._named.update(queues)
                return

    def forget_names(self, _up: bool = True) -> None:
        """List each queue again before it is next used: the server may have lost what it had."""
        self._named.clear()


def tell(what: str, error: Exception) -> None:
    """Log what failed and is not the end of anything."""
    if not isinstance(error, LinkClosed):
        _log.warning("%s: %s", what, error)
