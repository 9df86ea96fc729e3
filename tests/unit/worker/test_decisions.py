"""What each outcome means for the message and for the stored state; a table of the contract's sections 5 and 6."""

from datetime import UTC, datetime
from typing import Any

import pytest

from aiotask import AioTask, ArgumentError, EncodeError, MaxRetriesExceeded, Reject, Retry, WorkerLost
from aiotask.exceptions import DecodeError
from aiotask.message import Delivery, Foreign, TaskMessage
from aiotask.outcome import Expired, Failed, HandedBack, Ignored, Lost, Rejected, Retried, Revoked, Succeeded
from aiotask.wire.errors import from_record
from aiotask.wire.serialization import JSON
from aiotask.worker.decisions import REQUEUE_DELAY_S, after_failure, after_loss, decide, state_meta
from aiotask.worker.execution import Execution

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

app = AioTask("proj", broker="memory://")


def execution(*, message: dict[str, Any] | None = None, started: bool = True, **options: Any) -> Execution:
    """Return an execution of a task with these options."""

    async def body(*args: Any, **kwargs: Any) -> None: ...

    apart = AioTask("proj", broker="memory://")
    task = apart.task(name="proj.t", **options)(body)
    sent = TaskMessage("proj.t", "id-1", b'[[1],{"k":2}]', **{"parent_id": "parent", **(message or {})})
    delivery = Delivery("id-1", "mail", b"body", "application/x", sent.priority, receipt=1)
    made = Execution(delivery, sent, task)
    made.args, made.kwargs = [1], {"k": 2}
    made.started_mono = 5.0 if started else 0.0
    return made


def top(low: float, high: float) -> float:
    """Draw the largest, so that jitter is visible and the same each time."""
    return high


@pytest.mark.parametrize(
    ("acks_late", "reject_on_worker_lost", "outcome"),
    [(True, True, Lost), (True, False, Failed), (False, True, Failed), (False, False, Failed)],
)
def test_lost_process_is_a_failure_unless_the_task_may_and_wants_to_run_again(
    acks_late: bool, reject_on_worker_lost: bool, outcome: type
) -> None:
    run = execution(acks_late=acks_late, reject_on_worker_lost=reject_on_worker_lost, autoretry_for=(Exception,))
    assert type(after_loss(run, WorkerLost("gone"))) is outcome


# What is done with the message, and what is stored


def test_lost_process_hands_back_counts_a_loss_and_stores_nothing() -> None:
    decision = decide(execution(acks_late=True), Lost(WorkerLost("gone")), NOW)
    assert (decision.settlement.action, decision.settlement.delay_s, decision.settlement.lost) == ("release", 0.0, True)
    assert decision.meta is None


@pytest.mark.parametrize("acks_late", [False, True])
def test_success_acknowledges_and_stores_the_value(acks_late: bool) -> None:
    decision = decide(execution(acks_late=acks_late), Succeeded({"total": 5}), NOW)
    assert decision.settlement.action == "ack"
    meta = decision.meta
    assert meta is not None
    assert (meta.id, meta.state, meta.result, meta.name) == ("id-1", "SUCCESS", {"total": 5}, "proj.t")
    assert (meta.date_done, meta.queue, meta.retries, meta.parent_id) == (NOW, "mail", 0, "parent")
    assert meta.args is meta.kwargs is meta.worker is None


@pytest.mark.parametrize("acks_late", [False, True])
def test_failure_acknowledges_and_stores_the_exception_and_its_traceback(acks_late: bool) -> None:
    decision = decide(execution(acks_late=acks_late), Failed(ValueError("x"), "Traceback ..."), NOW)
    assert decision.settlement.action == "ack"
    assert decision.meta is not None
    assert (decision.meta.state, decision.meta.traceback, decision.meta.date_done) == ("FAILURE", "Traceback ...", NOW)
    assert decision.meta.result == {"exc_type": "ValueError", "exc_message": ["x"], "exc_module": "builtins"}


@pytest.mark.parametrize(("acks_late", "action"), [(True, "dead"), (False, "ack")])
def test_failure_is_dead_lettered_too_when_the_task_wants_it_and_acknowledges_late(
    acks_late: bool, action: str
) -> None:
    run = execution(acks_late=acks_late, acks_on_failure_or_timeout=False)
    decision = decide(run, Failed(ValueError("no money")), NOW)
    assert decision.settlement.action == action
    assert decision.meta is not None
    assert decision.meta.state == "FAILURE"
    if action == "dead":
        assert (decision.settlement.reason, decision.settlement.detail) == ("ValueError", "no money")


