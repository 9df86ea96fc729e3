"""The serializers beside JSON: MessagePack, pickle, and those that a program registers. No I/O."""

import pickle
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from aiotask.exceptions import DecodeError, EncodeError
from aiotask.wire.tagged import PLAIN, tag, untag

_AS_THEY_ARE: Final = PLAIN | {float, bytes}
"""Types that MessagePack carries, NaN and infinity included."""
_MARK: Final = b"__type__"
_PICKLE_PROTOCOL: Final = 5
"""What every Python that aiotask runs on reads, whichever of them wrote it."""


def path_of_failure(value: Any, encode: Callable[[Any], object], path: str = "$", depth: int = 0) -> str:
    """Return the path of the innermost part of `value` that `encode` refuses by itself; only asked when it did."""
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
            encode(item)
        except Exception:  # noqa: BLE001 - the values' own code runs here, and may raise anything
            return path_of_failure(item, encode, where, depth + 1)
    return path


class MsgpackSerializer:
    """MessagePack. What it lacks has the tags of our JSON; bytes need none."""

    name = "msgpack"
    content_type = "application/x-msgpack"
    content_encoding = "binary"

    def __init__(self) -> None:
        self._encode = msgspec.msgpack.Encoder(enc_hook=_refuse).encode
        self._decode = msgspec.msgpack.Decoder().decode

    def encode(self, value: Any) -> bytes:
        """Return `value` as MessagePack.

        Raises:
            EncodeError: Something in `value` has no form there; the message names its path.
        """
        try:
            return self._encode(_tag_what_lacks(value))
        except Exception as error:
            path = path_of_failure(value, lambda item: self._encode(_tag_what_lacks(item)))
            raise EncodeError(f"Can't serialise {path} as MessagePack: {error}") from error

    def decode(self, data: bytes) -> Any:
        """Return the value.

        Raises:
            DecodeError: `data` is no MessagePack, is nested too deeply, or holds a tag that can't be read.
        """
        try:
            value = self._decode(data)
            return untag(value) if _MARK in data else value
        except RecursionError as error:
            raise DecodeError("The MessagePack is nested too deeply.") from error
        except (msgspec.DecodeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise DecodeError(f"Not readable as MessagePack: {error}") from error


class PickleSerializer:
    """Pickle: any Python value, with its type. Reading it can run anything, so only who asks for it reads it."""

    name = "pickle"
    content_type = "application/x-python-serialize"
    content_encoding = "binary"

    def encode(self, value: Any) -> bytes:
        """Return `value` as a pickle.

        Raises:
            EncodeError: Something in `value` can't be pickled; the message names its path.
        """
        try:
            return _pickle(value)
        except Exception as error:
            raise EncodeError(f"Can't pickle {path_of_failure(value, _pickle)}: {error}") from error

    def decode(self, data: bytes) -> Any:
        """Return the value, by running what `data` says.

        Raises:
            DecodeError: `data` is no pickle, or its classes are not here.
        """
        try:
            return pickle.loads(data)  # noqa: S301 - the reader has named pickle in accept_content
        except Exception as error:
            raise DecodeError(f"Not readable as a pickle: {type(error).__name__}: {error}") from error


class RegisteredSerializer:
    """A serializer made of two functions of the program."""

    def __init__(
        self,
        name: str,
        encode: Callable[[Any], str | bytes],
        decode: Callable[[Any], Any],
        content_type: str,
        content_encoding: str,
    ) -> None:
        """Take what `register_serializer` has checked."""
        self.name = name
        self.content_type = content_type
        self.content_encoding = content_encoding
        self._encode_it = encode
        self._decode_it = decode
        self._text: bool | None = None
        """Whether `encode` returns texts; None until it has returned anything."""

    def encode(self, value: Any) -> bytes:
        """Return what the program's function makes of `value`.

        Raises:
            EncodeError: It has failed, or has returned neither text nor bytes; the message names the path.
        """
        try:
            encoded = self._encode_it(value)
        except Exception as error:
            path = path_of_failure(value, self._encode_it)
            why = f"{type(error).__name__}: {error}"
            raise EncodeError(
                f"The serializer {self.name!r} can't encode {path}: {why}. "
                "Send a value that it takes, or name another serializer."
            ) from error
        if not isinstance(encoded, (str, bytes, bytearray)):
            raise EncodeError(
                f"The serializer {self.name!r} made {type(encoded).__qualname__} of a value; "
                "its encode has to return text or bytes."
            )
        self._text = isinstance(encoded, str)
        if not isinstance(encoded, str):
            return bytes(encoded)
        try:
            return encoded.encode(self._charset)
        except UnicodeError as error:
            raise EncodeError(
                f"The text that the serializer {self.name!r} made is not {self._charset}: {error}"
            ) from error

    def decode(self, data: bytes) -> Any:
        """Return what the program's function makes of `data`, or of its text where `encode` returns texts.

        Raises:
            DecodeError: It has failed.
        """
        try:
            return self._decode_it(data.decode(self._charset) if self._makes_text() else data)
        except Exception as error:
            raise DecodeError(
                f"The serializer {self.name!r} can't decode {len(data):,} bytes: {type(error).__name__}: {error}. "
                "Does every program register the same functions under this name?"
            ) from error

    @property
    def _charset(self) -> str:
        return "utf-8" if self.content_encoding == "binary" else self.content_encoding

    def _makes_text(self) -> bool:
        """Tell what `decode` is used to: with any such pair of functions, what goes out as text comes back as text."""
        if self._text is None:
            try:
                self._text = isinstance(self._encode_it([[], {}]), str)  # a call without arguments
            except Exception:  # noqa: BLE001 - the program's code; then its declaration has to do
                self._text = self.content_encoding != "binary"
        return self._text


def _pickle(value: Any) -> bytes:
    return pickle.dumps(value, _PICKLE_PROTOCOL)


def _refuse(value: Any) -> NoReturn:
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} has no form in MessagePack")


def _tag_what_lacks(value: Any) -> Any:
    """Return `value` with everything tagged that MessagePack lacks."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return value
    if kind is dict:
        return {key: _tag_what_lacks(item) for key, item in value.items()}
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return [_tag_what_lacks(item) for item in value]
    return tag(value)
