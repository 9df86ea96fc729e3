"""What an outcome means for the message and for the stored state. Pure: randomness and time are arguments."""

from collections.abc import Callable
from datetime import datetime
from types import NoneType
from typing import Any

import msgspec

from aiotask.exceptions import (
    ArgumentError,
    EncodeError,
    MaxRetriesExceeded,
    Reject,
    Retry,
    TaskRevokedError,
    WorkerLost,
)
from aiotask.message import Settlement
from aiotask.options import Timing
from aiotask.outcome import (
    Expired,
    Failed,
    HandedBack,
    Ignored,
    Lost,
    Outcome,
    Parked,
    Postponed,
    Rejected,
    Retried,
    Revoked,
    Succeeded,
    TaskMeta,
)
from aiotask.retry import autoretries, backoff_delay, exhausted
from aiotask.sending import message_envelope
from aiotask.states import EXCEPTION_STATES, FAILURE, RETRY, REVOKED, SUCCESS
from aiotask.wire.celery import celery_error
from aiotask.wire.errors import text_of, to_record
from aiotask.wire.payload import plain_call, put_other_call
from aiotask.worker.execution import Execution

REQUEUE_DELAY_S = 0.1
"""A message that its task gives back comes again so much later, behind what waits: at once would be a busy loop."""


class Decision(msgspec.Struct):
    """What is to be done: the settlement, what is stored (None: nothing), and the outcome as it turned out."""

    settlement: Settlement
    meta: TaskMeta | None
    outcome: Outcome


def after_failure(execution: Execution, failed: Failed, uniform: Callable[[float, float], float]) -> Failed | Retried:
    """Return what a body's failure amounts to under the task's retry policy: that failure, or an automatic retry."""
    task, message, exc = execution.task, execution.message, failed.exc
    unfit = (ArgumentError, EncodeError, MaxRetriesExceeded)  # another time would end in the same way
    if task is None or message is None or isinstance(exc, unfit) or not autoretries(task.policy, exc):
        return failed
    policy = task.policy
    if exhausted(policy.retry_kwargs.get("max_retries", policy.max_retries), message.retries):
        return failed
    delay = policy.retry_kwargs.get("countdown")
    if delay is None:
        delay = backoff_delay(policy, message.retries, uniform)
    return Retried(Retry(f"Retry in {delay:.3g} s", exc, delay), failed.traceback)


def after_loss(execution: Execution, lost: WorkerLost) -> Failed | Lost:
    """Return what the loss of the process that ran a body amounts to: a failure, or that it is run again.

    What is acknowledged early is started once. No retry policy applies: the body has raised nothing.
    """
    task = execution.task
    again = task is not None and execution.acks_late and task.reject_on_worker_lost
    return Lost(lost) if again else Failed(lost)


def decide(execution: Execution, outcome: Outcome, now: datetime) -> Decision:
    """Return what `outcome` of `execution` leads to.

    Raises:
        EncodeError: A retry's message can't be made.
    """
    delivery = execution.delivery
    if type(outcome) is Succeeded:
        stored = None if ignores_result(execution) else _meta(execution, SUCCESS, outcome.value, date_done=now)
        return Decision(Settlement(delivery), stored, outcome)
    if type(outcome) is Failed:
        return _decide_failure(execution, outcome, now)
    if type(outcome) is Retried:
        return _decide_retry(execution, outcome)
    if type(outcome) is Rejected:
        return _decide_reject(execution, outcome.reject, now)
    if type(outcome) is Lost:
        return Decision(Settlement(delivery, "release", lost=True), None, outcome)
    if type(outcome) is Parked:
        return Decision(Settlement(delivery, "park", line=outcome.line), None, outcome)
    if type(outcome) is Postponed:
        return _decide_postponement(execution, outcome)
    if type(outcome) is Expired or type(outcome) is Revoked:
        record = to_record(TaskRevokedError(outcome.reason if type(outcome) is Revoked else "expired"))
        return Decision(Settlement(delivery), _meta(execution, REVOKED, record, date_done=now), outcome)
    if type(outcome) is HandedBack:
        if execution.acks_late or not execution.started_mono:
            return Decision(Settlement(delivery, "release"), None, outcome)
        lost = WorkerLost("The worker was stopped before it was done; acknowledged early, it is not started again.")
        return _decide_failure(execution, Failed(lost, dead=True), now)
    assert type(outcome) is Ignored  # noqa: S101 - the last of the union
    return Decision(Settlement(delivery), None, outcome)