@pytest.mark.parametrize(
    ("of_task", "of_call", "store_errors", "success", "failure"),
    [
        (False, None, False, True, True),
        (True, None, False, False, False),
        (True, None, True, False, True),
        (False, True, False, False, False),
        (False, True, True, False, True),
        (True, False, False, True, True),
    ],
)
def test_nothing_is_stored_when_results_are_ignored_but_errors_where_wanted(
    of_task: bool, of_call: bool | None, store_errors: bool, success: bool, failure: bool
) -> None:
    run = execution(
        message={"ignore_result": of_call}, ignore_result=of_task, store_errors_even_if_ignored=store_errors
    )
    assert (decide(run, Succeeded(1), NOW).meta is not None) is success
    assert (decide(run, Failed(ValueError()), NOW).meta is not None) is failure
    assert (decide(run, Retried(Retry("", None, 1.0)), NOW).meta is not None) is success


def test_dead_message_s_failure_is_stored_though_results_are_ignored_so_that_nobody_waits() -> None:
    decision = decide(execution(ignore_result=True), Failed(WorkerLost("gone"), dead=True), NOW)
    assert (decision.settlement.action, decision.settlement.reason) == ("dead", "WorkerLost")
    assert decision.meta is not None
    assert decision.meta.state == "FAILURE"


def test_unreadable_message_is_dead_and_a_failure_is_stored_under_the_broker_s_id() -> None:
    unread = Execution(Delivery("id-9", "mail", b"?", "application/x", 5, receipt=1))
    decision = decide(unread, Failed(EncodeError("no message"), dead=True), NOW)
    assert decision.settlement.action == "dead"
    assert decision.meta is not None
    assert (decision.meta.id, decision.meta.state, decision.meta.queue) == ("id-9", "FAILURE", "mail")


@pytest.mark.parametrize("foreign", [None, Foreign(), Foreign(facts={"group": "g"})])
def test_group_is_stored_when_a_message_of_celery_s_names_one(foreign: Foreign | None) -> None:
    run = execution(message={"foreign": foreign})
    group = "g" if foreign is not None and foreign.facts else None
    for meta in (decide(run, Succeeded(1), NOW).meta, state_meta(run, "PROGRESS", None)):
        assert meta is not None
        assert meta.group_id == group


@pytest.mark.parametrize(("headers", "module"), [(None, "aiotask.exceptions"), ({}, "kombu.exceptions")])
def test_unreadable_message_s_failure_has_celery_s_name_when_it_is_none_of_ours(
    headers: dict[str, Any] | None, module: str
) -> None:
    unread = Execution(Delivery("id-9", "mail", b"?", "application/json", 5, receipt=1, headers=headers))
    meta = decide(unread, Failed(DecodeError("no message"), dead=True), NOW).meta
    assert meta is not None
    assert (meta.result["exc_module"], meta.result["exc_type"]) == (module, "DecodeError")
    assert type(from_record(meta.result, None)) is DecodeError


def test_ignored_acknowledges_and_stores_nothing() -> None:
    decision = decide(execution(acks_late=True), Ignored(), NOW)
    assert (decision.settlement.action, decision.meta) == ("ack", None)


def test_expired_is_revoked_with_the_reason() -> None:
    decision = decide(execution(started=False), Expired(), NOW)
    assert decision.settlement.action == "ack"
    assert decision.meta is not None
    assert (decision.meta.state, decision.meta.date_done) == ("REVOKED", NOW)
    assert repr(from_record(decision.meta.result, None)) == "TaskRevokedError('expired')"


@pytest.mark.parametrize("reason", ["revoked", "terminated"])
def test_revoked_says_why_and_its_message_is_gone(reason: str) -> None:
    decision = decide(execution(acks_late=True), Revoked(reason), NOW)
    assert decision.settlement.action == "ack"
    assert decision.meta is not None
    assert (decision.meta.state, decision.meta.date_done) == ("REVOKED", NOW)
    assert repr(from_record(decision.meta.result, None)) == f"TaskRevokedError('{reason}')"


