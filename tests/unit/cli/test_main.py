import importlib
import json
import subprocess
import sys

import click
import pytest

from aiotask import __version__
from aiotask.cli import main
from aiotask.cli.main import cli

HEAVY = ("asyncio", "msgspec", "logging", "sqlite3", "aiotask.app", "aiotask.settings", "aiotask.cli.run", "rich")
DRIVERS = ("click", "rich", "redis", "aio_pika", "sqlite3", "asyncio", "msgspec")


def modules_after(program: str) -> set[str]:
    finished = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport json, sys; sys.stderr.write(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(finished.stderr))


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["aiotask", *arguments])
    return main.run()


def test_help_imports_nothing_that_a_command_needs() -> None:
    loaded = modules_after("import sys; sys.argv = ['aiotask', '--help']\nfrom aiotask.cli.main import run; run()")

    assert "click" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_package_imports_no_driver_when_it_is_imported() -> None:
    assert modules_after("import aiotask").isdisjoint(DRIVERS)


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_lists_every_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments, monkeypatch=monkeypatch) == 0

    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in main._COMMANDS)


@pytest.mark.parametrize("name", main._COMMANDS)
def test_command_is_found_under_its_name_when_it_is_called(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.name == name
    assert command is getattr(importlib.import_module(f"aiotask.cli.{main._COMMANDS[name].module}"), name)


@pytest.mark.parametrize("name", main._COMMANDS)
def test_command_shows_its_help_when_asked_to(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.startswith(f"Usage: aiotask {name} ")


def test_version_is_printed_to_stdout(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"aiotask {__version__}\n"


@pytest.mark.parametrize("name", ["beat", "inspect", "control", "events", "schedule"])
@pytest.mark.parametrize("more", [[], ["--help"], ["active", "--json", "-x"]])
def test_command_exits_2_and_says_so_when_it_is_not_available_yet(
    name: str, more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, *more, monkeypatch=monkeypatch) == 2
    assert capsys.readouterr() == ("", f"Error: `aiotask {name}` is not available in this version of aiotask yet.\n")


def test_command_exits_2_with_a_hint_when_it_is_misspelt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quues", monkeypatch=monkeypatch) == 2
    assert "No such command 'quues'. Did you mean 'queues'?" in capsys.readouterr().err


def test_run_exits_2_when_an_option_is_unknown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--verbose", monkeypatch=monkeypatch) == 2
    assert "--verbose" in capsys.readouterr().err


def test_run_exits_130_when_it_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("aiotask.cli.queues").queues, "callback", interrupted)

    assert run("queues", monkeypatch=monkeypatch) == 130
    assert "Interrupted." in capsys.readouterr().err
