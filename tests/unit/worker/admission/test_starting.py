"""What of the received messages may start, and when."""

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.worker.admission.stage import Stage

from aiotask import WorkerLost
from aiotask.exceptions import BrokerError
from aiotask.message import Verdict
from aiotask.outcome import Expired, Failed, HandedBack, Parked, Revoked
from aiotask.worker.suspects import SOLITUDE_S


async def test_batch_is_begun_in_one_step_and_started_in_its_order(stage: Stage) -> None:
    stage.offer(stage.delivery("a"), stage.delivery("b", "proj.late", b"[[],{}]"))
    await stage.settle()
    assert stage.judge.batches == [["a", "b"]]
    assert [start.acks_late for start in stage.judge.begun[0]] == [False, True]
    assert stage.started_ids == ["a", "b"]
    assert (stage.started[0].args, stage.started[0].kwargs) == ([1, 2], {})
    assert stage.slots.used == 2


async def test_message_waits_until_a_slot_is_free(stage: Stage) -> None:
    stage.offer(*(stage.delivery(id_) for id_ in "abcde"))
    await stage.settle()
    assert stage.started_ids == ["a", "b", "c"]
    stage.admission.left(stage.started[1])
    await stage.settle()
    assert stage.judge.batches == [["a", "b", "c"], ["d"]]
    stage.admission.left(stage.started[0])
    stage.admission.left(stage.started[2])
    await stage.settle()
    assert stage.started_ids == ["a", "b", "c", "d", "e"]


async def test_nothing_starts_past_the_budget(make: Callable[..., Stage]) -> None:
    stage = make(budget=2)
    stage.judge.verdicts = {"a": Verdict.EXPIRED}
    stage.offer(*(stage.delivery(id_) for id_ in "abcd"))
    await stage.settle()
    assert stage.started_ids == ["b", "c"]
    stage.admission.left(stage.started[0])
    await stage.settle()
    assert stage.started_ids == ["b", "c"]
    assert [execution.delivery.id for execution in stage.admission.withdraw()] == ["d"]


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        (Verdict.REVOKED, Revoked),
        (Verdict.EXPIRED, Expired),
        (Verdict.STARTED_BEFORE, Failed),
        (Verdict.TOO_MANY_STARTS, Failed),
    ],
)
async def test_message_is_concluded_and_its_slot_free_when_it_may_not_start(
    stage: Stage, verdict: Verdict, outcome: type
) -> None:
    stage.judge.verdicts = {"a": verdict}
    stage.offer(stage.delivery("a", losses=4), stage.delivery("b"))
    await stage.settle()
    assert stage.started_ids == ["b"]
    [(execution, concluded)] = stage.concluded
    assert execution.delivery.id == "a"
    assert isinstance(concluded, outcome)
    assert stage.slots.used == 1
    if isinstance(concluded, Failed):
        assert concluded.dead
        assert isinstance(concluded.exc, WorkerLost)


async def test_message_is_concluded_and_its_slot_free_when_only_this_worker_knows_that_it_is_revoked(
    make: Callable[..., Stage],
) -> None:
    stage = make(budget=1)
    stage.revoked.add("a")
    stage.offer(stage.delivery("a"), stage.delivery("b"))
    await stage.settle()
    assert stage.judge.batches == [["a"], ["b"]]
    assert [(execution.delivery.id, outcome) for execution, outcome in stage.concluded] == [("a", Revoked())]
    assert (stage.started_ids, stage.slots.used) == (["b"], 1)


async def test_message_does_not_start_when_it_was_revoked_and_comes_begun(stage: Stage) -> None:
    stage.revoked.add("a")
    stage.offer(
        stage.delivery("a", begun=True), stage.delivery("b", begun=True), stage.delivery("a", "proj.pair", begun=True)
    )
    await stage.settle()
    assert [(execution.delivery.id, outcome) for execution, outcome in stage.concluded] == [("a", Revoked())] * 2
    assert all(execution.place is None for execution, _ in stage.concluded)
    assert (stage.started_ids, stage.slots.used, stage.judge.begun) == (["b"], 1, [])


async def test_lost_message_stays_lost_when_only_this_worker_knows_that_it_is_revoked(stage: Stage) -> None:
    stage.revoked.add("a")
    stage.judge.verdicts = {"a": Verdict.LOST}
    stage.offer(stage.delivery("a"))
    await stage.settle()
    assert [execution.delivery.id for execution in stage.forgotten] == ["a"]
    assert stage.concluded == []


