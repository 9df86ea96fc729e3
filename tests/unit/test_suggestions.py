"""The nearest known name is found, and none is made up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.suggestions import did_you_mean, within_two_edits


def test_hint_names_the_nearest_when_one_is_near() -> None:
    assert did_you_mean("proj.ad", ["proj.add", "proj.fetch"]) == " Did you mean 'proj.add'?"


@pytest.mark.parametrize("known", [[], ["something.else.entirely"], iter(())])
def test_hint_is_empty_when_none_is_near(known: list[str]) -> None:
    assert did_you_mean("add", known) == ""


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("queue", "queue"),
        ("queeu", "queue"),
        ("que", "queue"),
        ("queues", "queue"),
        ("qu", None),
        ("cues", None),
        ("", None),
    ],
)
def test_word_is_found_when_two_edits_make_it(name: str, found: str | None) -> None:
    assert within_two_edits(name, ["priority", "queue"]) == found


@given(st.text(max_size=8), st.integers(0, 8), st.integers(0, 8), st.characters())
def test_word_is_found_whatever_two_edits_were_made(word: str, first: int, second: int, letter: str) -> None:
    edited = word[:first] + letter + word[first:]
    edited = edited[:second] + edited[second + 1 :]
    assert within_two_edits(edited, [word]) == word
