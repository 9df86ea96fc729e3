"""What each kind of setting takes, keeps and says."""

from datetime import timedelta
from importlib.metadata import version
from typing import Any

import pytest

from aiotask.routing import Queue
from aiotask.settings.kinds import (
    ANNOTATIONS,
    ANYTHING,
    FLAG,
    NAME,
    NAMES,
    QUEUES,
    ROUTES,
    SECRET,
    TEXT,
    THIS_VERSION,
    URL,
    Kind,
    MisfitError,
    choice,
    only,
    optional,
    seconds,
    show,
    size,
    table,
    whole,
)

DURATION_FORMS = "a number of seconds, text such as '90s', '5m', '1.5h' or '2d', or a timedelta"
OPTIONS = table({"synchronous": choice("FULL", "NORMAL")}, not_yet=frozenset({"queue_type"}))


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (FLAG, True, True),
        (FLAG, False, False),
        (whole(1), 1, 1),
        (whole(0, 9), 9, 9),
        (seconds(), "5m", 300.0),
        (seconds(), timedelta(days=1), 86400.0),
        (seconds(zero=True), 0, 0.0),
        (size(1), "1MiB", 1048576),
        (choice("FULL", "NORMAL"), "normal", "NORMAL"),
        (TEXT, "web", "web"),
        (URL, "redis://host", "redis://host"),
        (NAMES, ("a", "b"), ["a", "b"]),
        (NAMES, [], []),
        (OPTIONS, {"synchronous": "full"}, {"synchronous": "FULL"}),
        (only(TEXT, "UTC"), "UTC", "UTC"),
        (only(NAMES, ["json"]), ("json",), ["json"]),
        (optional(whole(1)), None, None),
        (optional(whole(1)), "none", None),
        (optional(seconds()), "None", None),
        (optional(TEXT, word=None), "none", "none"),
        (QUEUES, ["mail"], [Queue("mail")]),
        (QUEUES, {"mail": {"exchange": "x"}}, [Queue("mail", "x")]),
        (ROUTES, {"t": "mail"}, {"t": "mail"}),
        (ROUTES, (("t", "mail"),), [["t", "mail"]]),
        (ROUTES, print, print),
        (optional(ROUTES), "none", None),
        (ANNOTATIONS, {"*": {"queue": "q"}}, {"*": {"queue": "q"}}),
        (ANYTHING, {"a": 1}, {"a": 1}),
    ],
)
def test_check_returns_what_is_kept(kind: Kind[Any, Any], value: object, kept: object) -> None:
    result = kind.check(value)
    assert result == kept
    assert type(result) is type(kept) or issubclass(type(result), (list, dict))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (FLAG, 1, "must be True or False (in the environment also 1, yes, on, 0, no, off), not 1"),
        (FLAG, "true", "must be True or False (in the environment also 1, yes, on, 0, no, off), not 'true'"),
        (whole(1), 0, "must be a whole number of at least 1, not 0"),
        (whole(1), True, "must be a whole number of at least 1, not True"),
        (whole(1), 1.0, "must be a whole number of at least 1, not 1.0"),
        (whole(0, 9), 10, "must be a whole number from 0 to 9, not 10"),
        (
            seconds(),
            0,
            f"must be a duration of more than 0 ({DURATION_FORMS}), not 0",
        ),
        (
            seconds(zero=True),
            -1,
            f"must be a duration of 0 or more ({DURATION_FORMS}), not -1",
        ),
        (
            size(1),
            "1TB",
            "must be a size of at least 1 B (a number of bytes, or text such as '64KiB' or '1MiB'), not '1TB'",
        ),
        (size(2), 1, "must be a size of at least 2 B (a number of bytes, or text such as '64KiB' or '1MiB'), not 1"),
        (choice("text", "json"), "xml", "must be 'text' or 'json', not 'xml'"),
        (choice("text", "json"), None, "must be 'text' or 'json', not None"),
        (TEXT, " ", "must be text that is not empty, not ' '"),
        (NAME, "a\n", "must be a text of 1 to 255 printable characters, not 'a\\n'"),
        (NAME, 5, "must be a text of 1 to 255 printable characters, not 5"),
        (URL, 5, "must be a URL as text, such as 'redis://localhost:6379/0', not 5"),
        (NAMES, "proj", "must be a list of text, such as ['proj.tasks', 'proj.mail'], not 'proj'"),
        (NAMES, [1], "must be a list of text, such as ['proj.tasks', 'proj.mail'], not [1]"),
        (OPTIONS, [], "must be a mapping of 'synchronous' ('FULL' or 'NORMAL'), not []"),
        (OPTIONS, {"synchronous": "OFF"}, "has a key 'synchronous' that must be 'FULL' or 'NORMAL', not 'OFF'"),
        (OPTIONS, {"queue_type": "quorum"}, "has a key 'queue_type' that is not available in aiotask 0.1 yet"),
        (OPTIONS, {"synchronus": "FULL"}, "has no key 'synchronus'"),
        (OPTIONS, {5: 5}, "has no key 5"),
        (only(TEXT, "UTC"), "CET", "must be 'UTC', all that aiotask 0.1 can do yet, not 'CET'"),
        (only(FLAG, True), False, "must be True, all that aiotask 0.1 can do yet, not False"),
        (only(TEXT, "aiotask"), 2, "must be 'aiotask', all that aiotask 0.1 can do yet, not 2"),
        (optional(whole(1)), 0, "must be a whole number of at least 1, or None, not 0"),
        (optional(SECRET), 5, "must be text that is not empty, or None, not '***'"),
    ],
)
def test_check_says_what_fits_when_a_value_does_not(kind: Kind[Any, Any], value: object, said: str) -> None:
    with pytest.raises(MisfitError) as raised:
        kind.check(value)
    assert str(raised.value) == said


