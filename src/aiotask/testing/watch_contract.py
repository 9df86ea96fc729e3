"""The clauses of `ResultBackend.watch`. Part of `backend_contract.CLAUSES`."""

import asyncio
from typing import Final

from aiotask.exceptions import BackendConnectionError
from aiotask.message import new_id
from aiotask.protocols import ResultBackend
from aiotask.states import FAILURE, RETRY, STARTED, SUCCESS
from aiotask.testing.harness import BackendHarness, meta, store


async def stored_state_comes_first_when_a_watch_begins(harness: BackendHarness) -> None:
    """A watch tells first what is stored now of each id, and nothing of ids of which nothing is."""
    backend = await harness.backend()
    running, final = new_id(), new_id()
    await store(backend, meta(STARTED, running), meta(SUCCESS, final, 42))
    async with backend.watch([running, new_id(), final]) as changes:
        told = {change.id: change for change in [await harness.next(changes), await harness.next(changes)]}
        assert sorted(told) == sorted([running, final])
        assert told[running].state == STARTED
        assert (told[final].state, told[final].result) == (SUCCESS, 42)
        await harness.nothing_changes(changes)


async def nothing_comes_when_the_stored_state_has_expired(harness: BackendHarness) -> None:
    """What has expired is not stored any more: a watch that begins then does not tell of it."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_), expires=0.05)
    await asyncio.sleep(0.1)
    async with backend.watch([id_]) as changes:
        await harness.nothing_changes(changes)


async def change_comes_when_another_process_stores_it(harness: BackendHarness) -> None:
    """A watch tells each change as it is stored, whoever stores it, whether the id was known before or not."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    async with backend.watch([id_]) as changes:
        for state in (STARTED, "PROGRESS", SUCCESS):
            await store(other, meta(state, id_, state.lower()))
            change = await harness.next(changes)
            assert (change.id, change.state, change.result) == (id_, state, state.lower())


async def change_comes_when_the_reader_waits_already(harness: BackendHarness) -> None:
    """A reader that waits is woken by a change."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    async with backend.watch([id_]) as changes:
        waiting = asyncio.create_task(harness.next(changes))
        await asyncio.sleep(0.02)
        await store(other, meta(SUCCESS, id_))
        assert (await waiting).state == SUCCESS


async def final_state_comes_when_it_is_stored_as_the_watch_begins(harness: BackendHarness) -> None:
    """Nothing is lost between reading what is stored and following the changes."""
    backend, other = await harness.backend(), await harness.backend()

    async def followed(id_: str) -> str:
        async with backend.watch([id_]) as changes:
            return (await harness.next(changes)).state

    for round_ in range(12):
        id_ = new_id()
        following = asyncio.create_task(followed(id_))
        await asyncio.sleep(0.001 * (round_ % 4))
        await store(other, meta(SUCCESS, id_))
        assert await following == SUCCESS


async def last_change_comes_when_many_come_at_once(harness: BackendHarness) -> None:
    """Of changes in quick succession some may be left out, never the last, and never is the order changed."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    async with backend.watch([id_]) as changes:
        for step in range(30):
            await store(other, meta("PROGRESS", id_, step))
        steps = [(await harness.next(changes)).result]
        while steps[-1] != 29:
            steps.append((await harness.next(changes)).result)
    assert steps == sorted(set(steps))


async def final_state_comes_when_others_come_with_it(harness: BackendHarness) -> None:
    """A final state always comes, also when it was stored by one batch with what came before and after."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    async with backend.watch([id_]) as changes:
        await store(other, meta(STARTED, id_), meta(RETRY, id_), meta(SUCCESS, id_), meta(STARTED, id_))
        while (await harness.next(changes)).state != SUCCESS:
            pass
        await harness.nothing_changes(changes)


async def nothing_comes_when_a_refused_row_is_stored(harness: BackendHarness) -> None:
    """What `store` drops, because a final state is there, is no change."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    await store(backend, meta(SUCCESS, id_))
    async with backend.watch([id_]) as changes:
        assert (await harness.next(changes)).state == SUCCESS
        await store(other, meta(STARTED, id_), meta(FAILURE, id_))
        await harness.nothing_changes(changes)


