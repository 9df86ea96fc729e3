"""When a failed execution runs again, and how long it waits. Pure: randomness is an argument."""

from collections.abc import Callable
from typing import Any

import msgspec

Classes = tuple[type[BaseException], ...]


class RetryPolicy(msgspec.Struct, frozen=True):
    """A task's options about retrying, as values. Delays are seconds."""

    max_retries: int | None = 3
    default_retry_delay: float = 180.0
    autoretry_for: Classes = ()
    dont_autoretry_for: Classes = ()
    retry_kwargs: dict[str, Any] = {}
    retry_backoff: float | bool = False
    """True starts at 1 s; a number is the first delay."""
    retry_backoff_max: float = 600.0
    retry_jitter: bool = True


def exhausted(max_retries: int | None, retries: int) -> bool:
    """Tell whether a task that was retried `retries` times may not be again."""
    return max_retries is not None and retries >= max_retries


def autoretries(policy: RetryPolicy, exc: BaseException) -> bool:
    """Tell whether `exc` is of a class that the task retries by itself."""
    return isinstance(exc, policy.autoretry_for) and not isinstance(exc, policy.dont_autoretry_for)


def backoff_delay(policy: RetryPolicy, retries: int, uniform: Callable[[float, float], float]) -> float:
    """Return the seconds before an automatic retry.

    Exponential from the first delay, capped, with full jitter: uniform between 0 and the delay, which spreads a herd
    best (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    if not policy.retry_backoff:
        return policy.default_retry_delay
    first = 1.0 if policy.retry_backoff is True else float(policy.retry_backoff)
    # 2.0 ** 1024 overflows; long before that the cap decides.
    delay = min(policy.retry_backoff_max, first * 2.0 ** min(retries, 64))
    return uniform(0.0, delay) if policy.retry_jitter else delay
