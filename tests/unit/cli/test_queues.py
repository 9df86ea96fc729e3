import sys
from collections.abc import Callable

import click
import pytest

from aiotask.cli.errors import CommandError
from aiotask.cli.queues import confirm, which_queues


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[str]]:
    """Lets somebody at a terminal say yes or no; returns what they are asked."""

    def answer(yes: bool) -> list[str]:
        asked: list[str] = []

        def ask(question: str, *, err: bool) -> bool:
            assert err
            asked.append(question)
            return yes

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(click, "confirm", ask)
        return asked

    return answer


def test_confirm_asks_on_a_terminal(answer: Callable[[bool], list[str]]) -> None:
    asked = answer(True)

    confirm("Really?", yes=False)

    assert asked == ["Really?"]


def test_confirm_ends_the_command_with_1_when_the_answer_is_no(answer: Callable[[bool], list[str]]) -> None:
    answer(False)

    with pytest.raises(CommandError, match="Nothing is dropped") as caught:
        confirm("Really?", yes=False)
    assert caught.value.code == 1


def test_confirm_asks_nobody_when_yes_is_said(answer: Callable[[bool], list[str]]) -> None:
    asked = answer(False)

    confirm("Really?", yes=True)

    assert asked == []


@pytest.mark.parametrize(
    ("queues", "every", "words"),
    [((), True, "all queues"), (("a",), False, "the queue a"), (("a", "b\n"), False, "the queues a, b\\n")],
)
def test_which_queues_are_meant_is_said_in_words(queues: tuple[str, ...], every: bool, words: str) -> None:
    assert which_queues(queues, every) == words


@pytest.mark.parametrize(("queues", "every"), [((), False), (("a",), True)])
def test_which_queues_is_refused_when_it_is_not_clear(queues: tuple[str, ...], every: bool) -> None:
    with pytest.raises(click.UsageError):
        which_queues(queues, every)
