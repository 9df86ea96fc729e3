"""Bytes to fewer bytes and back, by name and content type. What comes out is bounded while it comes out. No I/O.

Names, content types and bytes are kombu's (`kombu/compression.py`), so that either side reads the other's; its `gzip`
is a zlib stream (RFC 1950), not a gzip file.
"""

import bz2
import importlib
import lzma
import zlib
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from aiotask.exceptions import DecodeError, EncodeError, ImproperlyConfigured
from aiotask.suggestions import did_you_mean
from aiotask.wire.naming import check_content_type, checked_name

_ANY_HEADER: Final = 47
"""zlib's `wbits` for the largest window and a zlib or gzip header, whichever is there."""
_LZMA_MEMORY_BYTES: Final = 16 * 1024 * 1024
"""What we and kombu write takes 9 MiB to read (preset 6, xz(1)); a stream may ask for 4 GiB."""
_ZSTD_WINDOW_LOG: Final = 23
"""8 MiB, which RFC 8878 (3.1.1.1.2) has every decoder support; a frame may ask for far more."""


class _Decompressor(Protocol):
    """What zlib, bz2, lzma and zstd share."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Compression(NamedTuple):
    """One way to compress. `decompress` takes the bytes and how many may come out at most."""

    name: str
    content_type: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes, int], bytes]


def _bounded(make: Callable[[], _Decompressor]) -> Callable[[bytes, int], bytes]:
    def decompress(data: bytes, limit: int) -> bytes:
        decompressor = make()
        # One byte more than allowed tells too much from just enough, and nothing beyond it is ever made.
        content = decompressor.decompress(data, limit + 1)
        if len(content) > limit:
            raise _too_much(limit)
        if not decompressor.eof:
            raise DecodeError("the stream is cut off")
        if decompressor.unused_data:
            raise DecodeError("something follows the stream")
        return content

    return decompress


def _too_much(limit: int) -> DecodeError:
    return DecodeError(f"there is more in it than the {limit:,} bytes that are read (message_max_bytes)")


def _zstd() -> Any:
    for module in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise ImproperlyConfigured(
        "The compression 'zstd' needs Python 3.14 or the package backports.zstd, which is not installed: "
        'pip install "aiotask[zstd]"'
    )


def _compress_zstd(data: bytes) -> bytes:
    return _zstd().compress(data)  # type: ignore[no-any-return]


def _zstd_decompressor() -> _Decompressor:
    zstd = _zstd()
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options)  # type: ignore[no-any-return]


_BY_NAME: Final[dict[str, Compression]] = {}
_BY_CONTENT_TYPE: Final[dict[str, Compression]] = {}


def _add(compression: Compression) -> None:
    former = _BY_NAME.get(compression.name)
    if former is not None:
        del _BY_CONTENT_TYPE[former.content_type]
    _BY_NAME[compression.name] = compression
    _BY_CONTENT_TYPE[compression.content_type] = compression


for _built_in in (
    Compression("gzip", "application/x-gzip", zlib.compress, _bounded(lambda: zlib.decompressobj(_ANY_HEADER))),
    Compression("bzip2", "application/x-bz2", bz2.compress, _bounded(bz2.BZ2Decompressor)),
    Compression(
        "lzma",
        "application/x-lzma",
        lzma.compress,
        _bounded(lambda: lzma.LZMADecompressor(memlimit=_LZMA_MEMORY_BYTES)),
    ),
    Compression("zstd", "application/zstd", _compress_zstd, _bounded(_zstd_decompressor)),
):
    _add(_built_in)
_BY_NAME["bz2"] = _BY_NAME["bzip2"]


def register_compression(
    name: str, compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], content_type: str
) -> None:
    """Make a compression known, to be named in `compression`, `task_compression` and `result_compression`.

    Every program that sends, runs or reads needs it. A name that is known already is replaced. What `decompress`
    returns is measured only when it is there: unlike the built-in ones it has to guard itself against a few bytes that
    become many.

    Args:
        name: What options and settings call it.
        compress: Makes bytes of bytes.
        decompress: Makes the former bytes again.
        content_type: What messages and results call it, such as `application/x-brotli`.

    Raises:
        ImproperlyConfigured: An argument doesn't fit, or another compression has the content type.
    """
    what = checked_name("compression", name)
    for function in (compress, decompress):
        if not callable(function):
            raise ImproperlyConfigured(
                f"{what}: {function!r:.80} can't be called; compress and decompress are functions."
            )
    check_content_type(what, content_type)
    owner = _BY_CONTENT_TYPE.get(content_type)
    if owner is not None and owner.name != name:
        raise ImproperlyConfigured(f"{what}: the content type {content_type!r} belongs to {owner.name!r} already.")

    def measured(data: bytes, limit: int) -> bytes:
        content = _as_bytes(decompress(data))
        if len(content) > limit:
            raise _too_much(limit)
        return content

    _add(Compression(name, content_type, lambda data: _as_bytes(compress(data)), measured))


def _as_bytes(value: Any) -> bytes:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"it returned {type(value).__qualname__}, and has to return bytes")
    return bytes(value)


def find_compression(name: str) -> Compression:
    """Return a compression by its name, or by its content type; that it can be used here is not said by that.

    Raises:
        ImproperlyConfigured: There is none.
    """
    found = _BY_NAME.get(name) or _BY_CONTENT_TYPE.get(name)
    if found is None:
        raise ImproperlyConfigured(
            f"There is no compression {name!r:.80}; there are {', '.join(sorted(_BY_NAME))}. Others are made known by "
            "aiotask.register_compression(name, compress, decompress, content_type=...), in every program that uses "
            f"them.{did_you_mean(name, _BY_NAME)}"
        )
    return found


def compress(data: bytes, name: str) -> tuple[bytes, str]:
    """Return `data` compressed, and the content type that says how.

    Raises:
        ImproperlyConfigured: There is no compression of that name, or its package is not installed.
        EncodeError: A registered function has failed.
    """
    compression = find_compression(name)
    try:
        return compression.compress(data), compression.content_type
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise EncodeError(
            f"The compression {compression.name!r} failed on {len(data):,} bytes: {type(error).__name__}: {error}. "
            "Name another one."
        ) from error


def decompress(data: bytes, name: str, limit: int) -> bytes:
    """Return what was compressed; of more than `limit` bytes no more than one byte too much is ever made.

    Raises:
        DecodeError: There is more in it than `limit`, it is damaged, or it can't be read here.
    """
    try:
        compression = find_compression(name)
        return compression.decompress(data, limit)
    except ImproperlyConfigured as error:
        raise DecodeError(f"The content is compressed in a way that can't be read here. {error}") from error
    except Exception as error:
        why = str(error) if isinstance(error, DecodeError) else f"{type(error).__name__}: {error}"
        raise DecodeError(f"Content compressed as {name!r:.80} can't be read: {why}.") from error