@pytest.mark.parametrize("reason", ["no such account", None, 5, ValueError("bad"), object()])
def test_rejected_is_dead_and_a_failure_of_type_reject_when_acknowledged_late(reason: object) -> None:
    decision = decide(execution(acks_late=True), Rejected(Reject(reason)), NOW)
    assert (decision.settlement.action, decision.settlement.reason) == ("dead", "Reject")
    assert decision.settlement.detail == str(reason)
    assert decision.meta is not None
    assert decision.meta.state == "FAILURE"
    back = from_record(JSON.decode(JSON.encode(decision.meta.result)), None)
    assert isinstance(back, Reject)
    assert str(back.reason) == str(reason)


def test_rejected_describes_a_reason_whose_str_fails() -> None:
    class Mute:
        def __str__(self) -> str:
            raise ValueError

        __repr__ = __str__

    decision = decide(execution(acks_late=True), Rejected(Reject(Mute())), NOW)
    assert "Mute whose repr raised ValueError" in decision.settlement.detail


def test_rejected_is_given_back_a_moment_later_when_it_asks_for_it_and_acknowledges_late() -> None:
    decision = decide(execution(acks_late=True), Rejected(Reject("later", requeue=True)), NOW)
    assert (decision.settlement.action, decision.settlement.delay_s) == ("release", REQUEUE_DELAY_S)
    assert decision.meta is None


@pytest.mark.parametrize("requeue", [False, True])
def test_rejected_changes_nothing_for_the_message_when_it_was_acknowledged_early(requeue: bool) -> None:
    decision = decide(execution(), Rejected(Reject("why", requeue=requeue)), NOW)
    assert decision.settlement.action == "ack"
    assert decision.meta is not None
    assert decision.meta.result["exc_type"] == "Reject"


@pytest.mark.parametrize(("acks_late", "started"), [(True, True), (True, False), (False, False)])
def test_handed_back_is_released_at_once_when_it_may_start_again(acks_late: bool, started: bool) -> None:
    decision = decide(execution(acks_late=acks_late, started=started), HandedBack(), NOW)
    assert (decision.settlement.action, decision.settlement.delay_s, decision.meta) == ("release", 0, None)


def test_handed_back_is_lost_when_it_was_acknowledged_early_and_had_started() -> None:
    decision = decide(execution(), HandedBack(), NOW)
    assert (decision.settlement.action, decision.settlement.reason) == ("dead", "WorkerLost")
    assert decision.meta is not None
    assert (decision.meta.state, decision.meta.result["exc_type"]) == ("FAILURE", "WorkerLost")


# Retries


def replaced(run: Execution, retry: Retry) -> tuple[Any, TaskMessage]:
    """Return the envelope that takes the message's place, and the message in it."""
    decision = decide(run, Retried(retry, "Traceback ..."), NOW)
    assert decision.settlement.action == "replace"
    envelope = decision.settlement.envelope
    assert envelope is not None
    return envelope, app.codec.decode(envelope.body)


def test_retry_keeps_all_but_the_count_and_the_time() -> None:
    sent = {
        "retries": 1,
        "root_id": "root",
        "priority": 2,
        "headers": {"trace": "ab"},
        "origin": "gen1@host",
        "ignore_result": False,
    }
    run = execution(message=sent)
    envelope, message = replaced(run, Retry("", None, 7.0))
    assert (envelope.id, envelope.queue, envelope.priority, envelope.delay_s) == ("id-1", "mail", 2, 7.0)
    assert (message.id, message.retries, message.payload) == ("id-1", 2, b'[[1],{"k":2}]')
    assert (message.root_id, message.parent_id, message.origin) == ("root", "parent", "gen1@host")
    assert (message.headers, message.priority, message.ignore_result) == ({"trace": "ab"}, 2, False)


def test_retry_waits_until_a_moment_when_one_is_given() -> None:
    envelope, message = replaced(execution(), Retry("", None, None, NOW.timestamp()))
    assert (envelope.delay_s, envelope.due_at) == (None, NOW.timestamp())
    assert message.eta == NOW.timestamp()


def test_retry_keeps_the_time_of_expiry_by_the_broker_s_clock() -> None:
    run = execution(message={"expires": 99.0})
    run.delivery.expires_at = 100.0
    envelope, message = replaced(run, Retry("", None, 1.0))
    assert (envelope.expires_at, envelope.ttl_s, message.expires) == (100.0, None, 99.0)


