"""The `aiotask` command: which commands there are, and how each ends. A command's file is loaded when it is called.

Nothing here may import what a command needs: `aiotask --help` has to answer at once.
"""

import importlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import click

from aiotask import __version__
from aiotask.cli.errors import USAGE, CommandError, report
from aiotask.suggestions import did_you_mean


class _Place(NamedTuple):
    module: str
    help: str


_COMMANDS: Final[Mapping[str, _Place]] = {
    "run": _Place("run", "Run a worker that executes tasks."),
    "call": _Place("call", "Send a task, and wait for its result when asked to."),
    "result": _Place("result", "Show the result of a task."),
    "queues": _Place("queues", "Show the queues and how much each holds."),
    "purge": _Place("queues", "Drop the messages that wait in queues."),
    "dead": _Place("dead", "List, show, replay or drop dead letters."),
    "config": _Place("config", "Show the settings in force, and where each came from."),
    "check": _Place("check", "See whether a worker of an app would find all it needs."),
}
_NOT_YET: Final = ("beat", "inspect", "control", "events", "schedule")


class _Commands(click.Group):
    """Knows each command's name and line of help, and loads the command itself when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is not None:
            command: click.Command = getattr(importlib.import_module(f"aiotask.cli.{place.module}"), cmd_name)
            return command
        return _refusal(cmd_name) if cmd_name in _NOT_YET else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in _COMMANDS and name not in _NOT_YET:
            ctx.fail(f"No such command {name!r}.{did_you_mean(name, _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # The inherited way loads every command to ask it for its help.
        with formatter.section("Commands"):
            formatter.write_dl([(name, place.help) for name, place in _COMMANDS.items()])


def _refusal(name: str) -> click.Command:
    """Return a command that takes anything and does nothing but say that it is not there yet."""

    def refuse(**_: Any) -> None:
        raise CommandError(f"`aiotask {name}` is not available in this version of aiotask yet.", USAGE)

    return click.Command(
        name,
        callback=refuse,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


cli: Final = _Commands(
    "aiotask",
    help="Send tasks, run workers, and look into queues and results.",
    epilog="Settings come from the command line, the app, the environment (AIOTASK_...) and [tool.aiotask] in "
    "pyproject.toml, in this order.",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=lambda ctx, _, given: _show_version(ctx) if given else None,
            help="Show the version and exit.",
        )
    ],
)


def _show_version(ctx: click.Context) -> None:
    click.echo(f"aiotask {__version__}")
    ctx.exit()


def run() -> int:
    """Run the command that this process was started with; return its exit code."""
    try:
        code = cli.main(prog_name="aiotask", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - every way to end has its code
        return report(error)
    return code if isinstance(code, int) else 0
