"""Doubles for `backend_contract`."""

from collections.abc import Callable, Sequence

import msgspec

from aiotask.connections.memory import MemoryLink, Row, RowStore
from aiotask.exceptions import BackendError, EncodeError
from aiotask.outcome import Packed, TaskMeta
from aiotask.results.memory import MemoryBackend
from aiotask.states import ABORTED
from aiotask.testing import backend_contract as c
from aiotask.wire.rows import decode_meta

from .registry import breaks


@breaks(c.link_is_up_when_the_backend_is_open)
class NeverConnected(MemoryBackend):
    connected = False  # type: ignore[assignment]


@breaks(c.link_is_down_when_the_backend_is_closed)
class AlwaysConnected(MemoryBackend):
    connected = True  # type: ignore[assignment]


@breaks(c.closing_does_nothing_when_the_backend_is_closed)
class ClosesOnce(MemoryBackend):
    complained = False

    async def close(self) -> None:
        if not self._open and not self.complained:
            self.complained = True
            self._must_be_open()
        await super().close()


@breaks(c.rows_are_there_when_a_closed_backend_is_opened_again)
class ForgetsAtClosing(MemoryBackend):
    async def close(self) -> None:
        await super().close()
        self._rows._rows.clear()


@breaks(c.row_is_there_for_others_when_it_is_stored)
class KeepsRowsToItself(MemoryBackend):
    def __init__(self, link: MemoryLink) -> None:
        super().__init__(link)
        self._rows = RowStore(link.clock)


@breaks(c.every_field_comes_back_when_a_row_is_fetched)
class LosesAField(MemoryBackend):
    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        return super().encode(msgspec.structs.replace(meta, group_id=None), expires)


@breaks(c.packed_result_stays_packed_when_a_row_is_fetched)
class KnowsNoPackedResults(MemoryBackend):
    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        if isinstance(meta.result, Packed):
            meta = msgspec.structs.replace(meta, result=msgspec.to_builtins(meta.result))
        return super().encode(meta, expires)


@breaks(c.rows_come_in_order_when_several_are_fetched)
class FetchesAnIdOnce(MemoryBackend):
    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        return await super().fetch(list(dict.fromkeys(ids)))


@breaks(c.rows_come_in_order_when_several_are_fetched)
class FetchesBackwards(MemoryBackend):
    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        return await super().fetch(ids[1:] + ids[:1])


@breaks(c.nothing_comes_when_an_id_is_unknown)
class MakesUpAState(MemoryBackend):
    async def fetch(self, ids: Sequence[str]) -> list[TaskMeta | None]:
        found = await super().fetch(ids)
        return [meta or TaskMeta(id=id_) for id_, meta in zip(ids, found, strict=True)]


class Choosy(RowStore):
    """Stores some rows only."""

    def wants(self, row: Row, old: Row | None) -> bool:
        return True

    def store(self, rows: Sequence[Row]) -> None:
        for row in rows:
            if self.wants(row, self._rows.get(row.id)):
                super().store([row])


@breaks(c.last_row_wins_when_none_is_final)
class FirstWins(Choosy):
    def wants(self, row: Row, old: Row | None) -> bool:
        return old is None


@breaks(c.final_row_wins_when_others_came_before)
class KnowsNoAbortion(Choosy):
    def wants(self, row: Row, old: Row | None) -> bool:
        return old is None or decode_meta(row.data).state != ABORTED


@breaks(c.new_row_is_stored_when_the_final_one_has_expired)
class ExpiresForReadersOnly(Choosy):
    def wants(self, row: Row, old: Row | None) -> bool:
        return old is None or not old.final


@breaks(c.final_row_stays_when_another_comes)
class LastWins(MemoryBackend):
    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        row = super().encode(meta, expires)
        row.final = False
        return row


@breaks(c.final_row_stays_when_another_comes)
class FinalBeatsFinal(RowStore):
    def store(self, rows: Sequence[Row]) -> None:
        self.forget([row.id for row in rows if row.final])
        super().store(rows)


@breaks(c.final_row_stays_when_its_own_batch_brings_another)
class KeepsTheLastOfABatch(RowStore):
    def store(self, rows: Sequence[Row]) -> None:
        super().store(list({row.id: row for row in rows}.values()))


@breaks(c.nothing_changes_when_a_row_is_stored_twice)
class StoresOnce(RowStore):
    def store(self, rows: Sequence[Row]) -> None:
        if any(row is self._rows.get(row.id) for row in rows):
            raise BackendError("there already")
        super().store(rows)


class Keeping(MemoryBackend):
    """Keeps rows for another time than it should."""

    def kept_for(self, expires: float | None) -> float | None:
        return expires

    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        return super().encode(meta, self.kept_for(expires))


@breaks(c.row_is_gone_when_it_has_expired)
class KeepsForEver(Keeping):
    def kept_for(self, expires: float | None) -> float | None:
        return None


@breaks(c.row_stays_when_it_has_not_expired)
class KeepsNothingForEver(Keeping):
    def kept_for(self, expires: float | None) -> float | None:
        return expires or 0.05


@breaks(c.row_stays_when_it_has_not_expired)
class ExpiresAllAlike(Keeping):
    def kept_for(self, expires: float | None) -> float | None:
        return expires and 0.05


@breaks(c.rows_are_gone_when_they_are_forgotten)
class RemembersWhatIsFinal(RowStore):
    def forget(self, ids: Sequence[str]) -> int:
        return super().forget([id_ for id_ in ids if id_ not in self._rows or not self._rows[id_].final])


@breaks(c.rows_are_gone_when_they_are_forgotten)
class CountsWhatItIsAsked(RowStore):
    def forget(self, ids: Sequence[str]) -> int:
        super().forget(ids)
        return len(ids)


@breaks(c.new_row_is_stored_when_the_final_one_was_forgotten)
class HoldsAGrudge(Choosy):
    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.forgotten: set[str] = set()

    def forget(self, ids: Sequence[str]) -> int:
        self.forgotten.update(ids)
        return super().forget(ids)

    def wants(self, row: Row, old: Row | None) -> bool:
        return row.id not in self.forgotten


@breaks(c.encoding_says_so_when_a_result_is_not_serialisable)
class StoresReprs(MemoryBackend):
    def encode(self, meta: TaskMeta, expires: float | None) -> Row:
        try:
            return super().encode(meta, expires)
        except EncodeError:
            return super().encode(msgspec.structs.replace(meta, result=repr(meta.result)), expires)


@breaks(c.open_says_so_when_there_is_no_server)
class OpensAnyway(MemoryBackend):
    pass
