"""Memory adapters that are broken in one thing each: every clause of the contracts is seen to fail against one."""

from . import (
    admins,
    backends,
    brokers,
    finishes,
    headers,
    leases,
    parkings,
    remotes,
    revokes,
    settlements,
    starts,
    watches,
)
from .registry import DOUBLES, Double

__all__ = [
    "DOUBLES",
    "Double",
    "admins",
    "backends",
    "brokers",
    "finishes",
    "headers",
    "leases",
    "parkings",
    "remotes",
    "revokes",
    "settlements",
    "starts",
    "watches",
]
