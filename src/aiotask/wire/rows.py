"""A stored outcome (`TaskMeta`) as bytes: Celery's JSON layout.

`status` is the first key, so that a script can tell a final state from the first bytes. That is why the row is JSON
whatever `result_serializer` and `result_compression` are, and only the value is theirs: in `packed`, base64, beside a
`result` that is null. It is a key of the row and no tag inside `result`: a task that returns what somebody sent it must
not be able to name pickle there.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

from aiotask.exceptions import DecodeError
from aiotask.outcome import Packed, TaskMeta
from aiotask.wire.serialization import JSON, for_celery, read_as_python_does
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
    packed: Packed | None = None


class _Stored(msgspec.Struct):
    """A row as it may be found: Celery of any version writes it too, and not every field then."""

    status: str
    task_id: str
    result: Any = None
    traceback: str | None = None
    children: list[Any] | None = None
    date_done: datetime | None = None
    name: str | None = None
    args: Any = None
    kwargs: Any = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    parent_id: str | None = None
    group_id: str | None = None
    packed: Packed | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Stored).decode


def encode_meta(meta: TaskMeta) -> bytes:
    """Return `meta` as JSON.

    Raises:
        EncodeError: The result (or args, kwargs) is not serialisable; the message names its path.
    """
    packed = meta.result if type(meta.result) is Packed else None
    return _encode(
        _Row(
            meta.state,
            msgspec.Raw(for_celery(JSON.encode(meta.result))) if packed is None else None,
            meta.traceback,
            [[[child, None], None] for child in meta.children],
            meta.date_done,
            meta.id,
            meta.name,
            None if meta.args is None else msgspec.Raw(for_celery(JSON.encode(meta.args))),
            None if meta.kwargs is None else msgspec.Raw(for_celery(JSON.encode(meta.kwargs))),
            meta.worker,
            meta.retries,
            meta.queue,
            meta.parent_id,
            meta.group_id,
            packed,
        )
    )


def decode_meta(data: bytes) -> TaskMeta:
    """Return what `encode_meta` or Celery wrote; values have their tags turned back, but what is packed stays so.

    Raises:
        DecodeError: The bytes are no such row.
    """
    try:
        try:
            row = _decode(data)
        except msgspec.DecodeError as refused:
            row = msgspec.convert(read_as_python_does(data, refused), _Stored)
        tagged = has_tags(data)
        result = untag(row.result) if tagged else row.result
        return TaskMeta(
            id=row.task_id,
            state=row.status,
            result=result if row.packed is None else row.packed,
            traceback=row.traceback,
            children=_children(row.children) if row.children else [],
            date_done=row.date_done
            if row.date_done is None or row.date_done.tzinfo
            else row.date_done.replace(tzinfo=UTC),
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


def _children(nested: list[Any]) -> list[str]:
    """Return the task ids in Celery's nested pairs `[[id, parent], members]`; a group's members stand for the group."""
    ids: list[str] = []
    for node, members in nested:
        if members is None:
            task_id = node if isinstance(node, str) else node[0]
            if not isinstance(task_id, str):
                raise TypeError(f"a child's id is a text, not {task_id!r:.80}")
            ids.append(task_id)
        else:
            ids += _children(members)
    return ids
