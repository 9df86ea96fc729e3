"""A program of Celery's: tasks that its worker runs, and tasks by name that ours run. Configured by the environment."""

import os
from typing import Any

from celery import Celery
from celery.app.task import Task
from celery.exceptions import Reject

app = Celery("celery_side", broker=os.environ["BROKER"], backend=os.environ["BACKEND"])
app.conf.update(
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=True,
    task_queue_max_priority=int(os.environ.get("MAX_PRIORITY", "0")) or None,
)


class TheirError(Exception):
    """An error that only Celery's side knows."""


@app.task(name="celery.side.add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="celery.side.fail")
def fail(*args: Any) -> None:
    raise TheirError(*args)


@app.task(name="celery.side.look", bind=True)
def look(self: Task) -> dict[str, Any]:
    request = self.request
    return {
        **{name: getattr(request, name) for name in ("id", "root_id", "parent_id", "retries", "eta", "expires")},
        "ignore_result": request.ignore_result,
        "argsrepr": request.argsrepr,
        "origin": request.origin,
        "mine": request.get("x-mine"),
        "priority": request.delivery_info["priority"],
    }


@app.task(name="celery.side.again", bind=True, max_retries=5)
def again(self: Task, until: int) -> int:
    if self.request.retries < until:
        raise self.retry(countdown=0, exc=TheirError("not yet"))
    return int(self.request.retries)


@app.task(name="celery.side.echo")
def echo(value: Any) -> Any:
    return value


@app.task(name="celery.side.file_name")
def file_name(raw: bytes) -> str:
    return os.fsdecode(raw)


@app.task(name="celery.side.progress", bind=True)
def progress(self: Task) -> str:
    self.update_state(state="PROGRESS", meta={"done": 1})
    return "done"


@app.task(name="celery.side.hand_over", bind=True)
def hand_over(self: Task, queue: str) -> dict[str, Any]:
    """Retries into a queue that a worker of another kind takes from; run here again, says what it was told."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.2, queue=queue, exc=TheirError("over to you"))
    request = self.request
    return {
        "mine": request.get("x-mine"),
        **{name: getattr(request, name) for name in ("retries", "root_id", "args", "argsrepr", "kwargsrepr")},
    }


@app.task(name="celery.side.reject", bind=True, acks_late=True)
def reject(self: Task) -> None:
    raise Reject("no good", requeue=False)


@app.task(name="celery.side.ignored", ignore_result=True)
def ignored() -> str:
    return "value"
