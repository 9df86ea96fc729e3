"""Says which known name a misspelt one was meant to be. Used by every message about an unknown name."""

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or "" when none is near.

    Cost: difflib is imported on the first call, since it is only needed when something is wrong.
    """
    import difflib  # noqa: PLC0415 - an error path must not cost the start-up of every program

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
