"""The clauses of `aiotask.protocols.ResultBackend`.

`CLAUSES` is all that every backend is held to, the clauses of `watch` included; `UNREACHABLE_CLAUSES` needs a harness
with `unreachable`.
"""

import asyncio
from datetime import UTC, datetime
from typing import Final

from aiotask.exceptions import BackendConnectionError, EncodeError
from aiotask.message import new_id
from aiotask.outcome import Packed, TaskMeta
from aiotask.protocols import ResultBackend
from aiotask.states import ABORTED, FAILURE, READY_STATES, RETRY, REVOKED, STARTED, SUCCESS
from aiotask.testing import watch_contract
from aiotask.testing.harness import BackendHarness, meta, store


async def _state(backend: ResultBackend, id_: str) -> str | None:
    (stored,) = await backend.fetch([id_])
    return stored.state if stored is not None else None


async def link_is_up_when_the_backend_is_open(harness: BackendHarness) -> None:
    """`connected` is true of an open backend."""
    backend = await harness.backend()

    async def connected() -> bool:
        return backend.connected

    await harness.until(connected, "connected after open()")


async def link_is_down_when_the_backend_is_closed(harness: BackendHarness) -> None:
    """`connected` is false of a closed backend."""
    backend = await harness.backend()
    await backend.close()
    assert not backend.connected


async def closing_does_nothing_when_the_backend_is_closed(harness: BackendHarness) -> None:
    """`close` is idempotent."""
    backend = await harness.backend()
    await backend.close()
    try:
        await backend.close()
    except Exception as error:
        raise AssertionError("close() failed the second time") from error


async def rows_are_there_when_a_closed_backend_is_opened_again(harness: BackendHarness) -> None:
    """A backend can be opened again after `close`, and finds what it had stored."""
    backend = await harness.backend()
    before, after = new_id(), new_id()
    await store(backend, meta(SUCCESS, before))
    await backend.close()
    await backend.open()
    await store(backend, meta(SUCCESS, after))
    assert None not in await backend.fetch([before, after])


async def row_is_there_for_others_when_it_is_stored(harness: BackendHarness) -> None:
    """What `store` stored another process reads, whatever becomes of the one that stored it."""
    backend = await harness.backend()
    other = await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_, 42))
    await backend.close()
    (stored,) = await other.fetch([id_])
    assert stored is not None
    assert (stored.state, stored.result) == (SUCCESS, 42)


async def every_field_comes_back_when_a_row_is_fetched(harness: BackendHarness) -> None:
    """`fetch` returns what was encoded, field for field."""
    backend = await harness.backend()
    whole = TaskMeta(
        id=new_id(),
        state=SUCCESS,
        result={"list": [1, 2.5, None, True], "text": "é\u2028'\"\\"},
        traceback="Traceback\n  line",
        children=[new_id(), new_id()],
        date_done=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        name="app.add",
        args=[1, "two"],
        kwargs={"three": 3},
        retries=2,
        worker="w@host",
        queue="default",
        parent_id=new_id(),
        group_id=new_id(),
    )
    bare = TaskMeta(id=new_id(), state=STARTED)
    await store(backend, whole, bare)
    assert await backend.fetch([whole.id, bare.id]) == [whole, bare]


async def packed_result_stays_packed_when_a_row_is_fetched(harness: BackendHarness) -> None:
    """A result that `encode` gets as `Packed` comes back as it was: only its reader knows what it accepts."""
    backend = await harness.backend()
    packed = [
        Packed("application/x-python-serialize", how, b"\x00\xff no pickle") for how in (None, "application/x-gzip")
    ]
    metas = [TaskMeta(id=new_id(), state=SUCCESS, result=result) for result in packed]
    await store(backend, *metas)
    assert await backend.fetch([meta.id for meta in metas]) == metas


async def rows_come_in_order_when_several_are_fetched(harness: BackendHarness) -> None:
    """`fetch` returns a row for each id, in their order, also of an id that is asked for twice."""
    backend = await harness.backend()
    first, second = new_id(), new_id()
    await store(backend, meta(SUCCESS, first), meta(FAILURE, second))
    fetched = await backend.fetch([second, first, second])
    assert [stored and stored.id for stored in fetched] == [second, first, second]


async def nothing_comes_when_an_id_is_unknown(harness: BackendHarness) -> None:
    """`fetch` returns None for an id of which nothing is stored."""
    backend = await harness.backend()
    known = new_id()
    await store(backend, meta(SUCCESS, known))
    before, between, after = await backend.fetch([new_id(), known, new_id()])
    assert before is None
    assert after is None
    assert between is not None


async def last_row_wins_when_none_is_final(harness: BackendHarness) -> None:
    """Of rows of one id the last wins, in one batch and over several, a custom state or not."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(RETRY, id_), meta(STARTED, id_))
    assert await _state(backend, id_) == STARTED
    await store(backend, meta("PROGRESS", id_))
    assert await _state(backend, id_) == "PROGRESS"
    await store(backend, meta(RETRY, id_))
    assert await _state(backend, id_) == RETRY


async def final_row_wins_when_others_came_before(harness: BackendHarness) -> None:
    """Each final state replaces one that is not."""
    backend = await harness.backend()
    for final in sorted(READY_STATES):
        id_ = new_id()
        await store(backend, meta(STARTED, id_))
        await store(backend, meta(final, id_))
        assert await _state(backend, id_) == final


async def final_row_stays_when_another_comes(harness: BackendHarness) -> None:
    """A final state is never replaced by anything: not by a later state that isn't final, nor by one that is."""
    backend = await harness.backend()
    for final in (SUCCESS, FAILURE, REVOKED, ABORTED):
        id_ = new_id()
        await store(backend, meta(final, id_, "first"))
        for other in (STARTED, RETRY, "PROGRESS", SUCCESS, FAILURE):
            await store(backend, meta(other, id_, "second"))
        (stored,) = await backend.fetch([id_])
        assert stored is not None
        assert (stored.state, stored.result) == (final, "first")


