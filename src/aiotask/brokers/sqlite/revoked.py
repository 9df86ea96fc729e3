"""Which task ids must not start: a row for each. Steps for the storage thread."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from sqlite3 import Connection

import msgspec

from aiotask.connections.sqlite.rows import to_json
from aiotask.message import REVOKED_KEPT

_REVOKE = "INSERT OR REPLACE INTO aiotask_revoked (id) SELECT value FROM json_each(?) ORDER BY key"
_FORGET = """
DELETE FROM aiotask_revoked WHERE number <= (SELECT number FROM aiotask_revoked ORDER BY number DESC LIMIT 1 OFFSET ?)
"""
_AMONG = "SELECT json_group_array(id) FROM aiotask_revoked WHERE id IN (SELECT value FROM json_each(?))"
_read_ids = msgspec.json.Decoder(list[str]).decode


def revoke(connection: Connection, ids: Sequence[str]) -> None:
    """Keep `ids`, as the newest; forget the oldest of too many."""
    connection.execute(_REVOKE, (to_json(ids),))
    connection.execute(_FORGET, (REVOKED_KEPT,))


def among(connection: Connection, ids: Sequence[str]) -> AbstractSet[str]:
    """Return those of `ids` that are revoked. Only reads."""
    (listed,) = connection.execute(_AMONG, (to_json(ids),)).fetchone()
    return frozenset(_read_ids(listed))
