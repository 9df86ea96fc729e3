"""Values to bytes and back: JSON with Celery's tags, and the table of all serializers by name and content type."""

import codecs
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

import msgspec

from aiotask.exceptions import ContentDisallowed, DecodeError, EncodeError, ImproperlyConfigured
from aiotask.protocols import Serializer
from aiotask.suggestions import did_you_mean
from aiotask.wire.formats import MsgpackSerializer, PickleSerializer, RegisteredSerializer, path_of_failure
from aiotask.wire.naming import check_content_type, checked_name
from aiotask.wire.tagged import PLAIN, has_tags, not_serialisable, tag, untag


def _refuse(value: Any) -> NoReturn:
    raise not_serialisable(value)


def read_as_python_does(data: bytes, refused: msgspec.DecodeError) -> Any:
    """Return the value of JSON that msgspec has refused, when Python's own `json` reads it, which is Celery's.

    That reads, and Celery writes, what RFC 8259 has not: NaN, infinities, halves of surrogate pairs.

    Raises:
        msgspec.DecodeError: `refused`; it is no JSON in that way either.
        RecursionError: It is nested too deeply.
    """
    try:
        return json.loads(data.decode())
    except ValueError:
        raise refused from None


def for_celery(data: bytes) -> bytes:
    """Return JSON that `JSON` has written as Celery reads it: NaN and infinities as Python's `json` writes them.

    Celery's clients and workers refuse a tag that they don't know, and ours for floats is one.
    """
    if _FLOAT_TAG in data:
        # A text can't hold the tag, since its quotes are escaped.
        for tagged, bare in _BARE_FLOATS:
            data = data.replace(tagged, bare)
    return data


class JsonSerializer:
    """JSON in UTF-8; what JSON lacks is tagged as Celery does."""

    name = "json"
    content_type = "application/json"
    content_encoding = "utf-8"

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder(enc_hook=_refuse).encode
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
            path = path_of_failure(value, lambda item: self._encode(tag(item)))
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
            try:
                value = self._decode(data)
            except msgspec.DecodeError as refused:
                value = read_as_python_does(data, refused)
            return untag(value) if has_tags(data) else value
        except RecursionError as error:
            raise DecodeError("The JSON is nested too deeply.") from error
        except (msgspec.DecodeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise DecodeError(f"Not readable as JSON: {error}") from error


JSON: Final = JsonSerializer()

_BARE_FLOATS: Final = [(JSON.encode(value), json.dumps(value).encode()) for value in (math.nan, math.inf, -math.inf)]
_FLOAT_TAG: Final = b'{"__type__":"float",'

_BY_NAME: Final[dict[str, Serializer]] = {}
_BY_CONTENT_TYPE: Final[dict[str, Serializer]] = {}


def _add(serializer: Serializer) -> None:
    former = _BY_NAME.get(serializer.name)
    if former is not None:
        del _BY_CONTENT_TYPE[former.content_type]
    _BY_NAME[serializer.name] = serializer
    _BY_CONTENT_TYPE[serializer.content_type] = serializer


for _built_in in (JSON, MsgpackSerializer(), PickleSerializer()):
    _add(_built_in)


def register_serializer(
    name: str,
    encode: Callable[[Any], str | bytes],
    decode: Callable[[Any], Any],
    content_type: str,
    content_encoding: str = "utf-8",
) -> None:
    """Make a serializer known, to be named in `serializer`, `task_serializer`, `result_serializer`, `accept_content`.

    Every program that sends, runs or reads needs it; whoever reads has to accept it by name. A name that is known
    already is replaced.

    Args:
        name: What options and settings call it.
        encode: Makes text or bytes of a value; a call is a list of two, the arguments and the keyword arguments.
        decode: Makes the value again, of text where `encode` returns text, else of bytes.
        content_type: What messages and results call it, such as `application/x-yaml`.
        content_encoding: The character encoding of its text; `binary` for bytes that are none.

    Raises:
        ImproperlyConfigured: An argument doesn't fit, or another serializer has the content type.
    """
    what = checked_name("serializer", name)
    for function in (encode, decode):
        if not callable(function):
            raise ImproperlyConfigured(f"{what}: {function!r:.80} can't be called; encode and decode are functions.")
    check_content_type(what, content_type)
    owner = _BY_CONTENT_TYPE.get(content_type)
    if owner is not None and owner.name != name:
        raise ImproperlyConfigured(f"{what}: the content type {content_type!r} belongs to {owner.name!r} already.")
    _add(RegisteredSerializer(name, encode, decode, content_type, _checked_encoding(what, content_encoding)))


def _checked_encoding(what: str, content_encoding: Any) -> str:
    try:
        return content_encoding if content_encoding == "binary" else codecs.lookup(content_encoding).name
    except (LookupError, TypeError):
        raise ImproperlyConfigured(
            f"{what}: content_encoding is {content_encoding!r:.80}; it takes 'binary', or a character encoding "
            "such as 'utf-8'."
        ) from None


def find_serializer(name: str) -> Serializer:
    """Return a serializer by its name, or by its content type.

    Raises:
        ImproperlyConfigured: There is none.
    """
    found = _BY_NAME.get(name) or _BY_CONTENT_TYPE.get(name)
    if found is None:
        raise ImproperlyConfigured(
            f"There is no serializer {name!r:.80}; there are {', '.join(sorted(_BY_NAME))}. Others are made known by "
            "aiotask.register_serializer(name, encode, decode, content_type=...), in every program that uses them."
            f"{did_you_mean(name, _BY_NAME)}"
        )
    return found


def serializer_for(content_type: str, accept: Sequence[str], setting: str = "accept_content") -> Serializer:
    """Return the serializer of a content type, when `accept` (names, or content types) has it.

    Args:
        content_type: What the message or result says.
        accept: What is accepted.
        setting: Where that is set, for the error.

    Raises:
        ContentDisallowed: It is not accepted, known or not; nothing has been decoded.
    """
    serializer = _BY_CONTENT_TYPE.get(content_type)
    if serializer is not None and (serializer.name in accept or content_type in accept):
        return serializer
    allowed = f"{setting} allows {', '.join(accept) or 'nothing'}"
    if serializer is None:
        raise ContentDisallowed(
            f"Content of type {content_type!r:.80} is refused: {allowed}, and no serializer of that type is registered."
        )
    raise ContentDisallowed(
        f"Content of type {content_type!r} ({serializer.name}) is refused: {allowed}. "
        f"Name {serializer.name!r} there if you trust all who can write to where it came from."
    )