def test_retry_carries_other_arguments_when_it_has_some() -> None:
    _, message = replaced(execution(), Retry("", None, 1.0, None, ([5], {"k": 6})))
    assert JSON.decode(message.payload) == [[5], {"k": 6}]


def test_retry_stores_the_reason_and_its_traceback() -> None:
    meta = decide(execution(), Retried(Retry("", ValueError("x"), 1.0), "Traceback ..."), NOW).meta
    assert meta is not None
    assert (meta.state, meta.traceback, meta.date_done) == ("RETRY", "Traceback ...", None)
    assert meta.result["exc_type"] == "ValueError"
    no_reason = decide(execution(), Retried(Retry("", None, 1.0)), NOW).meta
    assert no_reason is not None
    assert (no_reason.state, no_reason.result) == ("RETRY", None)


def test_retry_is_refused_when_its_arguments_can_not_be_serialised() -> None:
    with pytest.raises(EncodeError):
        decide(execution(), Retried(Retry("", None, 1.0, None, ([object()], {}))), NOW)


# What a failure amounts to


def retried(run: Execution, exc: BaseException) -> Retry | None:
    outcome = after_failure(run, Failed(exc, "Traceback ..."), top)
    if isinstance(outcome, Failed):
        assert outcome.exc is exc
        return None
    assert outcome.retry.exc is exc
    assert outcome.traceback == "Traceback ..."
    return outcome.retry


def test_failure_stays_one_when_the_task_does_not_retry_it() -> None:
    assert retried(execution(), ValueError()) is None
    assert retried(execution(autoretry_for=(OSError,)), ValueError()) is None
    assert retried(execution(autoretry_for=(OSError,), dont_autoretry_for=(TimeoutError,)), TimeoutError()) is None


def test_failure_is_retried_after_the_usual_delay_when_there_is_no_backoff() -> None:
    retry = retried(execution(autoretry_for=(ValueError,), default_retry_delay=7), ValueError("x"))
    assert retry is not None
    assert retry.delay == 7


@pytest.mark.parametrize(("retries", "delay"), [(0, 1.0), (1, 2.0), (5, 20.0)])
def test_failure_is_retried_later_each_time_when_there_is_backoff(retries: int, delay: float) -> None:
    run = execution(
        message={"retries": retries},
        autoretry_for=(ValueError,),
        retry_backoff=True,
        retry_backoff_max=20,
        max_retries=9,
    )
    retry = retried(run, ValueError("x"))
    assert retry is not None
    assert retry.delay == delay


@pytest.mark.parametrize(
    ("options", "retries", "again"),
    [
        ({}, 2, True),
        ({}, 3, False),
        ({"max_retries": None}, 10**6, True),
        ({"max_retries": 0}, 0, False),
        ({"retry_kwargs": {"max_retries": 5}}, 4, True),
        ({"retry_kwargs": {"max_retries": 5}}, 5, False),
        ({"retry_kwargs": {"max_retries": None}}, 10**6, True),
    ],
)
def test_failure_is_retried_until_the_limit(options: dict[str, Any], retries: int, again: bool) -> None:
    run = execution(message={"retries": retries}, autoretry_for=(ValueError,), **options)
    assert (retried(run, ValueError()) is not None) is again


def test_failure_is_retried_after_the_countdown_of_retry_kwargs() -> None:
    run = execution(autoretry_for=(ValueError,), retry_backoff=True, retry_kwargs={"countdown": 0})
    retry = retried(run, ValueError())
    assert retry is not None
    assert retry.delay == 0


@pytest.mark.parametrize("exc", [ArgumentError("no fit"), EncodeError("no JSON"), MaxRetriesExceeded("over")])
def test_failure_stays_one_when_another_time_would_end_in_the_same_way(exc: Exception) -> None:
    assert retried(execution(autoretry_for=(Exception,)), exc) is None


def test_failure_stays_one_when_there_is_no_task_or_message() -> None:
    unread = Execution(Delivery("id-9", "mail", b"?", "application/x", 5, receipt=1))
    assert retried(unread, ValueError()) is None


# What else is stored


def test_state_of_a_body_is_stored_with_its_meta_and_is_not_final() -> None:
    meta = state_meta(execution(), "PROGRESS", {"n": 1})
    assert (meta.id, meta.state, meta.result, meta.date_done, meta.name) == (
        "id-1",
        "PROGRESS",
        {"n": 1},
        None,
        "proj.t",
    )
