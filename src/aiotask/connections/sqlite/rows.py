"""The statements on result rows, which a backend stores and a broker stores with its settlements.

A batch goes into one statement as JSON, its bytes beside it in one blob: a statement per row would give up the
interpreter lock with each.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from aiotask.connections.sqlite.database import NOW

_to_json = msgspec.json.Encoder().encode
_AT_ONCE: Final = 64


class Row(NamedTuple):
    """A result row on its way to the file."""

    id: str
    final: bool
    data: bytes
    expires_s: float | None


def to_json(value: Any) -> str:
    """Return the JSON text of a statement's argument."""
    return _to_json(value).decode()


def pack(parts: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    """Join `parts`; return the whole and where each lies in it, as SQL's `substr` counts: from 1, and how long."""
    places = []
    at = 2  # after a byte that is nobody's, because `substr` of an empty blob is NULL
    for part in parts:
        places.append((at, len(part)))
        at += len(part)
    return b"".join((b"-", *parts)), places


def gather(connection: sqlite3.Connection, subquery: str, keys: Sequence[Any]) -> list[Any]:
    """Return what the scalar `subquery`, which takes one argument, yields for each of `keys`, in their order.

    Cost: a statement per 64 keys, each with one row of many columns.
    """
    found: list[Any] = []
    for at in range(0, len(keys), _AT_ONCE):
        some = keys[at : at + _AT_ONCE]
        width = _AT_ONCE if len(some) > 8 else 8 if len(some) > 1 else 1  # few statement texts, so that all stay cached
        columns = ", ".join([f"({subquery})"] * width)
        row = connection.execute(f"SELECT {columns}", (*some, *[None] * (width - len(some)))).fetchone()
        found.extend(row[: len(some)])
    return found


_STORE = f"""
INSERT INTO aiotask_results (id, final, expires_at, data)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), {NOW} + json_extract(value, '$[2]'),
    substr(?2, json_extract(value, '$[3]'), json_extract(value, '$[4]'))
FROM json_each(?1) WHERE true
ON CONFLICT (id) DO UPDATE
SET seq = excluded.seq, final = excluded.final, expires_at = excluded.expires_at, data = excluded.data
WHERE NOT aiotask_results.final OR aiotask_results.expires_at <= {NOW}
"""  # noqa: S608 - the time is an expression of ours


def store_rows(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Store `rows`, of one id the last, but nothing in place of a final one that has not expired."""
    data, places = pack([row.data for row in rows])
    listed = [(row.id, row.final, row.expires_s, *place) for row, place in zip(rows, places, strict=True)]
    connection.execute(_STORE, (to_json(listed), data))


_FETCH = f"SELECT data FROM aiotask_results WHERE id = ? AND (expires_at IS NULL OR expires_at > {NOW})"  # noqa: S608


def fetch_rows(connection: sqlite3.Connection, ids: Sequence[str]) -> list[bytes | None]:
    """Return what is stored of each id and has not expired, in their order."""
    return gather(connection, _FETCH, ids)


_COUNT = f"""
SELECT count(*) FROM aiotask_results
WHERE id IN (SELECT value FROM json_each(?1)) AND (expires_at IS NULL OR expires_at > {NOW})
"""  # noqa: S608
_FORGET = "DELETE FROM aiotask_results WHERE id IN (SELECT value FROM json_each(?1))"


def forget_rows(connection: sqlite3.Connection, ids: Sequence[str]) -> int:
    """Remove the rows of `ids`; return how many had not expired."""
    listed = to_json(ids)
    (count,) = connection.execute(_COUNT, (listed,)).fetchone()
    connection.execute(_FORGET, (listed,))
    return int(count)


_SWEEP = f"""
DELETE FROM aiotask_results WHERE seq IN (
    SELECT seq FROM aiotask_results WHERE expires_at <= {NOW} ORDER BY expires_at LIMIT 500
)
"""  # noqa: S608


def sweep_rows(connection: sqlite3.Connection) -> bool:
    """Remove some expired rows; return whether there may be more."""
    return connection.execute(_SWEEP).rowcount > 0


_LAST = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'aiotask_results'), 0)"
_SINCE = f"SELECT ({_LAST}), json_group_array(json_array(seq, id)) FROM aiotask_results WHERE seq > ?"  # noqa: S608
_DATA = "SELECT data FROM aiotask_results WHERE seq = ?"
_read_changes = msgspec.json.Decoder(list[tuple[int, str]]).decode


def last_change(connection: sqlite3.Connection) -> int:
    """Return the number of the latest change of a row in this file."""
    (seq,) = connection.execute(_LAST).fetchone()
    return int(seq)


def changes_since(connection: sqlite3.Connection, seq: int) -> tuple[int, list[tuple[int, str]]]:
    """Return the number of the latest change, and the number and task id of each row that changed after `seq`."""
    last, listed = connection.execute(_SINCE, (seq,)).fetchone()
    return last, _read_changes(listed)


def changed_rows(connection: sqlite3.Connection, seqs: Sequence[int]) -> list[bytes | None]:
    """Return the rows of these changes; None where the row has changed again, or is gone."""
    return gather(connection, _DATA, seqs)
