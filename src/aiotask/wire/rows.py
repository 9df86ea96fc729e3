"""A stored outcome (`TaskMeta`) as bytes: Celery's JSON layout.

`status` is the first key, so that a script can tell a final state from the first bytes.
"""

from datetime import datetime
from typing import Any

import msgspec

from aiotask.exceptions import DecodeError
from aiotask.outcome import TaskMeta
from aiotask.wire.serialization import JSON
from aiotask.wire.tagged import has_tags, untag


class _Row(msgspec.Struct, omit_defaults=True):
    """Celery's names and order. What is not set is left out, but for the first six."""

    status: str
    result: Any
    traceback: str | None
    children: list[Any] | None
    date_done: datetime | None
    task_id: str
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    parent_id: str | None = None
    group_id: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Row).decode


def encode_meta(meta: TaskMeta) -> bytes:
    """Return `meta` as JSON.

    Raises:
        EncodeError: The result (or args, kwargs) is not serialisable; the message names its path.
    """
    return _encode(
        _Row(
            meta.state,
            msgspec.Raw(JSON.encode(meta.result)),
            meta.traceback,
            [[[child, None], None] for child in meta.children],
            meta.date_done,
            meta.id,
            meta.name,
            None if meta.args is None else msgspec.Raw(JSON.encode(meta.args)),
            None if meta.kwargs is None else msgspec.Raw(JSON.encode(meta.kwargs)),
            meta.worker,
            meta.retries,
            meta.queue,
            meta.parent_id,
            meta.group_id,
        )
    )


def decode_meta(data: bytes) -> TaskMeta:
    """Return what `encode_meta` wrote; values have their tags turned back.

    Raises:
        DecodeError: The bytes are no such row.
    """
    try:
        row = _decode(data)
        tagged = has_tags(data)
        return TaskMeta(
            id=row.task_id,
            state=row.status,
            result=untag(row.result) if tagged else row.result,
            traceback=row.traceback,
            children=[child[0][0] for child in row.children or ()],
            date_done=row.date_done,
            name=row.name,
            args=untag(row.args) if tagged else row.args,
            kwargs=untag(row.kwargs) if tagged else row.kwargs,
            retries=row.retries,
            worker=row.worker,
            queue=row.queue,
            parent_id=row.parent_id,
            group_id=row.group_id,
        )
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise DecodeError(f"A stored result can't be read: {error}") from error
