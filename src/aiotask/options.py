"""The options of a task and of a call: their names, defaults and checks. Values, no I/O.

One rule merges them: what a call says wins over the task's option, that over the setting.
"""

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, NamedTuple, NoReturn, TypedDict

from aiotask.exceptions import ImproperlyConfigured
from aiotask.message import PRIORITIES
from aiotask.suggestions import did_you_mean, within_two_edits


class Option(NamedTuple):
    """A task option: its default, and a check that returns the value to keep or raises ValueError saying what fits."""

    default: Any
    check: Callable[[Any], Any]


def _expect(text: str, accept: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not accept(value):
            raise ValueError(text)
        return value

    return check


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_limit(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0)


def _is_retry_kwargs(value: Any) -> bool:
    if not isinstance(value, Mapping) or not set(value) <= {"max_retries", "countdown"}:
        return False
    countdown = value.get("countdown")
    return _is_limit(value.get("max_retries")) and (countdown is None or (_is_number(countdown) and countdown >= 0))


def _is_backend(value: Any) -> bool:
    if value is None or isinstance(value, str):
        return value != ""
    return all(callable(getattr(value, name, None)) for name in ("open", "close", "encode", "store", "fetch", "watch"))


def _exceptions(value: Any) -> tuple[type[BaseException], ...]:
    classes = tuple(value) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        raise ValueError("an exception class, or a tuple of them")
    return classes


_flag = _expect("True or False", lambda value: isinstance(value, bool))
_flag_or_none = _expect("True, False, or None for the setting", lambda value: value is None or isinstance(value, bool))
_seconds = _expect("seconds, 0 or more", lambda value: _is_number(value) and value >= 0)
_priority = _expect(
    "a whole number from 0 (the most urgent) to 9, or None for the setting",
    lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES),
)
_said_flag = _expect("True, False, or None", lambda value: value is None or isinstance(value, bool))
_text_or_none = _expect(
    "a non-empty text, or None for the setting", lambda value: value is None or (isinstance(value, str) and value != "")
)

TASK_OPTIONS: Final[Mapping[str, Option]] = {
    "typing": Option(True, _flag),
    "max_retries": Option(
        3,
        _expect("a whole number, 0 or more, or None for no limit", _is_limit),
    ),
    "default_retry_delay": Option(180, _seconds),
    "autoretry_for": Option((), _exceptions),
    "dont_autoretry_for": Option((), _exceptions),
    "retry_kwargs": Option(
        {},
        _expect("a mapping with max_retries or countdown (seconds)", _is_retry_kwargs),
    ),
    "retry_backoff": Option(
        False,
        _expect(
            "True, False, or the first delay in seconds",
            lambda value: isinstance(value, bool) or (_is_number(value) and value >= 0),
        ),
    ),
    "retry_backoff_max": Option(600, _seconds),
    "retry_jitter": Option(True, _flag),
    "throws": Option((), _exceptions),
    "ignore_result": Option(None, _flag_or_none),
    "store_errors_even_if_ignored": Option(None, _flag_or_none),
    "track_started": Option(None, _flag_or_none),
    "acks_late": Option(None, _flag_or_none),
    "acks_on_failure_or_timeout": Option(None, _flag_or_none),
    "reject_on_worker_lost": Option(None, _flag_or_none),
    "serializer": Option(None, _text_or_none),
    "compression": Option(None, _text_or_none),
    "backend": Option(
        None, _expect("a URL, a result backend (aiotask.protocols.ResultBackend), or None for the app's", _is_backend)
    ),
    "trail": Option(True, _flag),
    "concurrency": Option(
        None,
        _expect(
            "a whole number, 1 or more, or None for no limit of its own",
            lambda value: value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1),
        ),
    ),
    "queue": Option(None, _text_or_none),
    "exchange": Option(
        None,
        _expect(
            "a text, '' for AMQP's own exchange, or None for the setting",
            lambda value: value is None or isinstance(value, str),
        ),
    ),
    "routing_key": Option(None, _text_or_none),
    "mandatory": Option(None, _said_flag),
    "immediate": Option(None, _said_flag),
    "priority": Option(None, _priority),
    "expires": Option(
        None, _expect("seconds, more than 0, or None", lambda value: value is None or (_is_number(value) and value > 0))
    ),
    "offload": Option(
        "thread",
        _expect(
            "'thread', 'process' or 'loop'",
            lambda value: value in ("thread", "process", "loop"),
        ),
    ),
}
"""None as a default means: as the setting says."""