@pytest.mark.parametrize(
    ("key", "hint"), [("synchronus", " Did you mean 'synchronous'?"), ("x", " Its keys are: 'synchronous'.")]
)
def test_a_table_hints_at_its_keys_when_one_is_unknown(key: str, hint: str) -> None:
    with pytest.raises(MisfitError) as raised:
        OPTIONS.check({key: "FULL"})
    assert raised.value.hint == hint


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        *[(FLAG, text, True) for text in ("1", "true", "True", "YES", "on")],
        *[(FLAG, text, False) for text in ("0", "false", "no", "Off")],
        (FLAG, "maybe", "maybe"),
        (whole(1), "12", 12),
        (whole(1), "12x", "12x"),
        (optional(whole(1)), "12", 12),
        (seconds(), "5m", "5m"),
        (TEXT, "12", "12"),
        (NAMES, "proj.tasks", ["proj.tasks"]),
        (NAMES, "a, b,,", ["a", "b"]),
        (NAMES, '["a", "b"]', ["a", "b"]),
        (NAMES, "[a", "[a"),
        (OPTIONS, '{"synchronous": "FULL"}', {"synchronous": "FULL"}),
        (OPTIONS, "FULL", "FULL"),
        (only(FLAG, True), "on", True),
        (QUEUES, "mail, feeds", ["mail", "feeds"]),
        (QUEUES, '[{"name": "mail"}]', [{"name": "mail"}]),
        (QUEUES, '{"mail": null}', {"mail": None}),
        (optional(QUEUES), "none", "none"),
        (ROUTES, '{"t": "mail"}', {"t": "mail"}),
    ],
)
def test_parse_gives_the_value_that_text_means_else_the_text(kind: Kind[Any, Any], text: str, value: object) -> None:
    assert kind.parse(text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("redis://u:hunter2@host", "'redis://u:***@host'"),
        (["redis://u:hunter2@host"], "['redis://u:***@host']"),
        ("x" * 300, "'" + "x" * 199 + "..."),
        (5, "5"),
    ],
)
def test_show_masks_passwords_and_cuts_what_is_long(value: object, text: str) -> None:
    assert show(value) == text


def test_a_secret_is_never_shown() -> None:
    assert SECRET.show("hunter2") == "'***'"
    assert SECRET.show(None) == "None"


def test_messages_name_the_version_that_is_installed() -> None:
    assert version("aiotask").startswith(THIS_VERSION + ".")
