"""Compression: kombu's names and bytes; what comes out is bounded, what is damaged is a DecodeError."""

import bz2
import contextlib
import gzip
import lzma
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import DecodeError, EncodeError, ImproperlyConfigured
from aiotask.wire import compression
from aiotask.wire.compression import compress, decompress, find_compression, register_compression

NAMES = ["gzip", "bzip2", "bz2", "lzma", "zstd"]
TEXT = b"the same again and again, " * 100


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what a test registers end with it."""
    monkeypatch.setattr(compression, "_BY_NAME", dict(compression._BY_NAME))
    monkeypatch.setattr(compression, "_BY_CONTENT_TYPE", dict(compression._BY_CONTENT_TYPE))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"x", TEXT])
def test_bytes_come_back_by_name_and_by_content_type(name: str, data: bytes) -> None:
    small, content_type = compress(data, name)
    assert decompress(small, content_type, len(data)) == decompress(small, name, len(data)) == data
    assert compress(data, content_type) == (small, content_type)


@pytest.mark.parametrize("name", NAMES)
def test_text_becomes_smaller(name: str) -> None:
    assert len(compress(TEXT, name)[0]) < len(TEXT) / 5


@pytest.mark.parametrize(
    ("name", "content_type", "theirs"),
    [
        ("gzip", "application/x-gzip", zlib.decompress),
        ("bzip2", "application/x-bz2", bz2.decompress),
        ("bz2", "application/x-bz2", bz2.decompress),
        ("lzma", "application/x-lzma", lzma.decompress),
    ],
)
def test_bytes_and_content_type_are_kombu_s(name: str, content_type: str, theirs: Callable[[bytes], bytes]) -> None:
    small, said = compress(TEXT, name)
    assert said == content_type
    assert theirs(small) == TEXT


def test_zstd_has_kombu_s_content_type() -> None:
    assert find_compression("zstd").content_type == "application/zstd"


def test_gzip_reads_a_gzip_file_as_well() -> None:
    assert decompress(gzip.compress(TEXT), "gzip", len(TEXT)) == TEXT


@pytest.mark.parametrize("name", NAMES)
def test_content_is_refused_when_one_byte_more_comes_out_than_allowed(name: str) -> None:
    small, content_type = compress(TEXT, name)
    with pytest.raises(DecodeError) as raised:
        decompress(small, content_type, len(TEXT) - 1)
    assert str(raised.value) == (
        f"Content compressed as {content_type!r} can't be read: there is more in it than the 2,599 bytes that are read "
        "(message_max_bytes)."
    )


def bomb(name: str) -> bytes:
    """Return something of which a quarter of a gigabyte comes out."""
    stream: Any
    if name == "zstd":
        stream = compression._zstd().ZstdCompressor()
    else:
        stream = {"gzip": zlib.compressobj, "bz2": bz2.BZ2Compressor, "lzma": lzma.LZMACompressor}[name]()
    zeros = bytes(1 << 24)
    return b"".join([*(stream.compress(zeros) for _ in range(16)), stream.flush()])


@pytest.mark.parametrize(
    ("name", "machinery"),
    [
        ("gzip", 1 << 20),
        ("bz2", 4 << 20),
        ("lzma", 10 << 20),
        ("zstd", 10 << 20),
    ],
)
def test_bomb_never_takes_more_memory_than_allowed_and_the_decompressor_s_own(name: str, machinery: int) -> None:
    limit, data = 1 << 20, bomb(name)
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="there is more in it than the 1,048,576 bytes"):
            decompress(data, name, limit)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * limit + machinery


def test_lzma_is_refused_when_it_asks_for_a_large_dictionary() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20}]
    tracemalloc.start()
    try:
        data = lzma.compress(b"x", filters=filters)
        tracemalloc.reset_peak()
        with pytest.raises(DecodeError, match=r"[Mm]emory"):
            decompress(data, "lzma", 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_zstd_is_refused_when_it_asks_for_a_large_window() -> None:
    zstd = compression._zstd()
    stream = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    data = stream.compress(bytes(1 << 24)) + stream.flush()
    with pytest.raises(DecodeError, match="too much memory"):
        decompress(data, "zstd", 1 << 20)


@pytest.mark.parametrize("name", NAMES)
def test_content_is_refused_when_it_is_damaged(name: str) -> None:
    small, _ = compress(TEXT, name)
    for data, why in (
        (small[:-1], "the stream is cut off"),
        (b"", "the stream is cut off"),
        (small + b"x", "something follows the stream"),
        (b"no such stream", ""),
    ):
        with pytest.raises(DecodeError, match=f"^Content compressed as '{name}' can't be read: {why}"):
            decompress(data, name, 10_000)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary())
def test_bytes_raise_nothing_but_decode_error_whatever_they_are(name: str, data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decompress(data, name, 1000)


def test_unknown_compression_is_refused_with_those_that_there_are_and_the_way_to_add_one() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        compress(b"x", "gzpi")
    said = str(raised.value)
    assert said.startswith("There is no compression 'gzpi'; there are bz2, bzip2, gzip, lzma,")
    assert " zstd. Others are made known by" in said
    assert "aiotask.register_compression(name, compress, decompress, content_type=...)" in said
    assert said.endswith("Did you mean 'gzip'?")


def test_content_is_refused_when_its_compression_is_not_known_here() -> None:
    with pytest.raises(DecodeError, match=r"can't be read here\. There is no compression 'application/x-brotli'"):
        decompress(b"x", "application/x-brotli", 10)


@pytest.fixture
def without_zstd(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.usefixtures("without_zstd")
def test_zstd_says_how_to_get_it_when_it_is_not_installed() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        compress(b"x", "zstd")
    assert str(raised.value) == (
        "The compression 'zstd' needs Python 3.14 or the package backports.zstd, which is not installed: "
        'pip install "aiotask[zstd]"'
    )
    with pytest.raises(DecodeError, match=r"can't be read here.*pip install \"aiotask\[zstd\]\""):
        decompress(b"x", "zstd", 10)


def reverse(data: bytes) -> bytes:
    return data[::-1]


@pytest.mark.usefixtures("registry")
def test_registered_compression_is_found_by_name_and_by_content_type() -> None:
    register_compression("back", reverse, reverse, content_type="application/x-back")
    assert compress(b"abc", "back") == (b"cba", "application/x-back")
    assert decompress(b"cba", "application/x-back", 3) == decompress(b"cba", "back", 3) == b"abc"


@pytest.mark.usefixtures("registry")
def test_registering_a_name_again_replaces_it_and_its_content_type() -> None:
    register_compression("back", reverse, reverse, "application/x-old")
    register_compression("back", bytes, bytes, "application/x-new")
    assert compress(b"abc", "back") == (b"abc", "application/x-new")
    with pytest.raises(DecodeError, match="There is no compression 'application/x-old'"):
        decompress(b"", "application/x-old", 10)


@pytest.mark.usefixtures("registry")
def test_what_a_registered_compression_returns_is_measured() -> None:
    register_compression("bomb", reverse, lambda data: data * 1000, "application/x-bomb")
    assert len(decompress(b"x", "bomb", 1000)) == 1000
    with pytest.raises(DecodeError, match="there is more in it than the 999 bytes that are read"):
        decompress(b"x", "bomb", 999)


@pytest.mark.usefixtures("registry")
def test_registered_compression_is_named_when_it_fails() -> None:
    def fail(data: bytes) -> bytes:
        raise OSError("no room")

    register_compression("mine", fail, fail, "application/x-mine")
    with pytest.raises(EncodeError, match=r"^The compression 'mine' failed on 3 bytes: OSError: no room. Name another"):
        compress(b"abc", "mine")
    with pytest.raises(DecodeError, match=r"^Content compressed as 'mine' can't be read: OSError: no room"):
        decompress(b"abc", "mine", 10)


@pytest.mark.usefixtures("registry")
def test_registered_compression_is_named_when_it_returns_no_bytes() -> None:
    made_of_text: Any = bytes.decode
    register_compression("mine", made_of_text, made_of_text, "application/x-mine")
    with pytest.raises(EncodeError, match="it returned str, and has to return bytes"):
        compress(b"abc", "mine")
    with pytest.raises(DecodeError, match="it returned str, and has to return bytes"):
        decompress(b"abc", "mine", 10)


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"name": " "}, "' ' can't be the name of a compression: it takes a short text without '/'"),
        ({"name": "x" * 101}, "can't be the name of a compression"),
        ({"compress": None}, "The compression 'mine': None can't be called; compress and decompress are functions."),
        ({"decompress": 5}, "The compression 'mine': 5 can't be called; compress and decompress are functions."),
        ({"content_type": "gzip"}, "content_type is 'gzip'; it takes a media type"),
        (
            {"content_type": "application/x-gzip"},
            "The compression 'mine': the content type 'application/x-gzip' belongs to 'gzip' already.",
        ),
    ],
)
@pytest.mark.usefixtures("registry")
def test_registration_is_refused_when_an_argument_does_not_fit(given_: dict[str, Any], said: str) -> None:
    fine: dict[str, Any] = {"name": "mine", "compress": reverse, "decompress": reverse, "content_type": "x/y"}
    with pytest.raises(ImproperlyConfigured) as raised:
        register_compression(**(fine | given_))
    assert said in str(raised.value)
    assert "mine" not in compression._BY_NAME
