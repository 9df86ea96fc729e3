"""`aiotask call`: sends a task by its name."""

import re
from typing import Any

import click

from aiotask.async_result import AsyncResult
from aiotask.cli.answers import await_result, tell
from aiotask.cli.errors import DONE, say
from aiotask.cli.options import app_options, json_option, seconds
from aiotask.cli.output import echo_json, from_words, printable
from aiotask.cli.session import find_app, in_session
from aiotask.options import checked_text
from aiotask.outcome import TaskMeta
from aiotask.suggestions import did_you_mean

_NEGATIVE = re.compile(r"-(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?")


class _Call(click.Command):
    """Takes `-2` for an argument, where click would see an option, and tells how `--x=2` is written."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A blank in front is all that click needs, and no number and no JSON minds it.
        try:
            return super().parse_args(ctx, [f" {word}" if _NEGATIVE.fullmatch(word) else word for word in args])
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-")
            if error.possibilities or not name.isidentifier():
                raise
            hint = f"A keyword argument of the task is written --kwarg {name}=VALUE."
            raise click.UsageError(f"{error.format_message()} {hint}", ctx) from None


def _pairs(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is no pair; write NAME=VALUE.", param=param)
        if name in found:
            raise click.BadParameter(f"{name!r} is given twice.", param=param)
        found[name] = from_words(text)
    return found


@click.command(cls=_Call)
@click.argument("task")
@click.argument("args", nargs=-1)
@click.option(
    "--kwarg", "kwargs", multiple=True, callback=_pairs, metavar="NAME=VALUE", help="A keyword argument; repeatable."
)
@click.option("--wait", is_flag=True, help="Wait for the result and print it; exit code 1 when the task failed.")
@click.option("--timeout", type=seconds, help="Wait no longer than that; without it, for ever.")
@click.option("--countdown", type=seconds, help="Start it no sooner than so much later.")
@click.option("--queue", help="Send it there; else where the task is declared to go, else to the default queue.")
@json_option
@app_options
def call(
    task: str,
    args: tuple[str, ...],
    kwargs: dict[str, Any],
    wait: bool,
    timeout: float | None,
    countdown: float | None,
    queue: str | None,
    as_json: bool,
    target: str | None,
    app_dir: str,
    broker: str | None,
    result_backend: str | None,
) -> int:
    """Send TASK (its name) with ARGS, and print its id.

    ARGS and the values of --kwarg are JSON where they parse as JSON, else text. The code of the task is not needed;
    with --app the arguments are checked before anything is sent.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout is for --wait.")
    for name, text in (("TASK", task), ("--queue", queue)):
        if text is not None:
            _check_text(name, text)
    app = find_app(target, app_dir, broker, result_backend)
    known = app.tasks.get(task)
    if known is None and target is not None:
        hint = did_you_mean(task, app.tasks)
        say(f"Note: {target} has no task {task!r}; it is sent all the same, and its arguments are not checked.{hint}")
    if wait and known is not None and known.ignore_result:
        raise click.UsageError(f"{task} ignores its result (ignore_result): there is nothing to wait for.")
    values = [from_words(word) for word in args]

    async def send() -> tuple[AsyncResult[Any], TaskMeta | None]:
        result = await app.send_task(task, values, kwargs, countdown=countdown, queue=queue)
        if not wait:
            return result, None
        say(f"Sent {printable(task)} as {result.id}; waiting for its result.")
        return result, await await_result(result, timeout)

    result, meta = in_session(app, send)
    if meta is not None:
        return tell(meta, as_json=as_json)
    if as_json:
        echo_json({"id": result.id})
    else:
        click.echo(result.id)
    return DONE


def _check_text(name: str, text: str) -> None:
    try:
        checked_text(name, text)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
