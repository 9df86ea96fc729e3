"""Text that came in a message, as logs may show it. Used by whoever shows what somebody else has written."""

from typing import Final

_LONGEST: Final = 200


def shown(text: str, longest: int = _LONGEST) -> str:
    """Return what a message says of itself as the log may have it: cut, and no line or escape sequence of its own."""
    if len(text) <= longest and text.isprintable():
        return text
    return ascii(text[:longest])[1:-1] + "..." * (len(text) > longest)
