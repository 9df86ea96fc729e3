"""Options of tasks and calls: what fits, what is refused, and what each refusal says."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.options import (
    AT_ONCE,
    CALL_OPTIONS,
    TASK_NOT_YET,
    TASK_OPTIONS,
    Timing,
    aware_moment,
    check_call_options,
    check_task_option,
    checked_flag,
    checked_headers,
    checked_priority,
    checked_text,
    timing,
)

NAIVE = datetime(2026, 3, 1)  # noqa: DTZ001 - what people give by mistake


def refusal(action: Callable[[], Any], kind: type[Exception] = ImproperlyConfigured) -> str:
    with pytest.raises(kind) as raised:
        action()
    return str(raised.value)


@pytest.mark.parametrize("option", TASK_OPTIONS)
def test_task_option_accepts_its_own_default(option: str) -> None:
    default = TASK_OPTIONS[option].default
    assert check_task_option("proj.t", option, default) == default


@pytest.mark.parametrize(
    ("option", "value", "kept"),
    [
        ("max_retries", None, None),
        ("max_retries", 0, 0),
        ("default_retry_delay", 0.5, 0.5),
        ("autoretry_for", ValueError, (ValueError,)),
        ("autoretry_for", [ValueError, KeyboardInterrupt], (ValueError, KeyboardInterrupt)),
        ("dont_autoretry_for", {KeyError}, (KeyError,)),
        ("retry_kwargs", {"max_retries": 5, "countdown": 2.5}, {"max_retries": 5, "countdown": 2.5}),
        ("retry_kwargs", {"max_retries": None}, {"max_retries": None}),
        ("retry_backoff", True, True),
        ("retry_backoff", 2, 2),
        ("throws", KeyError, (KeyError,)),
        ("priority", 9, 9),
        ("expires", 0.1, 0.1),
        ("queue", "mail", "mail"),
        ("offload", "loop", "loop"),
        ("offload", "process", "process"),
        ("acks_late", None, None),
    ],
)
def test_task_option_is_kept_when_it_fits(option: str, value: Any, kept: Any) -> None:
    assert check_task_option("proj.t", option, value) == kept


@pytest.mark.parametrize(
    ("option", "value", "what_fits"),
    [
        ("typing", 1, "it takes True or False"),
        ("max_retries", -1, "a whole number, 0 or more, or None for no limit"),
        ("max_retries", True, "a whole number"),
        ("max_retries", 2.0, "a whole number"),
        ("default_retry_delay", -1, "seconds, 0 or more"),
        ("default_retry_delay", "3s", "seconds, 0 or more"),
        ("default_retry_delay", math.inf, "seconds, 0 or more"),
        ("default_retry_delay", timedelta(seconds=1), "seconds, 0 or more"),
        ("autoretry_for", (ValueError, "KeyError"), "an exception class, or a tuple of them"),
        ("autoretry_for", ValueError(), "an exception class, or a tuple of them"),
        ("dont_autoretry_for", int, "an exception class, or a tuple of them"),
        ("throws", None, "an exception class, or a tuple of them"),
        ("retry_kwargs", {"max_retry": 1}, "a mapping with max_retries or countdown"),
        ("retry_kwargs", {"countdown": "5"}, "a mapping with max_retries or countdown"),
        ("retry_kwargs", {"countdown": -1}, "a mapping with max_retries or countdown"),
        ("retry_kwargs", {"max_retries": "5"}, "a mapping with max_retries or countdown"),
        ("retry_kwargs", [("countdown", 5)], "a mapping with max_retries or countdown"),
        ("retry_backoff", -1, "True, False, or the first delay in seconds"),
        ("retry_backoff_max", math.nan, "seconds, 0 or more"),
        ("retry_jitter", 1, "True or False"),
        ("ignore_result", "no", "True, False, or None for the setting"),
        ("store_errors_even_if_ignored", 1, "True, False, or None for the setting"),
        ("track_started", "yes", "True, False, or None for the setting"),
        ("acks_late", 1, "True, False, or None for the setting"),
        ("acks_on_failure_or_timeout", 0, "True, False, or None for the setting"),
        ("queue", "", "a non-empty text, or None for the setting"),
        ("queue", b"mail", "a non-empty text, or None for the setting"),
        ("priority", 10, "a whole number from 0 (the most urgent) to 9, or None for the setting"),
        ("priority", -1, "a whole number from 0"),
        ("priority", 5.0, "a whole number from 0"),
        ("priority", True, "a whole number from 0"),
        ("expires", 0, "seconds, more than 0, or None"),
        ("expires", datetime.now(UTC), "seconds, more than 0, or None"),
        ("reject_on_worker_lost", 1, "True, False, or None for the setting"),
        ("offload", "threads", "'thread', 'process' or 'loop'"),
        ("offload", ["thread"], "'thread', 'process' or 'loop'"),
    ],
)
def test_task_option_names_task_option_and_what_fits_when_refused(option: str, value: Any, what_fits: str) -> None:
    said = refusal(lambda: check_task_option("proj.t", option, value))
    assert said.startswith(f"Task 'proj.t': option {option!r} is {value!r}; it takes ")
    assert what_fits in said


@pytest.mark.parametrize(
    ("misspelt", "likely"),
    [("max_retires", "max_retries"), ("ack_late", "acks_late"), ("Queue", "queue"), ("autoretryfor", "autoretry_for")],
)
def test_task_option_names_the_likely_one_when_misspelt(misspelt: str, likely: str) -> None:
    said = refusal(lambda: check_task_option("proj.t", misspelt, 1))
    assert said == f"Task 'proj.t': unknown option {misspelt!r}. Did you mean {likely!r}?"


def test_task_option_is_kept_as_an_attribute_when_it_is_far_from_every_option() -> None:
    colour = object()
    assert check_task_option("proj.t", "colour_of_tea", colour) is colour


@pytest.mark.parametrize("option", sorted(TASK_NOT_YET))
def test_task_option_says_so_when_it_is_not_available_yet(option: str) -> None:
    said = refusal(lambda: check_task_option("proj.t", option, None))
    assert said == f"Task 'proj.t': the option {option!r} is not available in this version yet."


@pytest.mark.parametrize("option", ["link", "link_error", "time_limit", "soft_time_limit"])
def test_call_option_says_so_when_it_is_not_available_yet(option: str) -> None:
    said = refusal(lambda: check_call_options("proj.t", {option: 1}))
    assert said == f"proj.t: the call option {option!r} is not available in this version yet."


def test_call_option_names_the_nearest_when_unknown() -> None:
    said = refusal(lambda: check_call_options("proj.t", {"count_down": 1}), TypeError)
    assert said == "proj.t: apply_async takes no option 'count_down'. Did you mean 'countdown'?"
    assert "countdown" in CALL_OPTIONS


def test_timing_leaves_durations_to_the_broker_s_clock() -> None:
    assert timing(5, None, 60) == Timing(delay_s=5.0, ttl_s=60.0)
    assert timing(None, None, None) == AT_ONCE
    assert timing(-5, None, None).delay_s == 0.0


def test_timing_reads_moments_as_epoch_seconds_wherever_their_zone_is() -> None:
    west = datetime(2026, 3, 1, 10, tzinfo=UTC) + timedelta(0)
    east = west.astimezone(tz=None)
    assert timing(None, west, east) == Timing(due_at=west.timestamp(), expires_at=west.timestamp())


def test_timing_shows_moments_of_this_machine_when_durations_were_given() -> None:
    before = time.time()
    when = timing(5, None, 60)
    assert when.eta is not None
    assert when.expiry is not None
    assert before + 5 <= when.eta <= time.time() + 5
    assert before + 60 <= when.expiry <= time.time() + 60
    assert AT_ONCE.eta is AT_ONCE.expiry is None


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ((5, datetime.now(UTC), None), ValueError, "Give countdown or eta, not both."),
        (("5", None, None), TypeError, "countdown is '5'; it takes seconds as a number."),
        ((True, None, None), TypeError, "countdown is True; it takes seconds as a number."),
        ((timedelta(1), None, None), TypeError, "it takes seconds as a number."),
        ((math.nan, None, None), ValueError, "countdown is nan; it takes a finite number of seconds."),
        ((math.inf, None, None), ValueError, "countdown is inf; it takes a finite number of seconds."),
        ((None, None, math.inf), ValueError, "expires is inf; it takes a finite number of seconds."),
        ((None, None, "60"), TypeError, "expires is '60'; it takes an aware datetime, or seconds."),
        ((None, None, True), TypeError, "expires is True; it takes an aware datetime, or seconds."),
        ((None, 1700000000, None), TypeError, "eta is 1700000000; it takes an aware datetime."),
        ((None, NAIVE, None), ValueError, "give it a time zone, e.g. datetime.now(UTC)."),
        ((None, None, NAIVE), ValueError, "expires is the naive datetime.datetime(2026, 3, 1, 0, 0)"),
    ],
)
def test_timing_says_what_it_takes_when_a_value_does_not_fit(given: Any, kind: type[Exception], said: str) -> None:
    assert said in refusal(lambda: timing(*given), kind)


def test_moment_is_the_same_instant_when_the_zone_differs() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert aware_moment("eta", noon) == aware_moment("eta", noon.astimezone(tz=None)) == noon.timestamp()


@pytest.mark.parametrize("value", [-1, 10, 5.0, True, "5", None])
def test_priority_says_its_range_when_refused(value: Any) -> None:
    said = refusal(lambda: checked_priority(value), ValueError)
    assert said == f"priority is {value!r}; it takes a whole number from 0 (the most urgent) to 9."


def test_priority_is_kept_when_in_range() -> None:
    assert [checked_priority(value) for value in range(10)] == list(range(10))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(5, TypeError), (b"x", TypeError), ("", ValueError), ("a\nb", ValueError), ("x" * 256, ValueError)],
)
def test_text_is_refused_when_it_could_not_be_a_name(value: Any, kind: type[Exception]) -> None:
    said = refusal(lambda: checked_text("queue", value), kind)
    assert said.startswith("queue is ")
    assert len(said) < 200


def test_text_is_kept_when_printable() -> None:
    assert checked_text("task_id", "größe 1/ä") == "größe 1/ä"


@pytest.mark.parametrize("value", [[("a", 1)], "a=1", {1: "a"}, {None: "a"}])
def test_headers_are_refused_when_they_are_no_mapping_of_texts(value: Any) -> None:
    assert "it takes a mapping with text keys." in refusal(lambda: checked_headers(value), TypeError)


def test_headers_are_copied_so_that_the_caller_s_stay_their_own() -> None:
    given = {"a": 1}
    kept = checked_headers(given)
    kept["b"] = 2
    assert given == {"a": 1}


@pytest.mark.parametrize("value", [0, 1, "yes"])
def test_flag_is_refused_when_it_is_none(value: Any) -> None:
    said = refusal(lambda: checked_flag("ignore_result", value), TypeError)
    assert said == f"ignore_result is {value!r}; it takes True or False."


def test_call_options_are_those_that_say_something() -> None:
    given = {"queue": "mail", "priority": None, "countdown": 5, "ignore_result": False, "headers": None}
    assert check_call_options("proj.t", given) == {"queue": "mail", "countdown": 5, "ignore_result": False}
