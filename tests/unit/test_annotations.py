"""Annotations: what is laid over a task, and what is refused."""

from typing import Any

import pytest

from aiotask.annotations import check_annotations, laid_over, unused

EVERY = {"*": {"priority": 1, "queue": "q"}, "proj.add": {"priority": 2}}


@pytest.mark.parametrize(
    ("annotations", "laid"),
    [
        (None, {}),
        ({}, {}),
        (EVERY, {"priority": 2, "queue": "q"}),
        ({"proj.add": {"priority": 2}, "*": {"priority": 1}}, {"priority": 2}),
        ([{"proj.add": {"priority": 2}}, {"*": {"priority": 1}}], {"priority": 1}),
        ({"proj.ad": {"priority": 2}, "proj.*": {"priority": 3}}, {}),
    ],
)
def test_options_of_the_name_are_laid_over_those_of_all(annotations: Any, laid: dict[str, Any]) -> None:
    check_annotations(annotations or {})
    assert laid_over(annotations, "proj.add") == laid


def test_unused_are_the_names_that_no_task_has() -> None:
    assert list(unused([EVERY, {"x": {}}], ["proj.mul"])) == ["proj.add", "x"]
    assert list(unused(None, [])) == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5, "must be a mapping of task names, or '*', to options, or a list of those, not 5"),
        ("t", "must be a mapping of task names, or '*', to options, or a list of those, not 't'"),
        ([5], "holds 5; it takes mappings of task names, or '*', to options"),
        ({5: {}}, "names 5; it takes the name of a task, or '*' for all"),
        ({"": {}}, "names ''; it takes the name of a task, or '*' for all"),
        ({"t": 5}, "lays 5 over 't'; it takes a mapping of options"),
        ({"t": {"name": "x"}}, "lays 'name' over 't', which is said where a task is defined"),
        ({"t": {"backend": "memory://"}}, "lays 'backend' over 't', which is said where a task is defined"),
        (
            {"t": {"priority": 12}},
            (
                "doesn't fit: Task 't': option 'priority' is 12; it takes a whole number from 0 (the most urgent) "
                "to 9, or None for the setting"
            ),
        ),
        ({"*": {"prority": 1}}, "doesn't fit: Task '*': unknown option 'prority'. Did you mean 'priority'?"),
    ],
)
def test_annotations_say_what_fits_when_they_do_not(value: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError)) as raised:
        check_annotations(value)
    assert str(raised.value) == said
