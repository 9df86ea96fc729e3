"""What the queues of a SQLite file hold, and acting on it. For the command line and control."""

from collections.abc import Sequence
from functools import partial
from sqlite3 import Connection
from typing import Any

from aiotask.brokers.sqlite import messages, presence
from aiotask.brokers.sqlite.subscription import ERRORS
from aiotask.connections.sqlite.database import NOW
from aiotask.connections.sqlite.link import SqliteLink
from aiotask.connections.sqlite.rows import to_json
from aiotask.connections.sqlite.storage import Step
from aiotask.message import DeadLetter, Envelope, QueueDepth

_QUEUES = """
SELECT queue FROM aiotask_messages UNION SELECT queue FROM aiotask_dead_letters ORDER BY queue
"""
# A lapsed lease is as good as ready: the next scan takes it.
_DEPTHS = f"""
SELECT value,
    (SELECT count(*) FROM aiotask_waiting WHERE queue = value AND available_at <= {NOW})
    + (SELECT count(*) FROM aiotask_leases AS l CROSS JOIN aiotask_messages AS m ON m.seq = l.seq
       WHERE queue = value AND until <= {NOW}),
    (SELECT count(*) FROM aiotask_waiting WHERE queue = value AND available_at > {NOW}),
    (SELECT count(*) FROM aiotask_parked WHERE queue = value),
    (SELECT count(*) FROM aiotask_leases AS l CROSS JOIN aiotask_messages AS m ON m.seq = l.seq
     WHERE queue = value AND until > {NOW}),
    (SELECT count(*) FROM aiotask_dead_letters WHERE queue = value)
FROM json_each(?) ORDER BY key
"""  # noqa: S608 - the time is an expression of ours
_PURGE_MESSAGES = """
DELETE FROM aiotask_messages WHERE seq IN (
    SELECT seq FROM aiotask_waiting WHERE queue IN (SELECT value FROM json_each(?1))
    UNION ALL SELECT seq FROM aiotask_parked WHERE queue IN (SELECT value FROM json_each(?1))
)
"""
_PURGE_WAITING = "DELETE FROM aiotask_waiting WHERE queue IN (SELECT value FROM json_each(?))"
_PURGE_PARKED = "DELETE FROM aiotask_parked WHERE queue IN (SELECT value FROM json_each(?))"

_LETTER = "id, queue, reason, detail, died_at, body, body_bytes, content_type, priority"
_OF_QUEUES = "(?1 IS NULL OR queue IN (SELECT value FROM json_each(?1)))"
_OF_IDS = "id IN (SELECT value FROM json_each(?1))"
_DEAD = f"SELECT {_LETTER} FROM aiotask_dead_letters WHERE {_OF_QUEUES} ORDER BY number DESC LIMIT ?2"  # noqa: S608
_DEAD_OF_IDS = f"SELECT {_LETTER} FROM aiotask_dead_letters WHERE {_OF_IDS} ORDER BY number DESC"  # noqa: S608
_WHOLE_OF_IDS = f"""
SELECT {_LETTER} FROM aiotask_dead_letters WHERE {_OF_IDS} AND body_bytes = length(body) ORDER BY number
"""  # noqa: S608
_END_REPLAYED = f"DELETE FROM aiotask_dead_letters WHERE {_OF_IDS} AND body_bytes = length(body)"  # noqa: S608
_PURGE_DEAD = f"DELETE FROM aiotask_dead_letters WHERE {_OF_QUEUES}"  # noqa: S608


class SqliteQueueAdmin:
    """The part of a SQLite broker that is a `QueueAdmin`. Each call is one step on one state of the file."""

    def __init__(self, link: SqliteLink) -> None:
        self.link = link

    async def _run(self, step: Step[Any], *, writes: bool) -> Any:
        with self.link.translating(ERRORS):
            return await self.link.run(step, writes=writes)

    async def queues(self) -> list[str]:
        """See `QueueAdmin`.

        Cost: reads through all messages.
        """
        rows: list[tuple[str]] = await self._run(partial(_all, sql=_QUEUES, arguments=()), writes=False)
        return [queue for (queue,) in rows]

    async def depths(self, queues: Sequence[str]) -> list[QueueDepth]:
        """See `QueueAdmin`.

        Cost: reads through what waits and is parked in `queues`, and all that is handed out.
        """
        rows = await self._run(partial(_all, sql=_DEPTHS, arguments=(to_json(queues),)), writes=False)
        return [QueueDepth(*row) for row in rows]

    async def consumers(self, queues: Sequence[str]) -> list[int]:
        """See `QueueAdmin`."""
        counts: list[int] = await self._run(partial(presence.count, queues=queues), writes=False)
        return counts

    async def purge(self, queues: Sequence[str]) -> int:
        """See `QueueAdmin`."""
        purged: int = await self._run(partial(_purge, queues=to_json(queues)), writes=True)
        return purged

    async def dead_letters(self, queues: Sequence[str] | None = None, limit: int = 100) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        arguments = (_optional(queues), limit)
        return [
            DeadLetter(*row) for row in await self._run(partial(_all, sql=_DEAD, arguments=arguments), writes=False)
        ]

    async def find_dead(self, ids: Sequence[str]) -> list[DeadLetter]:
        """See `QueueAdmin`."""
        rows = await self._run(partial(_all, sql=_DEAD_OF_IDS, arguments=(to_json(ids),)), writes=False)
        return [DeadLetter(*row) for row in rows]

    async def replay_dead(self, ids: Sequence[str]) -> list[str]:
        """See `QueueAdmin`; several letters of one id are put back in the order in which they died."""
        back: set[str] = await self._run(partial(_replay, ids=to_json(ids)), writes=True)
        return [id_ for id_ in dict.fromkeys(ids) if id_ in back]

    async def purge_dead(self, queues: Sequence[str] | None = None) -> int:
        """See `QueueAdmin`."""
        purged: int = await self._run(partial(_purge_dead, queues=_optional(queues)), writes=True)
        return purged


def _optional(queues: Sequence[str] | None) -> str | None:
    return None if queues is None else to_json(queues)


def _all(connection: Connection, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
    return connection.execute(sql, arguments).fetchall()


def _purge(connection: Connection, queues: str) -> int:
    purged = connection.execute(_PURGE_MESSAGES, (queues,)).rowcount
    connection.execute(_PURGE_WAITING, (queues,))
    connection.execute(_PURGE_PARKED, (queues,))
    return purged


def _purge_dead(connection: Connection, queues: str | None) -> int:
    return connection.execute(_PURGE_DEAD, (queues,)).rowcount


def _replay(connection: Connection, ids: str) -> set[str]:
    letters = [DeadLetter(*row) for row in connection.execute(_WHOLE_OF_IDS, (ids,))]
    if letters:
        connection.execute(_END_REPLAYED, (ids,))
        envelopes = [
            Envelope(letter.id, letter.queue, letter.body, letter.content_type, letter.priority) for letter in letters
        ]
        messages.publish(connection, messages.pack_envelopes(envelopes))
    return {letter.id for letter in letters}
