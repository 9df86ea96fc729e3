"""Doubles for `watch_contract`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from aiotask.connections.memory import Row, RowStore
from aiotask.exceptions import BackendError
from aiotask.outcome import TaskMeta
from aiotask.results.memory import MemoryWatch
from aiotask.testing import watch_contract as c

from .registry import breaks


@breaks(c.stored_state_comes_first_when_a_watch_begins)
class ReadsNothing(MemoryWatch):
    async def __aenter__(self) -> AsyncIterator[TaskMeta]:
        self._rows.add_watcher(self._ids, self._push)
        return self


@breaks(c.nothing_comes_when_the_stored_state_has_expired)
class ReadsWhatExpired(MemoryWatch):
    async def __aenter__(self) -> AsyncIterator[TaskMeta]:
        for id_ in self._ids:
            if id_ in self._rows._rows:
                self._push(self._rows._rows[id_])
        return await super().__aenter__()


@breaks(c.change_comes_when_another_process_stores_it)
class TellsFinalStatesOnly(MemoryWatch):
    def _push(self, row: Row) -> None:
        if row.final:
            super()._push(row)


@breaks(c.change_comes_when_the_reader_waits_already)
class WakesNobody(MemoryWatch):
    def _wake(self) -> None:
        pass


@breaks(c.final_state_comes_when_it_is_stored_as_the_watch_begins)
class ReadsThenFollows(MemoryWatch):
    async def __aenter__(self) -> AsyncIterator[TaskMeta]:
        for row in self._rows.fetch(self._ids):
            if row is not None:
                self._push(row)
        await asyncio.sleep(0.01)
        self._rows.add_watcher(self._ids, self._push)
        return self


@breaks(c.last_change_comes_when_many_come_at_once, c.final_state_comes_when_others_come_with_it)
class KeepsTheFirst(MemoryWatch):
    def _push(self, row: Row) -> None:
        if row.id not in self._unread:
            super()._push(row)


@breaks(c.nothing_comes_when_a_refused_row_is_stored)
class TellsWhatIsRefused(RowStore):
    def store(self, rows: Sequence[Row]) -> None:
        super().store(rows)
        for row in rows:
            for push in self._watchers.get(row.id, ()):
                push(row)


@breaks(c.final_state_comes_when_others_come_with_it)
class TellsAfterTheFinal(TellsWhatIsRefused):
    pass


@breaks(c.nothing_comes_twice_when_the_same_row_is_stored_again)
class RepeatsItself(MemoryWatch):
    async def __anext__(self) -> TaskMeta:
        self._read.clear()
        return await super().__anext__()


@breaks(c.nothing_comes_when_other_ids_change)
class TellsOfAll(RowStore):
    def store(self, rows: Sequence[Row]) -> None:
        super().store(rows)
        for pushes in self._watchers.values():
            for push in pushes:
                push(rows[0])


@breaks(c.new_state_comes_when_the_old_one_was_forgotten)
class EndsWithTheFinal(MemoryWatch):
    async def __anext__(self) -> TaskMeta:
        meta = await super().__anext__()
        if meta.ready:
            self._rows.remove_watcher([meta.id], self._push)
        return meta


@breaks(c.every_final_state_comes_when_there_are_many_watchers)
class HasOneWatcherForAnId(RowStore):
    def add_watcher(self, ids: Sequence[str], push: Callable[[Row], None]) -> None:
        for id_ in ids:
            self._watchers[id_] = {push}


@breaks(c.watch_ends_when_it_is_closed)
class NeverCloses(MemoryWatch):
    async def __aexit__(self, *_: object) -> None:
        pass


@breaks(c.error_comes_when_the_backend_is_closed_meanwhile)
class LetsItsReaderWait(MemoryWatch):
    def fail(self, failure: BackendError) -> None:
        pass


@breaks(c.error_comes_when_the_backend_is_closed_meanwhile)
class EndsWithoutAWord(MemoryWatch):
    def fail(self, failure: BackendError) -> None:
        self._closed = True
        self._wake()