async def test_lost_message_is_forgotten_and_its_slot_free(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.judge.verdicts = {"a": Verdict.LOST}
    stage.offer(stage.delivery("a"))
    await stage.settle()
    assert [execution.delivery.id for execution in stage.forgotten] == ["a"]
    assert (stage.started, stage.concluded, stage.slots.used) == ([], [], 0)
    assert "Lost the lease of proj.add[a]" in caplog.text


async def test_batch_is_left_to_its_leases_when_it_can_not_be_begun(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.judge.failure = BrokerError("link down")
    stage.offer(stage.delivery("a"), stage.delivery("b"))
    await stage.settle()
    assert len(stage.forgotten) == 2
    assert stage.slots.used == 0
    assert "Can't begin 2 messages: link down" in caplog.text
    stage.judge.failure = None
    stage.offer(stage.delivery("c"))
    await stage.settle()
    assert stage.started_ids == ["c"]


async def test_one_suspect_runs_at_a_time_so_that_a_crash_names_its_culprit(stage: Stage) -> None:
    stage.offer(stage.suspect("a", 2), stage.suspect("b", 2), stage.delivery("c"))
    await stage.settle()
    assert stage.started_ids == ["a", "c"]
    stage.admission.left(stage.started[1])
    await stage.settle()
    assert stage.started_ids == ["a", "c"]
    stage.admission.left(stage.started[0])
    await stage.settle()
    assert stage.started_ids == ["a", "c", "b"]


async def test_next_suspect_starts_when_the_one_before_it_was_refused(stage: Stage) -> None:
    stage.judge.verdicts = {"a": Verdict.TOO_MANY_STARTS}
    stage.offer(stage.suspect("a", 4), stage.suspect("b", 2))
    await stage.settle()
    assert stage.started_ids == ["b"]


async def test_message_lost_once_is_no_suspect(stage: Stage) -> None:
    stage.offer(stage.suspect("a", 1), stage.suspect("b", 1))
    await stage.settle()
    assert stage.started_ids == ["a", "b"]


async def test_last_start_is_alone_in_its_process(stage: Stage) -> None:
    stage.offer(stage.delivery("a"))
    await stage.settle()
    stage.offer(stage.suspect("last", 3), stage.delivery("b"), stage.suspect("c", 2))
    await stage.settle()
    assert stage.started_ids == ["a"], "nothing starts before the one that runs has ended"
    stage.admission.left(stage.started[0])
    await stage.settle()
    assert stage.started_ids == ["a", "last"], "nothing starts beside it"
    stage.admission.left(stage.started[1])
    await stage.settle()
    assert stage.started_ids == ["a", "last", "c", "b"]


async def test_others_wait_for_a_last_start_for_a_while_only(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    passed = 0.0
    timers: list[float] = []
    monkeypatch.setattr(loop, "time", lambda: began + passed)
    monkeypatch.setattr(loop, "call_later", lambda seconds, call: timers.append(seconds) or loop.call_at(began, call))
    stage.offer(stage.delivery("long"))
    await stage.settle()
    stage.offer(stage.suspect("last", 3), stage.delivery("b"))
    await stage.settle()
    assert stage.started_ids == ["long"]
    passed = SOLITUDE_S
    await stage.settle()
    assert stage.started_ids == ["long", "last"]
    passed = 2 * SOLITUDE_S
    await stage.settle()
    assert stage.started_ids == ["long", "last", "b"]
    assert SOLITUDE_S in timers


async def test_early_acknowledged_message_that_was_lost_holds_nobody_up(stage: Stage) -> None:
    stage.judge.verdicts = {"a": Verdict.STARTED_BEFORE}
    stage.offer(stage.delivery("a", losses=3), stage.delivery("b"))
    await stage.settle()
    assert stage.started_ids == ["b"]


# Limited tasks


async def test_message_is_parked_when_its_task_has_no_place(stage: Stage) -> None:
    stage.offer(*(stage.delivery(id_, "proj.pair") for id_ in "abcd"), stage.delivery("e"))
    await stage.settle()
    assert stage.started_ids == ["a", "b", "e"]
    assert [(execution.delivery.id, outcome) for execution, outcome in stage.concluded] == [
        ("c", Parked("proj.pair")),
        ("d", Parked("proj.pair")),
    ]


async def test_message_out_of_a_line_keeps_the_place_that_was_kept_for_it(stage: Stage) -> None:
    stage.offer(stage.delivery("a", "proj.pair", line="proj.pair"))
    await stage.settle()
    assert stage.started_ids == ["a"]
    assert stage.started[0].place == "proj.pair"


# What was begun as it was handed out


async def test_begun_message_starts_as_it_comes(stage: Stage) -> None:
    stage.offer(stage.delivery("a", begun=True), stage.delivery("b"), stage.delivery("c", begun=True))
    assert stage.started_ids == ["a", "c"]
    await stage.settle()
    assert stage.started_ids == ["a", "c", "b"]
    assert stage.judge.batches == [["b"]]
    assert stage.slots.used == 3


async def test_begun_message_is_judged_in_its_turn_when_no_slot_is_free(stage: Stage) -> None:
    stage.offer(*(stage.delivery(id_) for id_ in "abc"))
    await stage.settle()
    stage.offer(stage.delivery("d", begun=True))
    await stage.settle()
    assert stage.started_ids == ["a", "b", "c"]
    stage.admission.left(stage.started[0])
    await stage.settle()
    assert stage.judge.batches == [["a", "b", "c"], ["d"]]
    assert stage.started_ids == ["a", "b", "c", "d"]


async def test_begun_message_does_not_start_once_closed(stage: Stage) -> None:
    stage.admission.close()
    stage.offer(stage.delivery("a", begun=True))
    await stage.settle()
    assert stage.started == []
    assert [execution.delivery.id for execution in stage.admission.withdraw()] == ["a"]


async def test_begun_message_is_handed_back_while_a_last_start_is_alone(stage: Stage) -> None:
    stage.offer(stage.suspect("last", 3), stage.delivery("a", begun=True))
    assert stage.started_ids == ["a"], "what came with it goes first"
    stage.admission.left(stage.started[0])
    await stage.settle()
    stage.offer(stage.delivery("b", begun=True))
    await stage.settle()
    assert stage.started_ids == ["a", "last"]
    assert [(execution.delivery.id, outcome) for execution, outcome in stage.concluded] == [("b", HandedBack())]


async def test_begun_message_is_refused_or_parked_as_any_other(stage: Stage) -> None:
    stage.offer(stage.delivery("x", begun=True, body=b"garbage"))
    stage.offer(*(stage.delivery(id_, "proj.pair", begun=True) for id_ in "abc"))
    assert stage.started_ids == ["a", "b"]
    [(refused, failed), (parked, outcome)] = stage.concluded
    assert (refused.delivery.id, type(failed), parked.delivery.id) == ("x", Failed, "c")
    assert outcome == Parked("proj.pair")


async def test_as_many_can_start_as_slots_are_free_and_are_begun_at_once(make: Callable[..., Stage]) -> None:
    stage = make(limit=5, at_once=3)
    assert stage.admission.startable() == 3
    stage.offer(*(stage.delivery(id_, begun=True) for id_ in "abc"))
    assert stage.admission.startable() == 2


async def test_nothing_can_start_as_it_comes_when_something_waits_before_it(stage: Stage) -> None:
    stage.judge.open.clear()
    stage.offer(stage.delivery("a"))
    assert stage.admission.startable() == 0
    await stage.settle()
    assert stage.admission.startable() == 2, "its slot is taken while it is begun"


async def test_nothing_can_start_as_it_comes_when_a_last_start_runs(stage: Stage) -> None:
    stage.offer(stage.suspect("last", 3))
    assert stage.admission.startable() == 0
    await stage.settle()
    assert stage.started_ids == ["last"]
    assert stage.admission.startable() == 0
    stage.admission.left(stage.started[0])
    assert stage.admission.startable() == 3


async def test_nothing_can_start_as_it_comes_when_starts_are_counted(make: Callable[..., Stage]) -> None:
    assert make(budget=2).admission.startable() == 0


async def test_nothing_can_start_as_it_comes_when_something_is_parked(stage: Stage) -> None:
    stage.offer(*(stage.delivery(id_, "proj.pair") for id_ in "abc"))
    await stage.settle()
    assert stage.admission.startable() == 0
    [(parked, _)] = stage.concluded
    stage.lines.settled([parked.delivery])
    assert stage.admission.startable() == 0
    stage.lines._waiting.clear()  # as when it is found empty
    assert stage.admission.startable() == 1


# Closing


async def test_nothing_starts_once_closed_and_what_waits_is_given_up(stage: Stage) -> None:
    stage.offer(*(stage.delivery(id_) for id_ in "abcd"), stage.suspect("s", 2))
    await stage.settle()
    started = list(stage.started_ids)
    stage.admission.close()
    stage.admission.left(stage.started[0])
    await asyncio.wait_for(stage.running, 5)
    assert stage.started_ids == started
    left = {execution.delivery.id for execution in stage.admission.withdraw()}
    assert left == set("abcds") - set(started)
    assert stage.admission.withdraw() == []


async def test_begun_message_does_not_start_when_closed_meanwhile(stage: Stage) -> None:
    stage.judge.open.clear()
    stage.offer(stage.delivery("a"), stage.delivery("b"))
    await stage.settle()
    stage.admission.close()
    stage.judge.open.set()
    await asyncio.wait_for(stage.running, 5)
    assert stage.started == []
    assert {execution.delivery.id for execution in stage.admission.withdraw()} == {"a", "b"}
    assert stage.slots.used == 0


# What can't be read


async def test_next_batch_is_begun_before_the_last_one_runs_when_only_so_many_are_begun_at_once(
    make: Callable[..., Stage],
) -> None:
    stage = make(limit=5, at_once=2)
    stage.judge.open.clear()
    stage.offer(*map(stage.delivery, "abcdefg"))
    await stage.settle()
    assert stage.judge.batches == [["a", "b"]]
    stage.judge.open.set()
    await stage.settle()
    assert stage.judge.batches == [["a", "b"], ["c", "d"], ["e"]]
    assert stage.started_ids == list("abcde")
    for execution in stage.started[:3]:
        stage.admission.left(execution)
    await stage.settle()
    assert stage.judge.batches[3:] == [["f", "g"]]
