"""What can go wrong on a link to Redis, and how a broker or backend turns it into errors of its own."""

import re
from functools import cached_property
from typing import Final

from aiotask.connections.translating import Translation

STALE_CODES: Final = frozenset({"READONLY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "UNBLOCKED", "NOAUTH"})
"""Replies of a server that is not, or no longer, the one to talk to. It has not carried out the command."""
_FULL_CODES: Final = frozenset({"OOM", "MISCONF"})
_CODE: Final = re.compile(r"[A-Z][A-Z0-9]*")
_CODE_IN_SCRIPT: Final = re.compile(r"script: ?\d+: -?([A-Z][A-Z0-9]+) ")


class LinkClosed(Exception):  # noqa: N818 - says what the link is
    """The link is not open."""


class ServerRefused(Exception):  # noqa: N818 - says what the server did
    """There is no Redis that can be used: unreachable, another kind of server, too old, or it does not let us in."""


class LinkDown(Exception):  # noqa: N818 - says what the link is
    """There is no connection, or it was lost before the reply came.

    Attributes:
        sent: True when the command had left: nobody knows whether the server carried it out. False: it did not.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ReplyError(Exception):
    """The server's answer to a command is an error. Its text is the server's, code first."""

    @cached_property
    def code(self) -> str:
        """The first word, `NOSCRIPT`; of an error inside a script the inner one, which Redis 6 wraps in text."""
        text = str(self)
        inner = _CODE_IN_SCRIPT.search(text) if text.startswith("ERR ") else None
        if inner:
            return inner[1]
        found = _CODE.match(text)
        return found[0] if found else ""

    @property
    def is_stale(self) -> bool:
        """True when another server should be asked, and this one has not carried out the command."""
        return self.code in STALE_CODES

    @property
    def is_full(self) -> bool:
        """True when the server has no memory left, or can't write to its disk; it has not carried out the command."""
        return self.code in _FULL_CODES


def wants_password(place: str) -> ServerRefused:
    """Return the refusal of a server that asks for a password where the URL has none."""
    return ServerRefused(
        f"Redis {place} asks for a password. Write it into the URL: redis://:password@host or redis://user:password@host."
    )


def translated(place: str, translation: Translation, error: BaseException) -> Exception | None:
    """Return the adapter's error for one of the link; None for any other. `place` is the masked URL."""
    if isinstance(error, (LinkClosed, LinkDown, ServerRefused)):
        return translation.connection(str(error))
    if not isinstance(error, ReplyError):
        return None
    if error.is_full:
        return translation.full(
            f"Redis {place} has no room ({error}); nothing was stored. Give it memory (maxmemory) or disk, or "
            "remove what is not needed."
        )
    if error.is_stale:
        return translation.connection(
            f"Redis {place} can't carry out commands now ({error}); nothing was stored. Try again."
        )
    if error.code == "NOPERM":
        return translation.other(
            f"Redis {place} does not allow this user what is needed: {error}. Extend the user's ACL."
        )
    return translation.other(f"Redis {place} answered with an error: {error}")
