"""How the result of a task is told: the value on stdout, a failure on stderr. Called by `call` and `result`."""

from typing import Any

import click

from aiotask.async_result import AsyncResult
from aiotask.cli.errors import BAD_ANSWER, DONE, CommandError, say
from aiotask.cli.output import echo_json, printable, to_json
from aiotask.outcome import TaskMeta
from aiotask.states import EXCEPTION_STATES, PENDING, SUCCESS
from aiotask.wire.errors import to_record


async def await_result(result: AsyncResult[Any], timeout: float | None) -> TaskMeta:
    """Wait for the final state; return what is stored.

    Raises:
        CommandError: There was none within `timeout` seconds.
    """
    try:
        await result.get(timeout, propagate=False)
    except TimeoutError:
        state = await result.state()
        raise CommandError(
            f"No result of task {result.id} within {timeout:g} s; its state is {state}. "
            f"Ask for it later: aiotask result {result.id} --wait"
        ) from None
    return await result.meta()


def tell(meta: TaskMeta, *, as_json: bool) -> int:
    """Print a result; return the exit code: 0 for SUCCESS alone."""
    if as_json:
        result = to_record(meta.result) if isinstance(meta.result, Exception) else meta.result
        echo_json({"id": meta.id, "state": meta.state, "result": result})
    elif meta.state == SUCCESS:
        click.echo(to_json(meta.result))
    if meta.state in EXCEPTION_STATES and isinstance(meta.result, Exception):
        _tell_failure(meta, meta.result)
    elif meta.state != SUCCESS and not as_json:
        say(_not_ready(meta))
    return DONE if meta.state == SUCCESS else BAD_ANSWER


def _tell_failure(meta: TaskMeta, exc: Exception) -> None:
    if meta.traceback:
        say("\n".join(map(printable, ["Remote traceback:", *meta.traceback.rstrip().splitlines()])))
    say(printable(f"Task {meta.id} is {meta.state}: {type(exc).__name__}: {exc}"))


def _not_ready(meta: TaskMeta) -> str:
    if meta.state == PENDING:
        return f"Task {meta.id} is PENDING: there is no result of it (yet), or it was never sent. --wait waits for it."
    known = "" if meta.result is None else f" {to_json(meta.result)}"
    return printable(f"Task {meta.id} is {meta.state}{known}: there is no result of it yet. --wait waits for it.")