ADDRESSING: Final = frozenset({"exchange", "routing_key", "mandatory", "immediate"})
"""Options that take the routing tables to be followed, where a queue alone is simply its name."""

FOLLOWS_SETTING: Final = frozenset(
    {
        "ignore_result",
        "store_errors_even_if_ignored",
        "track_started",
        "acks_late",
        "acks_on_failure_or_timeout",
        "reject_on_worker_lost",
        "serializer",
        "compression",
    }
)
"""Options that are the setting of the same name, with `task_` before it, unless the task says otherwise."""

_NAMING: Final = ("name", "bind", "base", "abstract")

TASK_NOT_YET: Final = frozenset(
    {
        "rate_limit",
        "rate_limit_scope",
        "time_limit",
        "soft_time_limit",
        "send_error_emails",
        "error_whitelist",
        "ErrorMail",
    }
)


class BatchOptions(TypedDict, total=False):
    """The options of `send_many`, which hold for each call of the batch. None is as if it were not given."""

    countdown: float | None
    eta: datetime | None
    expires: float | datetime | None
    queue: str | None
    exchange: str | None
    routing_key: str | None
    mandatory: bool | None
    immediate: bool | None
    priority: int | None
    headers: Mapping[str, Any] | None
    ignore_result: bool | None
    serializer: str | None
    compression: str | None
    shadow: str | None
    argsrepr: str | None
    kwargsrepr: str | None


class CallOptions(BatchOptions, total=False):
    """The options of `apply_async`. What each means stands there."""

    task_id: str | None


CALL_OPTIONS: Final = CallOptions.__optional_keys__
_CALL_NOT_YET: Final = frozenset(
    {
        "link",
        "link_error",
        "time_limit",
        "soft_time_limit",
    }
)


def check_task_option(task: str, option: str, value: Any) -> Any:
    """Return the value to keep for a task option; a keyword that is no option is kept as it is, as an attribute.

    Raises:
        ImproperlyConfigured: The value doesn't fit, the option is not available yet, or the keyword looks like a
            misspelt option.
    """
    if option in TASK_NOT_YET:
        raise ImproperlyConfigured(f"Task {task!r}: the option {option!r} is not available in this version yet.")
    known = TASK_OPTIONS.get(option)
    if known is None:
        likely = within_two_edits(option, (*TASK_OPTIONS, *_NAMING, *TASK_NOT_YET))
        if likely is not None:
            raise ImproperlyConfigured(f"Task {task!r}: unknown option {option!r}. Did you mean {likely!r}?")
        return value
    try:
        return known.check(value)
    except (ValueError, TypeError) as error:
        raise ImproperlyConfigured(f"Task {task!r}: option {option!r} is {value!r}; it takes {error}.") from None