async def final_row_stays_when_its_own_batch_brings_another(harness: BackendHarness) -> None:
    """The rule of final states holds inside of one batch."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(STARTED, id_), meta(SUCCESS, id_, "first"), meta(FAILURE, id_), meta(STARTED, id_))
    (stored,) = await backend.fetch([id_])
    assert stored is not None
    assert (stored.state, stored.result) == (SUCCESS, "first")


async def nothing_changes_when_a_row_is_stored_twice(harness: BackendHarness) -> None:
    """`store` is idempotent: a repeat of the same rows raises nothing and changes nothing."""
    backend = await harness.backend()
    running, final = new_id(), new_id()
    rows = [backend.encode(meta(STARTED, running, 1), 60.0), backend.encode(meta(SUCCESS, final, 2), 60.0)]
    await backend.store(rows)
    before = await backend.fetch([running, final])
    try:
        await backend.store(rows)
    except Exception as error:
        raise AssertionError("storing the same rows again failed") from error
    assert await backend.fetch([running, final]) == before


async def row_is_gone_when_it_has_expired(harness: BackendHarness) -> None:
    """`fetch` returns None once `expires` seconds are over."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_), expires=0.3)
    assert await _state(backend, id_) == SUCCESS

    async def gone() -> bool:
        return await _state(backend, id_) is None

    await harness.until(gone, "the row's expiry")


async def row_stays_when_it_has_not_expired(harness: BackendHarness) -> None:
    """A row is kept for its own `expires` seconds, and for ever with None."""
    backend = await harness.backend()
    long, ever, short = new_id(), new_id(), new_id()
    await store(backend, meta(SUCCESS, short), expires=0.05)
    await store(backend, meta(SUCCESS, long), expires=3600.0)
    await store(backend, meta(SUCCESS, ever))
    await asyncio.sleep(0.1)
    assert await _state(backend, long) == SUCCESS
    assert await _state(backend, ever) == SUCCESS


async def new_row_is_stored_when_the_final_one_has_expired(harness: BackendHarness) -> None:
    """A final state that has expired is not there any more, and stands in nobody's way."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_), expires=0.05)
    await asyncio.sleep(0.1)
    await store(backend, meta(STARTED, id_), expires=60.0)
    assert await _state(backend, id_) == STARTED


async def rows_are_gone_when_they_are_forgotten(harness: BackendHarness) -> None:
    """`forget` removes rows, final or not, and returns how many there were."""
    backend = await harness.backend()
    final, running, kept = new_id(), new_id(), new_id()
    await store(backend, meta(SUCCESS, final), meta(STARTED, running), meta(SUCCESS, kept))
    assert await backend.forget([final, running, new_id()]) == 2
    gone, gone_too, there = await backend.fetch([final, running, kept])
    assert gone is None
    assert gone_too is None
    assert there is not None
    assert await backend.forget([final]) == 0


async def new_row_is_stored_when_the_final_one_was_forgotten(harness: BackendHarness) -> None:
    """After `forget` an id may begin anew, as it does when a dead letter is replayed."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_))
    await backend.forget([id_])
    await store(backend, meta(STARTED, id_))
    assert await _state(backend, id_) == STARTED


async def encoding_says_so_when_a_result_is_not_serialisable(harness: BackendHarness) -> None:
    """`encode` raises `EncodeError` when the result can't become bytes."""
    backend = await harness.backend()
    try:
        backend.encode(meta(SUCCESS, new_id(), object()), 60.0)
    except EncodeError:
        return
    raise AssertionError("encode() did not raise EncodeError")


async def open_says_so_when_there_is_no_server(harness: BackendHarness) -> None:
    """`open` raises `BackendConnectionError` when the backend can't be reached."""
    assert harness.unreachable is not None, "the harness has no unreachable backend to offer"
    backend = harness.unreachable()
    try:
        await backend.open()
    except BackendConnectionError:
        return
    raise AssertionError("open() did not raise BackendConnectionError")


CLAUSES: Final = (
    link_is_up_when_the_backend_is_open,
    link_is_down_when_the_backend_is_closed,
    closing_does_nothing_when_the_backend_is_closed,
    rows_are_there_when_a_closed_backend_is_opened_again,
    row_is_there_for_others_when_it_is_stored,
    every_field_comes_back_when_a_row_is_fetched,
    packed_result_stays_packed_when_a_row_is_fetched,
    rows_come_in_order_when_several_are_fetched,
    nothing_comes_when_an_id_is_unknown,
    last_row_wins_when_none_is_final,
    final_row_wins_when_others_came_before,
    final_row_stays_when_another_comes,
    final_row_stays_when_its_own_batch_brings_another,
    nothing_changes_when_a_row_is_stored_twice,
    row_is_gone_when_it_has_expired,
    row_stays_when_it_has_not_expired,
    new_row_is_stored_when_the_final_one_has_expired,
    rows_are_gone_when_they_are_forgotten,
    new_row_is_stored_when_the_final_one_was_forgotten,
    encoding_says_so_when_a_result_is_not_serialisable,
    *watch_contract.CLAUSES,
)

UNREACHABLE_CLAUSES: Final = (open_says_so_when_there_is_no_server,)
