"""What the queues on a Redis server hold, and acting on it. For the command line and control."""

from collections.abc import Awaitable, Sequence
from typing import Any, Final, TypeVar

from aiotask.brokers.redis.calls import LINK_ERRORS, Calls
from aiotask.brokers.redis.entries import pack_message, read_letter
from aiotask.brokers.redis.scripts import DEPTHS, FIND_DEAD, PURGE, REPLAY
from aiotask.connections.redis import ReplyError, Word
from aiotask.message import DeadLetter, QueueDepth

T = TypeVar("T")

_PAGE: Final = 100
"""How many dead letters are looked at in one round trip."""

_Found = tuple[bytes, DeadLetter]
"""The id of a letter's entry, and the letter."""


class RedisQueueAdmin:
    """The part of a Redis broker that is a `QueueAdmin`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._link = calls.link
        self._keys = calls.keys

    async def _asked(self, answer: Awaitable[T], queues: Sequence[str] = ()) -> T:
        try:
            return await answer
        except LINK_ERRORS as error:
            await self._calls.fail(error, queues)

    async def _named(self) -> list[str]:
        """Return the names of all queues that there have been."""
        names = await self._asked(self._link.command("SMEMBERS", self._keys.queues))
        return sorted(name.decode(errors="replace") for name in names)

    async def queues(self) -> list[str]:
        """See `QueueAdmin`.

        Cost: two round trips; counts what each queue holds.
        """
        depths = await self.depths(await self._named())
        return [
            depth.queue
            for depth in depths
            if depth.ready or depth.delayed or depth.parked or depth.reserved or depth.dead
        ]

    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        """See `QueueAdmin`. What has a lapsed lease counts as handed out until somebody looks.

        Cost: one round trip; a few commands for each line.
        """
        if not queues:
            return []
        counts = await self._asked(self._link.run(DEPTHS, self._keys.prefixes(queues)), queues)
        return [QueueDepth(queue, *counted) for queue, counted in zip(queues, counts, strict=True)]

    async def consumers(self, queues: Sequence[str]) -> list[int]:
        """See `QueueAdmin`."""
        seconds, micros = await self._asked(self._link.command("TIME"))
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        counts = [("ZCOUNT", f"{prefix}consumers", f"({now_ms}", "+inf") for prefix in self._keys.prefixes(queues)]
        return [_checked(count) for count in await self._asked(self._link.pipeline(counts))] if counts else []

    async def purge(self, queues: Sequence[str]) -> int:
        """See `QueueAdmin`. Not one step: what is published meanwhile may be dropped, too.

        Cost: a round trip for each thousand messages of a line.
        """
        purged = 0
        for queue in queues:
            while dropped := await self._asked(self._link.run(PURGE, self._keys.prefixes([queue])), [queue]):
                purged += dropped
        return purged

    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        letters: list[DeadLetter] = []
        for queue in await self._named() if queues is None else queues:
            dead = f"{self._keys.prefix(queue)}dead"
            entries = await self._asked(self._link.command("XREVRANGE", dead, "+", "-", "COUNT", limit), [queue])
            letters += [read_letter(queue, entry_id, fields) for entry_id, fields in entries]
        letters.sort(key=_died_at, reverse=True)
        return letters[:limit]

    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        """See `QueueAdmin`.

        Cost: a round trip for each hundred dead letters; only those found are sent.
        """
        found = [letter for queue in await self._named() for _, letter in await self._find(queue, ids)]
        found.sort(key=_died_at, reverse=True)
        return found

    async def _find(self, queue: str, ids: Sequence[str]) -> list[_Found]:
        """Return the letters of one queue, the newest first."""
        found: list[_Found] = []
        begin = "+"
        while begin:
            keys, args = self._keys.prefixes([queue]), [begin, str(_PAGE), *ids]
            next_page, *entries = await self._asked(self._link.run(FIND_DEAD, keys, args), [queue])
            found += [(entry_id, read_letter(queue, entry_id, fields)) for entry_id, fields in entries]
            begin = next_page.decode()
        return found

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        """See `QueueAdmin`; several letters of one id are put back in the order in which they died."""
        back: set[str] = set()
        for queue in await self._named():
            whole = [
                (entry_id, letter)
                for entry_id, letter in reversed(await self._find(queue, ids))
                if letter.body_bytes == len(letter.body)
            ]
            for at in range(0, len(whole), _PAGE):
                back.update(await self._replay(queue, whole[at : at + _PAGE]))
        return [id_ for id_ in dict.fromkeys(ids) if id_ in back]

    async def _replay(self, queue: str, found: Sequence[_Found]) -> list[str]:
        args: list[Word] = []
        for entry_id, letter in found:
            args += (entry_id, letter.priority, pack_message(letter))
        places = await self._asked(self._link.run(REPLAY, self._keys.prefixes([queue]), args), [queue])
        return [found[place][1].id for place in places]

    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        """See `QueueAdmin`."""
        names = await self._named() if queues is None else queues
        trims = [("XTRIM", f"{prefix}dead", "MAXLEN", 0) for prefix in self._keys.prefixes(names)]
        return sum(map(_checked, await self._asked(self._link.pipeline(trims)))) if trims else 0


def _checked(reply: Any) -> int:
    if isinstance(reply, ReplyError):
        raise reply
    return int(reply)


def _died_at(letter: DeadLetter) -> float:
    return letter.died_at
