"""Arguments and results can be compressed; what comes out of it is bounded while it comes out."""

import sys
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiotask import AioTask, DecodeError, EncodeError, ImproperlyConfigured, register_compression
from aiotask.message import DeadLetter, TaskMessage
from aiotask.wire.payload import pack_result
from aiotask.wire.serialization import JSON

Post = Callable[..., Awaitable[str]]
DeadLetters = Callable[[], Awaitable[list[DeadLetter]]]

NAMES = ["gzip", "bzip2", "bz2", "lzma", "zstd"]
TEXT = "the same again and again, " * 1000


@pytest.fixture
def length(app: AioTask) -> Any:
    @app.task(name="proj.length")
    async def length(text: str) -> int:
        return len(text)

    return length


@pytest.fixture
def bodies(app: AioTask, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is sent from now on."""
    sent: list[bytes] = []
    encode = app.codec.encode

    def spy(message: TaskMessage) -> bytes:
        body = encode(message)
        sent.append(body)
        return body

    monkeypatch.setattr(app.codec, "encode", spy)
    return sent


@pytest.mark.parametrize("name", NAMES)
async def test_arguments_are_compressed_as_the_call_says(
    app: AioTask, length: Any, bodies: list[bytes], name: str
) -> None:
    async with app.worker():
        assert await (await length.apply_async((TEXT,), compression=name)).get(timeout=10) == len(TEXT)
    assert len(bodies[0]) < len(TEXT) / 10


async def test_arguments_are_compressed_as_the_task_says(app: AioTask, bodies: list[bytes]) -> None:
    @app.task(compression="gzip")
    async def length(text: str) -> int:
        return len(text)

    assert length.compression == "gzip"
    async with app.worker():
        assert await (await length.delay(TEXT)).get(timeout=10) == len(TEXT)
    assert len(bodies[0]) < len(TEXT) / 10


async def test_arguments_are_compressed_as_the_setting_says(app: AioTask, length: Any, bodies: list[bytes]) -> None:
    app.conf.task_compression = "application/x-bz2"
    async with app.worker():
        assert await (await length.delay(TEXT)).get(timeout=10) == len(TEXT)
        assert await (await app.send_task("proj.length", (TEXT,))).get(timeout=10) == len(TEXT)
    assert max(map(len, bodies)) < len(TEXT) / 10


async def test_nothing_but_the_arguments_is_compressed(app: AioTask, length: Any, bodies: list[bytes]) -> None:
    app.conf.task_compression = "gzip"
    async with app.worker():
        await (await length.apply_async((TEXT,), headers={"trace": "x" * 50})).get(timeout=10)
    message = app.codec.decode(bodies[0])
    assert message.headers == {"trace": "x" * 50}
    assert (message.content_type, message.compression) == ("application/json", "application/x-gzip")
    assert zlib.decompress(message.payload) == JSON.encode_call((TEXT,), {})


@pytest.mark.parametrize("unknown", ["gzpi", "application/x-brotli"])
async def test_unknown_name_is_refused_before_anything_is_sent(length: Any, bodies: list[bytes], unknown: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=f"proj.length: There is no compression '{unknown}'; there are bz2, bzip2, gzip"
    ):
        await length.apply_async((TEXT,), compression=unknown)
    assert bodies == []


async def test_missing_zstd_is_told_with_the_command_that_gets_it(
    length: Any, bodies: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImproperlyConfigured, match=r'pip install "aiotask\[zstd\]"'):
        await length.apply_async((TEXT,), compression="zstd")
    assert bodies == []


async def test_registered_compression_is_used_by_name(app: AioTask, length: Any) -> None:
    register_compression("tests.back", reverse, reverse, content_type="application/x-tests-back")
    app.conf.result_compression = "tests.back"
    async with app.worker():
        assert await (await length.apply_async((TEXT,), compression="tests.back")).get(timeout=10) == len(TEXT)


def reverse(data: bytes) -> bytes:
    return data[::-1]


# What is too much


async def test_arguments_are_refused_when_no_worker_would_take_them_uncompressed(
    app: AioTask, length: Any, bodies: list[bytes]
) -> None:
    app.conf.message_max_bytes = 10_000
    with pytest.raises(EncodeError) as raised:
        await length.apply_async((TEXT,), compression="gzip")
    assert "the arguments have 26,009 bytes before they are compressed, more than message_max_bytes (10,000)" in str(
        raised.value
    )
    assert bodies == []


@pytest.mark.parametrize(
    ("compression", "payload", "why"),
    [
        ("application/x-gzip", zlib.compress(bytes(50_000_000)), "there is more in it than the 1,048,576 bytes"),
        ("application/x-gzip", b"garbage", "incorrect header check"),
        ("application/x-gzip", zlib.compress(b"[[1],{}]")[:-1], "the stream is cut off"),
        ("application/x-gzip", zlib.compress(b"["), "Not readable as JSON"),
        ("application/x-gzip", zlib.compress(b"[" * 500_000), "nested too deeply|Not readable as JSON"),
        ("application/x-unheard-of", b"[[1],{}]", "There is no compression 'application/x-unheard-of'"),
    ],
)
async def test_content_that_can_not_be_decompressed_is_dead_lettered(
    app: AioTask, length: Any, post: Post, dead_letters: DeadLetters, compression: str, payload: bytes, why: str
) -> None:
    async with app.worker():
        await post(TaskMessage("proj.length", "id-1", payload, compression=compression))
        with pytest.raises(DecodeError, match=why):
            await app.result("id-1").get(timeout=10)
        assert await (await length.delay("abc")).get(timeout=10) == 3
    assert [letter.reason for letter in await dead_letters()] == ["DecodeError"]


# Results


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("serializer", ["json", "msgpack"])
async def test_result_is_compressed_as_the_setting_says(app: AioTask, name: str, serializer: str) -> None:
    app.conf.update(result_compression=name, result_serializer=serializer, accept_content=["json", serializer])

    @app.task
    async def produce() -> Any:
        return TEXT

    async with app.worker():
        result = await produce.delay()
        assert await result.get(timeout=10) == TEXT
        [stored] = await app.backend.fetch([result.id])
        assert stored is not None
        assert len(stored.result.data) < len(TEXT) / 10


@pytest.mark.parametrize("value", ["x" * 3_000_000, list(range(400_000))])
async def test_result_larger_than_a_message_comes_back(app: AioTask, value: Any) -> None:
    app.conf.result_compression = "gzip"

    @app.task
    async def produce() -> Any:
        return value

    async with app.worker():
        assert await (await produce.delay()).get(timeout=30) == value


async def test_result_that_grows_without_measure_is_refused(app: AioTask) -> None:
    app.conf.result_compression = "gzip"
    # What no worker would write: it stores as it is what compresses better than a reader takes.
    bomb = pack_result(None, app.conf)
    bomb.data = zlib.compress(b'"' + b"x" * 50_000_000 + b'"')

    @app.task
    async def produce() -> Any: ...

    async with app.worker():
        result = await produce.delay()
        await result.get(timeout=10)
        await result.forget()
        [stored] = await app.backend.fetch([result.id])
        assert stored is None
        meta = await result.meta()
        meta.state, meta.result = "SUCCESS", bomb
        await app.backend.store([app.backend.encode(meta, None)])
        with pytest.raises(DecodeError, match="there is more in it than"):
            await result.get(timeout=10)


async def test_worker_does_not_start_when_results_can_not_be_compressed(app: AioTask) -> None:
    app.conf.result_compression = "gzpi"
    with pytest.raises(ImproperlyConfigured, match="There is no compression 'gzpi'"):
        async with app.worker():
            pass
