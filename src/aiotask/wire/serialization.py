"""Values to bytes and back, by content type. The one serializer of today is JSON with Celery's tags."""

from typing import Any, Final

import msgspec

from aiotask.exceptions import ContentDisallowed, DecodeError, EncodeError
from aiotask.protocols import Serializer
from aiotask.wire.tagged import PLAIN, has_tags, tag, untag


def _encode_foreign(value: Any) -> Any:
    dump = getattr(type(value), "model_dump", None)  # Pydantic, without importing it; a mock or proxy has everything
    if dump is not None:
        return dump(value, mode="json")
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is not serialisable as JSON")


class JsonSerializer:
    """JSON in UTF-8; what JSON lacks is tagged as Celery does."""

    name = "json"
    content_type = "application/json"

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=_encode_foreign).encode
        self._decode = msgspec.json.Decoder().decode

    def encode(self, value: Any) -> bytes:
        """Return `value` as JSON.

        Raises:
            EncodeError: Something in `value` has no JSON form; the message names its path.
        """
        try:
            return self._encode(tag(value))
        except Exception as error:
            # Not only TypeError: the values' own attributes and properties are read, and may raise anything.
            path = self._path_of_failure(value)
            raise EncodeError(f"Can't serialise {path} as JSON: {error}") from error

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return `[args, kwargs]`; the short way for plain arguments, which most are.

        Raises:
            EncodeError: As `encode`.
        """
        if not kwargs and PLAIN.issuperset(map(type, args)):
            try:
                return self._encode((args, kwargs))
            except ValueError:  # a lone surrogate: the long way names its path
                pass
        return self.encode((args, kwargs))

    def decode(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            DecodeError: `data` is no JSON, is nested too deeply, or holds a tag that can't be read.
        """
        try:
            value = self._decode(data)
            return untag(value) if has_tags(data) else value
        except RecursionError as error:
            raise DecodeError("The JSON is nested too deeply.") from error
        except (msgspec.DecodeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise DecodeError(f"Not readable as JSON: {error}") from error

    def _path_of_failure(self, value: Any, path: str = "$", depth: int = 0) -> str:
        """Find the innermost part that fails by itself; only run when something did."""
        if depth > 20:
            return path
        if isinstance(value, dict):
            parts = [(f"{path}.{key}", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        else:
            return path
        for where, item in parts:
            try:
                self._encode(tag(item))
            except Exception:  # noqa: BLE001 - as in `encode`
                return self._path_of_failure(item, where, depth + 1)
        return path


JSON: Final = JsonSerializer()

_BY_CONTENT_TYPE: Final[dict[str, Serializer]] = {JSON.content_type: JSON}
_BY_NAME: Final[dict[str, Serializer]] = {JSON.name: JSON}


def serializer_for(content_type: str, accept: tuple[str, ...]) -> Serializer:
    """Return the serializer of a message's content type, when `accept` (names) has it.

    Raises:
        ContentDisallowed: It is not accepted, known or not; nothing has been decoded.
    """
    serializer = _BY_CONTENT_TYPE.get(content_type)
    if serializer is None or serializer.name not in accept:
        raise ContentDisallowed(
            f"Content of type {content_type!r} is refused: accept_content allows {', '.join(accept)}."
        )
    return serializer
