"""What a message carries and a row holds: values serialised, perhaps compressed, and read again where they may be.

Called by whoever sends, runs, stores or shows. Nothing is decompressed or decoded before its content type is accepted.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiotask.exceptions import DecodeError, EncodeError, ImproperlyConfigured
from aiotask.message import TaskMessage
from aiotask.outcome import Packed
from aiotask.settings import Settings
from aiotask.wire.celery import unwrap_call, wrap_call
from aiotask.wire.compression import compress, decompress
from aiotask.wire.serialization import JSON, find_serializer, for_celery, serializer_for

_RATIO: Final = 100
"""A compressed result is read when it grows to `message_max_bytes`, or to so many times its length if that is more.

Results may be larger than messages, and a bomb is told by its ratio; what compresses better is stored as it is.
"""


def put_call(
    message: TaskMessage,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    serializer: str,
    compression: str | None,
    limit: int,
) -> None:
    """Put the arguments of a call into its message.

    Args:
        message: Gets `payload`, `content_type` and `compression`.
        args: Positional arguments.
        kwargs: Keyword arguments.
        serializer: A serializer's name or content type.
        compression: A compression's, or None.
        limit: Most bytes that a worker reads (`message_max_bytes`), compressed and not.

    Raises:
        EncodeError: An argument can't be serialised, or all are too large before they are compressed.
        ImproperlyConfigured: There is no such serializer or compression.
    """
    try:
        found = find_serializer(serializer)
        if message.foreign is not None:
            payload = found.encode(wrap_call(message, args, kwargs))
            if found is JSON:
                payload = for_celery(payload)
            message.content_type = found.content_type
        elif found is JSON:
            payload = JSON.encode_call(tuple(args), dict(kwargs))
        else:
            payload = found.encode([list(args), dict(kwargs)])
            message.content_type = found.content_type
    except EncodeError as error:
        # A call is a list of two, which its caller knows by their names.
        why = str(error).replace("$[0]", "args", 1).replace("$[1]", "kwargs", 1)
        raise EncodeError(f"{message.task}: {why}") from error.__cause__
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"{message.task}: {error}") from None
    if compression is not None:
        if len(payload) > limit:
            raise EncodeError(
                f"{message.task}: the arguments have {len(payload):,} bytes before they are compressed, more than "
                f"message_max_bytes ({limit:,}), and no worker would read them. "
                "Send a reference to the data, or raise the setting for senders and workers."
            )
        try:
            payload, message.compression = compress(payload, compression)
        except (EncodeError, ImproperlyConfigured) as error:
            raise type(error)(f"{message.task}: {error}") from error.__cause__
    message.payload = payload


def put_other_call(message: TaskMessage, args: Sequence[Any], kwargs: Mapping[str, Any], conf: Settings) -> None:
    """Put other arguments into a message that is sent again, in the format that it has.

    What Celery's protocol shows of arguments is made anew where they are others, as Celery's own retry does: a text
    that the caller has given for them does not hold then.

    Raises:
        EncodeError: As `put_call`.
    """
    limit = conf.message_max_bytes
    if message.foreign is None:
        put_call(message, args, kwargs, message.content_type, message.compression, limit)
        return
    argsrepr, kwargsrepr = message.argsrepr, message.kwargsrepr
    former = read_call(message, conf.accept_content, limit)
    message.argsrepr = message.kwargsrepr = None
    put_call(message, args, kwargs, message.content_type, message.compression, limit)
    # Read again, since annotations may have made other types of what was sent; by its repr, since NaN equals nothing.
    latter = read_call(message, conf.accept_content, limit)
    if argsrepr is not None and repr(former[0]) == repr(latter[0]):
        message.argsrepr = argsrepr
    if kwargsrepr is not None and repr(former[1]) == repr(latter[1]):
        message.kwargsrepr = kwargsrepr


def read_call(message: TaskMessage, accept: Sequence[str], limit: int) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that a message carries, fresh.

    Raises:
        ContentDisallowed: Its content type is not accepted; nothing has been decoded.
        DecodeError: It can't be read, or grows to more than `limit` bytes.
    """
    serializer = serializer_for(message.content_type, accept)
    data = message.payload
    if message.compression is not None:
        data = decompress(data, message.compression, limit)
    call = serializer.decode(data)
    if message.foreign is not None:
        call = unwrap_call(message, call)
    if type(call) is list and len(call) == 2 and type(call[0]) is list and type(call[1]) is dict:
        return call[0], call[1]
    # A tuple is one only where types are kept.
    if isinstance(call, (list, tuple)) and len(call) == 2:
        args, kwargs = call
        if isinstance(args, (list, tuple)) and isinstance(kwargs, dict):
            return list(args), kwargs
    raise DecodeError("The payload is no pair of a list of arguments and a mapping of keyword arguments.")


def plain_call(message: TaskMessage, conf: Settings) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that a message carries as values that JSON has; what it lacks is its repr.

    Raises:
        ContentDisallowed, DecodeError: As `read_call`.
    """
    args, kwargs = read_call(message, conf.accept_content, conf.message_max_bytes)
    # JSON, too: what Celery's client may write there is more than what we do, such as half a surrogate pair.
    return [_plain(value) for value in args], {_plain(str(name)): _plain(value) for name, value in kwargs.items()}


def _plain(value: Any) -> Any:
    try:
        JSON.encode(value)
    except EncodeError:
        return repr(value)
    return value


def packs_results(conf: Settings) -> bool:
    """Tell whether the settings want results stored in another way than as JSON.

    Raises:
        ImproperlyConfigured: They name a serializer or a compression that there is not.
    """
    if conf.result_compression is not None:
        compress(b"", conf.result_compression)  # zstd may not be installed
    return find_serializer(conf.result_serializer) is not JSON or conf.result_compression is not None


def pack_result(value: Any, conf: Settings) -> Packed:
    """Return a return value, or a state's meta, as `result_serializer` and `result_compression` want it stored.

    Raises:
        EncodeError: It can't be serialised.
    """
    serializer = find_serializer(conf.result_serializer)
    data = serializer.encode(value)
    if conf.result_compression is not None:
        smaller, how = compress(data, conf.result_compression)
        if len(data) <= _most(smaller, conf):
            return Packed(serializer.content_type, how, smaller)
    return Packed(serializer.content_type, None, data)


def read_result(value: Any, conf: Settings) -> Any:
    """Return what is stored as a result, or as a state's meta, as a value.

    Raises:
        ContentDisallowed: `result_accept_content`, or `accept_content` where that is None, does not allow its content
            type; nothing has been decoded.
        DecodeError: It can't be read.
    """
    own = conf.result_accept_content
    accept, setting = (conf.accept_content, "accept_content") if own is None else (own, "result_accept_content")
    if type(value) is not Packed:
        serializer_for(JSON.content_type, accept, setting)
        return value
    serializer = serializer_for(value.content_type, accept, setting)
    data = value.data
    if value.compression is not None:
        data = decompress(data, value.compression, _most(data, conf))
    return serializer.decode(data)


def _most(compressed: bytes, conf: Settings) -> int:
    return max(conf.message_max_bytes, _RATIO * len(compressed))