async def nothing_comes_twice_when_the_same_row_is_stored_again(harness: BackendHarness) -> None:
    """Nothing comes twice in a row for one id."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    row = other.encode(meta(STARTED, id_, "same"), 60.0)
    await other.store([row])
    async with backend.watch([id_]) as changes:
        assert (await harness.next(changes)).state == STARTED
        waiting = asyncio.create_task(harness.next(changes))
        await other.store([row])
        await asyncio.sleep(harness.quiet / 2)  # a second telling would have come by now
        await store(other, meta(SUCCESS, id_))
        assert (await waiting).state == SUCCESS
        await other.store([other.encode(meta(SUCCESS, id_), 60.0)])
        await harness.nothing_changes(changes)


async def nothing_comes_when_other_ids_change(harness: BackendHarness) -> None:
    """A watch tells of its own ids only."""
    backend, other = await harness.backend(), await harness.backend()
    async with backend.watch([new_id(), new_id()]) as changes:
        await store(other, meta(SUCCESS, new_id()))
        await harness.nothing_changes(changes)


async def new_state_comes_when_the_old_one_was_forgotten(harness: BackendHarness) -> None:
    """A watch goes on after a final state: what is stored after `forget` comes."""
    backend, other = await harness.backend(), await harness.backend()
    id_ = new_id()
    await store(backend, meta(FAILURE, id_))
    async with backend.watch([id_]) as changes:
        assert (await harness.next(changes)).state == FAILURE
        await other.forget([id_])
        await store(other, meta(STARTED, id_))
        assert (await harness.next(changes)).state == STARTED


async def every_final_state_comes_when_there_are_many_watchers(harness: BackendHarness) -> None:
    """Many watches at once, of ids of their own and of one that all share, each get their final states."""
    backend, other = await harness.backend(), await harness.backend()
    shared = new_id()
    own = [new_id() for _ in range(100)]

    async def followed(watcher: ResultBackend, id_: str) -> set[str]:
        async with watcher.watch([id_, shared]) as changes:
            return {(await harness.next(changes)).id, (await harness.next(changes)).id}

    following = [asyncio.create_task(followed(backend, id_)) for id_ in own]
    await asyncio.sleep(0)
    await store(other, *(meta(SUCCESS, id_) for id_ in own))
    await store(other, meta(SUCCESS, shared))
    assert await asyncio.gather(*following) == [{id_, shared} for id_ in own]


async def watch_ends_when_it_is_closed(harness: BackendHarness) -> None:
    """A watch follows until it is closed: then it has nothing more to tell."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(STARTED, id_))
    async with backend.watch([id_]) as changes:
        await harness.next(changes)
    await store(backend, meta(SUCCESS, id_))
    try:
        await harness.soon(anext(changes))
    except StopAsyncIteration:
        return
    raise AssertionError("a closed watch went on")


async def error_comes_when_the_backend_is_closed_meanwhile(harness: BackendHarness) -> None:
    """Closing a backend ends what is watched by `BackendConnectionError`: nobody waits on for what can't come."""
    backend = await harness.backend()
    id_ = new_id()
    await store(backend, meta(STARTED, id_))
    async with backend.watch([id_]) as changes:
        assert (await harness.next(changes)).state == STARTED
        waiting = asyncio.create_task(harness.next(changes))
        await asyncio.sleep(0.02)
        await backend.close()
        try:
            await waiting
        except BackendConnectionError:
            return
    raise AssertionError("a watch of a closed backend told a change")


CLAUSES: Final = (
    stored_state_comes_first_when_a_watch_begins,
    nothing_comes_when_the_stored_state_has_expired,
    change_comes_when_another_process_stores_it,
    change_comes_when_the_reader_waits_already,
    final_state_comes_when_it_is_stored_as_the_watch_begins,
    last_change_comes_when_many_come_at_once,
    final_state_comes_when_others_come_with_it,
    nothing_comes_when_a_refused_row_is_stored,
    nothing_comes_twice_when_the_same_row_is_stored_again,
    nothing_comes_when_other_ids_change,
    new_state_comes_when_the_old_one_was_forgotten,
    every_final_state_comes_when_there_are_many_watchers,
    watch_ends_when_it_is_closed,
    error_comes_when_the_backend_is_closed_meanwhile,
)
