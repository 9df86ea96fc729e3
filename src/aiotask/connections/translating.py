"""Raises the errors of a broker or backend for those of the link that it works on."""

from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple


class Translation(NamedTuple):
    """The errors that an adapter raises in place of the link's: each is called with the text."""

    connection: Callable[[str], Exception]
    """The server or file can't be reached or is not open, refuses us, or the connection was lost."""
    other: Callable[[str], Exception]
    """It has answered with an error."""
    full: Callable[[str], Exception]
    """It has no room: no memory, or no disk, left."""


class Translating:
    """A context manager: of a class, since it stands on the way of every message, where a generator costs more."""

    __slots__ = ("_place", "_translated", "_translation")

    def __init__(
        self,
        place: str,
        translation: Translation,
        translated: Callable[[str, Translation, BaseException], Exception | None],
    ) -> None:
        """Take the masked URL or path, and the function that returns what to raise: None for any other error."""
        self._place = place
        self._translation = translation
        self._translated = translated

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        translated = None if error is None else self._translated(self._place, self._translation, error)
        if translated is not None:
            raise translated from error
