"""Reads result rows, and says where they lie when they can't be read."""

import asyncio
from collections.abc import Sequence
from typing import Final

from aiotask.connections.redis import LinkDown, RedisLink, Translation
from aiotask.exceptions import BackendConnectionError, BackendError, DecodeError
from aiotask.outcome import TaskMeta
from aiotask.wire.rows import decode_meta

ERRORS: Final = Translation(BackendConnectionError, BackendError, BackendError)


async def read_rows(link: RedisLink, keys: Sequence[str]) -> list[bytes | None]:
    """Return what lies under each of `keys`, None where there is no row.

    Raises:
        BackendConnectionError: There was no connection for as long as a command may take, or the link is closed.
        BackendError: The server's answer.

    Cost: one round trip; repeated when the connection was lost meanwhile.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + link.command_timeout_s
    with link.translating(ERRORS):
        while True:
            try:
                rows: list[bytes | None] = await link.command("MGET", *keys, wait=max(0.0, deadline - now()))
            except LinkDown as error:
                if not error.sent or now() >= deadline:
                    raise
            else:
                return rows


def decode_row(link: RedisLink, key: str, row: bytes) -> TaskMeta:
    """Return what a row says.

    Raises:
        DecodeError: It is no row of ours, nor of Celery's; the message names the key.
    """
    try:
        return decode_meta(row)
    except DecodeError as error:
        raise DecodeError(
            f"{error} It lies under the key {key!r} of Redis {link.place}; only results as JSON are read (Celery's "
            "result_serializer)."
        ) from error