def _decide_failure(execution: Execution, failed: Failed, now: datetime) -> Decision:
    task = execution.task
    stored: TaskMeta | None = _meta(
        execution, FAILURE, to_record(failed.exc), traceback=failed.traceback, date_done=now
    )
    if failed.dead:
        # Nobody will run it: a result is stored in any case, so that nobody waits for ever.
        return Decision(_dead(execution, failed.exc), stored, failed)
    assert task is not None  # noqa: S101 - a failure that is not dead comes from a body
    if ignores_result(execution) and not task.store_errors_even_if_ignored:
        stored = None
    if execution.acks_late and not task.acks_on_failure_or_timeout:
        return Decision(_dead(execution, failed.exc), stored, failed)
    return Decision(Settlement(execution.delivery), stored, failed)


def _decide_retry(execution: Execution, retried: Retried) -> Decision:
    task, message, delivery, retry = execution.task, execution.message, execution.delivery, retried.retry
    assert task is not None and message is not None  # noqa: S101, PT018 - only a body asks for a retry
    when = Timing(delay_s=retry.delay, due_at=retry.eta_at, expires_at=delivery.expires_at)
    again = msgspec.structs.replace(message, retries=message.retries + 1, eta=when.eta)
    if retry.arguments is not None:
        put_other_call(again, *retry.arguments, task.app.conf)
    envelope = message_envelope(task.app, again, delivery.queue, when)
    stored = None
    if not ignores_result(execution):
        record = None if retry.exc is None else to_record(retry.exc)
        stored = _meta(execution, RETRY, record, traceback=retried.traceback)
    return Decision(Settlement(delivery, "replace", envelope=envelope), stored, retried)


def _decide_postponement(execution: Execution, postponed: Postponed) -> Decision:
    message, delivery = execution.message, execution.delivery
    assert execution.task is not None and message is not None  # noqa: S101, PT018 - it was read to be postponed
    when = Timing(delay_s=postponed.delay_s, expires_at=delivery.expires_at)
    envelope = message_envelope(execution.task.app, message, delivery.queue, when)
    return Decision(Settlement(delivery, "replace", envelope=envelope), None, postponed)


def _decide_reject(execution: Execution, reject: Reject, now: datetime) -> Decision:
    if execution.acks_late and reject.requeue:
        return Decision(Settlement(execution.delivery, "release", REQUEUE_DELAY_S), None, Rejected(reject))
    # The reason is often an exception, which is no plain value.
    plain = reject.reason if isinstance(reject.reason, (str, int, float, NoneType)) else text_of(reject.reason)
    stored = _meta(execution, FAILURE, to_record(Reject(plain)), date_done=now)
    settlement = _dead(execution, reject) if execution.acks_late else Settlement(execution.delivery)
    return Decision(settlement, stored, Rejected(reject))


def _dead(execution: Execution, exc: BaseException) -> Settlement:
    detail = text_of(exc.reason if isinstance(exc, Reject) else exc)
    return Settlement(execution.delivery, "dead", reason=type(exc).__name__, detail=detail)


def ignores_result(execution: Execution) -> bool:
    """Tell whether the call, else the task, wants no result to be stored."""
    message, task = execution.message, execution.task
    if message is not None and message.ignore_result is not None:
        return message.ignore_result
    return task is not None and task.ignore_result


def _meta(
    execution: Execution,
    state: str,
    result: Any,
    *,
    traceback: str | None = None,
    date_done: datetime | None = None,
) -> TaskMeta:
    delivery, message = execution.delivery, execution.message
    if message is None:
        if delivery.headers is not None:  # none of ours has them
            result = celery_error(result)
        return TaskMeta(
            id=delivery.id,
            state=state,
            result=result,
            traceback=traceback,
            date_done=date_done,
            queue=delivery.queue,
            reply_to=(delivery.properties or {}).get("reply_to"),
        )
    foreign = message.foreign
    if foreign is not None and state in EXCEPTION_STATES:
        result = celery_error(result)  # who waits for it looks for Celery's
    meta = TaskMeta(
        id=message.id,
        state=state,
        result=result,
        traceback=traceback,
        date_done=date_done,
        name=message.task,
        retries=message.retries,
        queue=delivery.queue,
        parent_id=message.parent_id,
        group_id=None if foreign is None else foreign.facts.get("group"),
        reply_to=message.reply_to,
    )
    task, request = execution.task, execution.request
    if request is not None and request.children and task is not None and task.trail:
        meta.children = request.children
    if task is not None and request is not None and task.app.conf.result_extended:
        # As they were sent: by now the body has had them in its hands.
        meta.args, meta.kwargs = plain_call(message, task.app.conf)
        meta.worker = request.hostname
    return meta


def state_meta(execution: Execution, state: str, meta: Any) -> TaskMeta:
    """Return what is stored of a state that is not final."""
    return _meta(execution, state, meta)
