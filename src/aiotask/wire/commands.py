"""Commands to workers and their answers as bytes, for brokers that have no format of their own for them. No I/O."""

from collections.abc import Mapping
from typing import Any

import msgspec

from aiotask.protocols import Answering

_encode = msgspec.json.Encoder(enc_hook=repr).encode
_decode = msgspec.json.Decoder().decode


def pack(value: Any) -> bytes:
    """Return arguments or an answer as bytes; of what is no plain value, its repr."""
    return _encode(value)


def unpack(data: bytes) -> Any:
    """Return what was packed."""
    return _decode(data)


def carry_out(commands: Mapping[str, Answering], command: str, arguments: bytes) -> bytes:
    """Carry out a command with packed arguments; return its packed answer, of whatever goes wrong an error."""
    try:
        return _encode(commands[command](_decode(arguments)))
    except Exception as error:  # noqa: BLE001 - whatever it is, who has asked is told, and the worker goes on
        return _encode({"error": repr(error)})
