"""A server and a listener that do what the test says, in the order that it says; what they hold, and what comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiotask.connections.redis import Translation
from aiotask.connections.redis.errors import translated
from aiotask.connections.translating import Translating
from aiotask.outcome import TaskMeta
from aiotask.results.redis import RedisBackend, watching

PREFIX = "celery-task-meta-"


class Server:
    """A link that answers by itself, or when it is told to."""

    def __init__(self) -> None:
        self.place = "redis://:***@h:6379/0"
        self.command_timeout_s = 5.0
        self.connected = True
        self.opened = 0
        self.rows: dict[str, bytes] = {}
        self.commands: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()

    async def open(self) -> None:
        self.opened += 1

    async def close(self) -> None:
        self.opened -= 1

    def translating(self, translation: Translation) -> Translating:
        return Translating(self.place, translation, translated)

    async def command(self, *words: Any, wait: float = 0.0) -> Any:
        self.commands.append(words)
        replies = self._read(*words)  # what was true when it was asked
        await asyncio.sleep(0)
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        return replies

    def reply(self, *words: Any) -> list[bytes | None]:
        """Answer at once, on another connection."""
        self.commands.append(words)
        if self.error is not None:
            raise self.error
        return self._read(*words)

    def _read(self, command: str, *keys: str) -> list[bytes | None]:
        assert command == "MGET"
        return [self.rows.get(key) for key in keys]


class Listening:
    """A listener that hears what the test tells it."""

    made: "list[Listening]"
    mixes: bool
    """Whether it takes other commands, too."""

    def __init__(self, link: Any, on_message: Callable[[str, bytes], None], on_gap: Callable[[], None]) -> None:
        self.link: Server = link
        self.on_message = on_message
        self.on_gap = on_gap
        self.calls: list[tuple[str, ...]] = []
        self.error: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.closed = False
        self.made.append(self)

    async def subscribe(self, *channels: str, then: tuple[Any, ...], wait: float) -> Any:
        self.calls.append(("subscribe", *channels))
        await self.answering.wait()
        if self.error is not None:
            raise self.error
        return self.link.reply(*then) if then and self.mixes else None

    async def unsubscribe(self, *channels: str) -> None:
        self.calls.append(("unsubscribe", *channels))

    async def close(self) -> None:
        self.closed = True


async def quiet() -> None:
    """Let everything happen that can."""
    for _ in range(30):
        await asyncio.sleep(0)


def row(state: str, id_: str = "a", result: Any = None) -> bytes:
    meta = TaskMeta(id=id_, state=state, result=result)
    return RedisBackend(Server()).encode(meta, None).data  # type: ignore[arg-type]


def keys(*ids: str) -> tuple[str, ...]:
    return tuple(PREFIX + id_ for id_ in ids)


async def came(changes: AsyncIterator[TaskMeta]) -> list[str]:
    """Return the states that are there to be read."""
    states = []
    while True:
        reading = asyncio.ensure_future(anext(changes))
        await quiet()
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
            return states
        states.append(reading.result().state)


def watching_hub(backend: RedisBackend) -> watching.Hub:
    assert backend._hub is not None
    return backend._hub