def check_call_options(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a call that say something, checked; `countdown`, `eta` and `expires` are left to `timing`.

    Raises:
        ImproperlyConfigured: One is known, and not available yet.
        TypeError: One is unknown, or of another type.
        ValueError: One is out of its range.
    """
    given = {}
    for name, value in options.items():
        if name not in CALL_OPTIONS:
            _refuse_call_option(task, name)
        if value is not None:
            check = _CALL_CHECKS.get(name)
            given[name] = value if check is None else check(value)
    return given


def _refuse_call_option(task: str, name: str) -> NoReturn:
    if name in _CALL_NOT_YET:
        raise ImproperlyConfigured(f"{task}: the call option {name!r} is not available in this version yet.")
    raise TypeError(f"{task}: apply_async takes no option {name!r}.{did_you_mean(name, CALL_OPTIONS)}")


class Timing(NamedTuple):
    """When a message is due and when it expires: for the broker's clock where the caller gave a duration."""

    delay_s: float | None = None
    due_at: float | None = None
    ttl_s: float | None = None
    expires_at: float | None = None

    @property
    def eta(self) -> float | None:
        """When it is due by this machine's clock."""
        return time.time() + self.delay_s if self.delay_s is not None else self.due_at

    @property
    def expiry(self) -> float | None:
        """When it expires by this machine's clock."""
        return time.time() + self.ttl_s if self.ttl_s is not None else self.expires_at


AT_ONCE: Final = Timing()


def timing(countdown: Any, eta: Any, expires: Any) -> Timing:
    """Return what `countdown`, `eta` and `expires` of a call mean.

    Raises:
        ValueError: Both countdown and eta are given, a datetime is naive, or a number is not finite.
        TypeError: One is of another type.
    """
    if countdown is not None and eta is not None:
        raise ValueError("Give countdown or eta, not both.")
    delay_s = None
    if countdown is not None:
        if not isinstance(countdown, (int, float)) or isinstance(countdown, bool):
            raise TypeError(f"countdown is {countdown!r}; it takes seconds as a number.")
        if not math.isfinite(countdown):
            raise ValueError(f"countdown is {countdown!r}; it takes a finite number of seconds.")
        delay_s = max(0.0, float(countdown))
    due_at = None if eta is None else aware_moment("eta", eta)
    ttl_s = expires_at = None
    if isinstance(expires, (int, float)) and not isinstance(expires, bool):
        if not math.isfinite(expires):
            raise ValueError(f"expires is {expires!r}; it takes a finite number of seconds.")
        ttl_s = float(expires)
    elif expires is not None:
        expires_at = aware_moment("expires", expires)
    return Timing(delay_s, due_at, ttl_s, expires_at)


def aware_moment(name: str, value: Any) -> float:
    """Return an aware datetime as epoch seconds.

    Raises:
        TypeError: It is no datetime.
        ValueError: It has no time zone, so that two machines would read two times.
    """
    if not isinstance(value, datetime):
        raise TypeError(
            f"{name} is {value!r}; it takes an aware datetime{', or seconds' if name == 'expires' else ''}."
        )
    if value.tzinfo is None or value.utcoffset() is None:
        raise ValueError(f"{name} is the naive {value!r}; give it a time zone, e.g. datetime.now(UTC).")
    return value.timestamp()


def checked_priority(value: Any) -> int:
    """Return a call's priority.

    Raises:
        ValueError: It is no whole number from 0 to 9.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value not in PRIORITIES:
        raise ValueError(f"priority is {value!r}; it takes a whole number from 0 (the most urgent) to 9.")
    return value


def checked_text(name: str, value: Any) -> str:
    """Return a call's `task_id` or `queue`.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, longer than 255 characters, or has control characters.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}; it takes a text.")
    if not value or len(value) > 255 or not value.isprintable():
        raise ValueError(f"{name} is {value!r:.80}; it takes 1 to 255 printable characters.")
    return value


def checked_headers(value: Any) -> dict[str, Any]:
    """Return a call's headers.

    Raises:
        TypeError: They are no mapping with text keys.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"headers is {value!r:.80}; it takes a mapping with text keys.")
    return dict(value)


def checked_exchange(value: Any) -> str:
    """Return a call's `exchange`; empty is AMQP's own.

    Raises:
        TypeError, ValueError: As `checked_text`.
    """
    return "" if value == "" else checked_text("exchange", value)


def checked_flag(name: str, value: Any) -> bool:
    """Return a call's `ignore_result`, `mandatory` or `immediate`.

    Raises:
        TypeError: It is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r:.80}; it takes True or False.")
    return value


def checked_repr(name: str, value: Any) -> str:
    """Return a call's `argsrepr` or `kwargsrepr`.

    Raises:
        TypeError: It is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r:.80}; it takes a text.")
    return value


_CALL_CHECKS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "task_id": partial(checked_text, "task_id"),
    "queue": partial(checked_text, "queue"),
    "exchange": checked_exchange,
    "routing_key": partial(checked_text, "routing_key"),
    "mandatory": partial(checked_flag, "mandatory"),
    "immediate": partial(checked_flag, "immediate"),
    "priority": checked_priority,
    "headers": checked_headers,
    "ignore_result": partial(checked_flag, "ignore_result"),
    "serializer": partial(checked_text, "serializer"),
    "compression": partial(checked_text, "compression"),
    "shadow": partial(checked_text, "shadow"),
    "argsrepr": partial(checked_repr, "argsrepr"),
    "kwargsrepr": partial(checked_repr, "kwargsrepr"),
}
