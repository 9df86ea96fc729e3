"""Plain functions in threads: their values and whatever they raise come back, and none starts that nobody wants."""

import asyncio
import contextvars
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from aiotask.worker.executors import ThreadPool, raised_by_body

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
async def pool() -> AsyncIterator[ThreadPool]:
    made = ThreadPool(2)
    yield made
    made.close()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("aiotask-thread")}


async def test_value_comes_back_from_a_thread(pool: ThreadPool) -> None:
    def body(x: int, *, y: int) -> tuple[int, int, bool]:
        return x, y, threading.current_thread() is threading.main_thread()

    assert await pool.call(body, [1], {"y": 2}) == (1, 2, False)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("x"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(5),
        StopAsyncIteration(),
        asyncio.CancelledError("x"),
        BaseException("x"),
        BaseExceptionGroup("many", [SystemExit(1)]),
    ],
)
async def test_whatever_is_raised_comes_back_and_the_thread_goes_on(pool: ThreadPool, exc: BaseException) -> None:
    def body() -> None:
        raise exc

    with pytest.raises(BaseException) as raised:
        await pool.call(body, [], {})
    assert raised_by_body(raised.value) is exc
    assert await pool.call(lambda: "still there", [], {}) == "still there"


async def test_context_of_the_call_is_seen_and_what_the_thread_sets_stays_there(pool: ThreadPool) -> None:
    def body() -> str:
        seen = COLOUR.get()
        COLOUR.set("thread's")
        return seen

    COLOUR.set("call's")
    assert await pool.call(body, [], {}) == "call's"
    assert COLOUR.get() == "call's"
    assert await pool.call(body, [], {}) == "call's"


async def test_threads_are_made_on_demand_up_to_the_size_and_used_again(pool: ThreadPool) -> None:
    before = threads()
    assert await pool.call(threading.get_ident, [], {}) != threading.get_ident()
    gate, busy = threading.Event(), [threading.Event() for _ in range(5)]
    calls = [pool.call(lambda started: (started.set(), gate.wait()), [started], {}) for started in busy]
    await asyncio.to_thread(busy[0].wait, 5)
    await asyncio.to_thread(busy[1].wait, 5)
    assert len(threads() - before) == 2
    assert [started.is_set() for started in busy[2:]] == [False, False, False]
    gate.set()
    await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert all(started.is_set() for started in busy)


async def test_calls_run_in_their_order_when_there_is_one_thread() -> None:
    pool = ThreadPool(1)
    order: list[int] = []
    await asyncio.gather(*(pool.call(order.append, [number], {}) for number in range(50)))
    assert order == list(range(50))
    pool.close()


async def test_call_does_not_start_when_it_was_given_up_while_it_waited() -> None:
    pool = ThreadPool(1)
    gate, ran = threading.Event(), []
    first = pool.call(gate.wait, [], {})
    doomed = pool.call(ran.append, ["doomed"], {})
    last = pool.call(ran.append, ["last"], {})
    doomed.cancel()
    gate.set()
    await first
    await last
    assert ran == ["last"]
    pool.close()


async def test_call_is_abandoned_when_it_is_given_up_while_it_runs(pool: ThreadPool) -> None:
    gate, started, ended = threading.Event(), threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        gate.wait()
        ended.set()

    doomed = pool.call(body, [], {})
    await asyncio.to_thread(started.wait, 5)
    doomed.cancel()
    gate.set()
    assert await asyncio.to_thread(ended.wait, 5)
    assert await pool.call(lambda: 1, [], {}) == 1
    assert doomed.cancelled()


async def test_another_thread_is_made_when_a_call_is_abandoned() -> None:
    before, pool = threads(), ThreadPool(1)
    gate, started = threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        gate.wait()

    doomed, waiting = pool.call(body, [], {}), pool.call(lambda: "its turn", [], {})
    await asyncio.to_thread(started.wait, 5)
    [left] = threads() - before
    doomed.cancel()
    pool.abandon(doomed)
    assert await asyncio.wait_for(waiting, 5) == "its turn"
    assert len(threads() - before) == 2
    gate.set()
    await asyncio.to_thread(left.join, 5)  # it ends with its call: there are no more threads than there may be
    assert not left.is_alive()
    assert await pool.call(lambda: 1, [], {}) == 1
    [other] = threads() - before
    pool.close()
    await asyncio.to_thread(other.join, 5)
    assert not other.is_alive()


async def test_no_thread_is_made_when_an_abandoned_call_had_not_started() -> None:
    before, pool = threads(), ThreadPool(1)
    gate = threading.Event()
    first, doomed = pool.call(gate.wait, [], {}), pool.call(gate.wait, [], {})
    doomed.cancel()
    pool.abandon(doomed)
    gate.set()
    await first
    assert await pool.call(lambda: 1, [], {}) == 1
    assert len(threads() - before) == 1
    pool.close()


async def test_threads_end_when_the_pool_is_closed() -> None:
    before = threads()
    pool = ThreadPool(3)
    gate = threading.Event()
    calls = [pool.call(gate.wait, [], {}) for _ in range(3)]
    made = threads() - before
    assert len(made) == 3
    pool.close()
    gate.set()
    await asyncio.gather(*calls)
    for thread in made:
        await asyncio.to_thread(thread.join, 5)
    assert not any(thread.is_alive() for thread in made)


async def test_results_are_kept_by_nobody_when_they_are_delivered() -> None:
    class Result:
        pass

    pool = ThreadPool(1)  # so that the second call is run when its thread is done with the first
    result: Any = await pool.call(Result, [], {})
    alive = weakref.ref(result)
    del result
    await pool.call(lambda: None, [], {})
    assert alive() is None
    pool.close()


def test_thread_ends_quietly_when_the_loop_is_gone_before_its_body_ends() -> None:
    before, gate, started = threads(), threading.Event(), threading.Event()

    async def leave_early() -> None:
        pool = ThreadPool(1)
        pool.call(lambda: (started.set(), gate.wait()), [], {})
        await asyncio.to_thread(started.wait, 5)
        pool.close()

    asyncio.run(leave_early())
    [thread] = threads() - before
    gate.set()
    thread.join(5)
    assert not thread.is_alive()
