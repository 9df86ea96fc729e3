"""The rows of a memory backend by task id, and who watches them."""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Final

import msgspec

_GRAIN_S: Final = 4
"""Expired rows are dropped by the bucket, so many seconds late at most; readers see them gone at once."""


class Row(msgspec.Struct):
    """A stored outcome, encoded."""

    id: str
    data: bytes
    final: bool
    expires_at: float | None


class RowStore:
    """Rows by task id, and who watches them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rows: dict[str, Row] = {}
        self._watchers: dict[str, set[Callable[[Row], None]]] = {}
        self._ids_by_expiry: dict[int, list[str]] = {}
        self._expiries: list[int] = []
        """A heap of the keys of `_ids_by_expiry`."""

    def store(self, rows: Sequence[Row]) -> None:
        """Keep `rows` and push them to who watches; what has a final row already is left alone."""
        now = self._clock()
        if self._expiries:
            self.sweep(now)
        kept = self._rows
        watchers = self._watchers
        for row in rows:
            old = kept.get(row.id)
            if old is not None and old.final and not _expired(old, now):
                continue
            kept[row.id] = row
            if row.expires_at is not None and (old is None or old.expires_at != row.expires_at):
                self._expire(row.id, row.expires_at)
            if watchers and (pushes := watchers.get(row.id)):
                for push in pushes:
                    push(row)

    def fetch(self, ids: Sequence[str]) -> list[Row | None]:
        """Return the row of each id, or None where there is none that has not expired."""
        now = self._clock()
        found = [self._rows.get(id_) for id_ in ids]
        return [None if row is None or _expired(row, now) else row for row in found]

    def forget(self, ids: Sequence[str]) -> int:
        """Drop the rows of `ids`; return how many there were."""
        now = self._clock()
        dropped = [self._rows.pop(id_, None) for id_ in ids]
        return sum(row is not None and not _expired(row, now) for row in dropped)

    def sweep(self, now: float) -> None:
        """Drop what has expired.

        Cost: a comparison when nothing has.
        """
        while self._expiries and (self._expiries[0] + 1) * _GRAIN_S <= now:
            for id_ in self._ids_by_expiry.pop(heappop(self._expiries)):
                row = self._rows.get(id_)
                if row is not None and _expired(row, now):
                    del self._rows[id_]

    def add_watcher(self, ids: Sequence[str], push: Callable[[Row], None]) -> None:
        """Call `push` with each row of `ids` as it is stored."""
        for id_ in ids:
            self._watchers.setdefault(id_, set()).add(push)

    def remove_watcher(self, ids: Sequence[str], push: Callable[[Row], None]) -> None:
        """Undo `add_watcher`."""
        for id_ in ids:
            watchers = self._watchers.get(id_, set())
            watchers.discard(push)
            if not watchers:
                self._watchers.pop(id_, None)

    def _expire(self, id_: str, expires_at: float) -> None:
        key = int(expires_at // _GRAIN_S)
        ids = self._ids_by_expiry.get(key)
        if ids is None:
            self._ids_by_expiry[key] = [id_]
            heappush(self._expiries, key)
        else:
            ids.append(id_)


def _expired(row: Row, now: float) -> bool:
    return row.expires_at is not None and row.expires_at <= now
