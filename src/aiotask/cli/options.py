"""The options that several commands share, and the kinds of value they take."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from aiotask.options import checked_text
from aiotask.settings.amounts import to_seconds

F = TypeVar("F", bound=Callable[..., Any])


def seconds(text: str) -> float:
    """Return a duration of the command line as float seconds: a number, or text such as `90s` or `5m`."""
    try:
        length_s = to_seconds(text)
    except (TypeError, ValueError):
        raise click.BadParameter(f"{text!r} is no duration; write seconds, or text such as '90s' or '5m'.") from None
    if length_s < 0:
        raise click.BadParameter(f"{text!r} is less than 0.")
    return length_s


def queue_names(_ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in `a,b` and repeated options, each once, in their order."""
    names = [name.strip() for value in values for name in value.split(",")]
    for name in names:
        try:
            checked_text("queue", name)
        except ValueError as error:
            raise click.BadParameter(str(error), param=param) from None
    return tuple(dict.fromkeys(names))


FOLDER: Final = click.Path(exists=True, file_okay=False)

queues_option: Final = click.option(
    "-Q", "--queues", multiple=True, callback=queue_names, metavar="NAMES", help="Queues: a,b or repeated."
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option: Final = click.option("--yes", is_flag=True, help="Don't ask.")


def broker_options(command: F) -> F:
    """Add the options that say where messages and results are."""
    command = click.option("--result-backend", metavar="URL", help="Where results are kept.")(command)
    return click.option("-b", "--broker", metavar="URL", help="Where messages wait.")(command)


def app_options(command: F) -> F:
    """Add the options by which a command without TARGET finds its app."""
    command = broker_options(command)
    command = click.option(
        "--app-dir", default=".", type=FOLDER, help="The folder that --app is imported from; the current one."
    )(command)
    return click.option(
        "-A", "--app", "target", metavar="TARGET", help="MODULE or MODULE:ATTRIBUTE; else the default app is used."
    )(command)
