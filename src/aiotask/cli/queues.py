"""`aiotask queues` and `aiotask purge`: what the queues hold, and dropping it."""

import sys
from typing import Any

import click
import msgspec

from aiotask.cli.errors import BAD_ANSWER, DONE, CommandError, say
from aiotask.cli.options import app_options, json_option, queues_option, yes_option
from aiotask.cli.output import echo_json, echo_table, printable
from aiotask.cli.session import find_app, in_session, queue_admin, shown_url
from aiotask.message import QueueDepth


@click.command()
@queues_option
@json_option
@app_options
def queues(queues: tuple[str, ...], as_json: bool, **where: Any) -> int:
    """Show the queues that hold anything, and how much: ready, delayed, parked, reserved by workers, dead.

    Parked is what has to wait for a place, because its task is limited.
    """
    app = find_app(**where)

    async def ask() -> list[QueueDepth]:
        admin = queue_admin(app)
        names = queues or await admin.queues()
        return await admin.depths(names) if names else []

    depths = in_session(app, ask)
    rows = [msgspec.structs.astuple(depth) for depth in depths]
    if as_json:
        echo_json([dict(zip(("name", *QueueDepth.__struct_fields__[1:]), row, strict=True)) for row in rows])
    else:
        echo_table(["NAME", "READY", "DELAYED", "PARKED", "RESERVED", "DEAD"], rows)
        if not rows:
            say("No queue holds anything.")
    return DONE


@click.command()
@queues_option
@click.option("--all", "every", is_flag=True, help="Every queue of the broker.")
@yes_option
@app_options
def purge(queues: tuple[str, ...], every: bool, yes: bool, **where: Any) -> int:
    """Drop the messages that wait in queues, or are delayed or parked there.

    What workers have taken already stays theirs, and dead letters stay: see `aiotask dead purge`.
    """
    chosen = which_queues(queues, every)
    app = find_app(**where)
    confirm(f"Drop the messages that wait in {chosen} of {shown_url(app.broker_url)}?", yes)

    async def drop() -> int:
        admin = queue_admin(app)
        names = queues or await admin.queues()
        return await admin.purge(names) if names else 0

    click.echo(f"{in_session(app, drop)} messages dropped from {chosen}.")
    return DONE


def which_queues(queues: tuple[str, ...], every: bool) -> str:
    """Return in words which queues are meant.

    Raises:
        click.UsageError: None are, or it is not clear which.
    """
    if every == bool(queues):
        raise click.UsageError("Say which queues: -Q NAMES, or --all for every one.")
    return "all queues" if every else f"the queue{'s' * (len(queues) > 1)} {', '.join(map(printable, queues))}"


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost, unless `yes`.

    Raises:
        click.UsageError: There is nobody to ask.
        CommandError: The answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("This can't be undone, and there is no terminal to ask on: say --yes.")
    if not click.confirm(question, err=True):
        raise CommandError("Nothing is dropped.", BAD_ANSWER)
