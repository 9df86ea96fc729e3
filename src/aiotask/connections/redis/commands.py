"""Commands and Lua scripts as bytes of the Redis protocol. No I/O."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

import hiredis

Word: TypeAlias = str | bytes | int | float
Command: TypeAlias = tuple[Word, ...]

# The stub's type is a tuple of one.
pack_command: Final = cast("Callable[[Command], bytes]", hiredis.pack_command)
"""Return a command as it goes over the wire; a word that is no str, bytes, int or float raises TypeError."""


class Script:
    """A Lua script that is run by its hash, and sent whole only where the server does not have it."""

    __slots__ = ("name", "sha", "source")

    def __init__(self, source: str, name: str = "") -> None:
        """Take the script's text.

        Args:
            source: Lua, with a header that names KEYS, ARGV, reply and cost.
            name: What it is called in `repr`.
        """
        self.source = source
        self.name = name
        self.sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name or self.sha})"

    def __call__(self, keys: Sequence[str | bytes] = (), args: Sequence[Word] = ()) -> "ScriptCall":
        """Return the run of this script with `keys` and `args`, for `RedisLink.pipeline`."""
        return ScriptCall(self, keys, args)


class ScriptCall(NamedTuple):
    """A script with what it is to be run on."""

    script: Script
    keys: Sequence[str | bytes]
    args: Sequence[Word]

    def packed(self, *, whole: bool) -> bytes:
        """Return the command; `whole` sends the text, which the server keeps, else the hash."""
        name, text = ("EVAL", self.script.source) if whole else ("EVALSHA", self.script.sha)
        return pack_command((name, text, len(self.keys), *self.keys, *self.args))
