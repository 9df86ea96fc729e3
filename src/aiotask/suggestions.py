"""Says which known name a misspelt one was meant to be. Used by every message about an unknown name."""

from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or "" when none is near.

    Cost: difflib is imported on the first call, since it is only needed when something is wrong.
    """
    import difflib  # noqa: PLC0415 - an error path must not cost the start-up of every program

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def within_two_edits(name: str, known: Iterable[str]) -> str | None:
    """Return the first of `known` that two insertions, deletions or replacements turn `name` into, or None."""
    return next((word for word in known if abs(len(word) - len(name)) <= 2 and _edits(name, word) <= 2), None)


def _edits(left: str, right: str) -> int:
    """Levenshtein distance (the row-by-row algorithm of Wagner and Fischer, 1974)."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]
