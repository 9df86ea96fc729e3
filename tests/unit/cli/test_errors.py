import click
import pytest

from aiotask import exceptions
from aiotask.cli.errors import CommandError, report, say


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.ImproperlyConfigured("x"), 78),
        (exceptions.ArgumentError("x"), 2),
        (exceptions.EncodeError("x"), 2),
        (exceptions.NotRegistered("x"), 2),
        (exceptions.BrokerError("x"), 69),
        (exceptions.BrokerConnectionError("x"), 69),
        (exceptions.PublishError("x"), 69),
        (exceptions.BackendError("x"), 69),
        (exceptions.BackendConnectionError("x"), 69),
        (exceptions.DecodeError("x"), 70),
        (exceptions.AioTaskError("x"), 70),
        (CommandError("x", 3), 3),
        (CommandError("x"), 1),
        (click.UsageError("x"), 2),
    ],
)
def test_report_says_one_line_and_returns_the_code_when_the_error_is_the_users(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error) == code
    assert capsys.readouterr() == ("", "Error: x\n")


def test_report_shows_the_traceback_when_the_error_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        {}["missing"]
    except KeyError as error:
        code = report(error)

    shown = capsys.readouterr().err
    assert code == 70
    assert '{}["missing"]' in shown
    assert "Internal error: KeyError: 'missing'" in shown


@pytest.mark.parametrize(("error", "code"), [(click.Abort(), 1), (KeyboardInterrupt(), 130)])
def test_report_tells_a_refusal_from_an_interrupt(error: BaseException, code: int) -> None:
    assert report(error) == code


def test_report_returns_130_when_click_has_caught_the_interrupt() -> None:
    abort = click.Abort()
    abort.__cause__ = KeyboardInterrupt()

    assert report(abort) == 130


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at redis://user:secret@host/0 now", "at redis://user:***@host/0 now"),
        ("at redis://:se@c/ret@host/0", "at redis://:***@host/0"),
        ("at sqlite:////a/b.db and me@home", "at sqlite:////a/b.db and me@home"),
    ],
)
def test_say_masks_passwords_of_urls(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)

    assert capsys.readouterr().err == f"{shown}\n"
