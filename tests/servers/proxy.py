"""A proxy that breaks: it stands between a client and a server, and cuts, delays, swallows and refuses when told to.

It runs in a thread of its own, so that a test may block its loop. Each call has taken effect when it returns.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self

Direction = Literal["to_server", "to_client"]

PATIENCE_S = 10.0
_NOT_REDIS = (b"\x16", b"AMQP", b"\x01")
"""What TLS begins with, and AMQP to the server and back."""
_TURNS = 5
_REPLY_WITHIN_S = 0.5
"""A command that was to be carried out before a cut, and blocks, is taken for carried out after so long."""


class Frames:
    """Finds where each command or reply of the Redis protocol ends (RESP 2 and 3), however the bytes are cut up."""

    _AGGREGATES = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}
    _BULKS = frozenset({b"$", b"!", b"="})

    def __init__(self) -> None:
        self._buffer = b""
        self._at = 0
        self._words: list[bytes] = []
        self._open: list[int] = []
        self._blind = False

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take bytes; return for each frame that ends in them how many of them pass with it, and its first word."""
        if not self._at and not self._buffer and data.startswith(_NOT_REDIS):
            self._blind = True
        if self._blind:
            return []
        before = len(self._buffer)
        self._buffer += data
        ends: list[tuple[int, bytes]] = []
        while (part := self._next_part()) is not None:
            if part:
                ends.append((self._at - before, self._words[0] if self._words else b""))
                self._words = []
                self._buffer = self._buffer[self._at :]
                before -= self._at
                self._at = 0
        return ends

    def _next_part(self) -> bool | None:
        """Read one line or bulk string; None without it, True when a frame ends with it."""
        end = self._buffer.find(b"\r\n", self._at)
        if end < 0:
            return None
        kind, text = self._buffer[self._at : self._at + 1], self._buffer[self._at + 1 : end]
        if kind in self._BULKS and int(text) >= 0:
            size = int(text)
            if len(self._buffer) < end + 2 + size + 2:
                return None
            text = self._buffer[end + 2 : end + 2 + size]
            end += 2 + size
        self._at = end + 2
        if kind in self._AGGREGATES:
            inside = int(text) * self._AGGREGATES[kind]
            if inside > 0:
                self._open.append(inside + (kind == b"|"))  # an attribute is followed by what it belongs to
                return False
        else:
            self._words.append(text)
        while self._open:
            self._open[-1] -= 1
            if self._open[-1]:
                return False
            self._open.pop()
        return True


class Cut(NamedTuple):
    """A cut that is to come, once so much more has passed."""

    unit: Literal["commands", "replies", "bytes_to_server", "bytes_to_client"]
    left: int
    deliver: bool = True
    everything: bool = True


class FaultProxy:
    """Passes connections on to a server. A context manager.

    Commands, replies and bytes are counted over all connections, in the order in which they came. TLS and AMQP pass,
    with their bytes counted alone.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        """Say where the server is; nothing is opened."""
        self.target = host, port
        self.port = 0
        self.commands: list[bytes] = []
        """The first word of each command that was passed on."""
        self.replies = 0
        self.bytes_to_server = 0
        self.bytes_to_client = 0
        self.cuts = 0
        """How often connections were cut, by `cut` or by a cut that had been set."""
        self.delay_s = 0.0
        self.swallowing: frozenset[Direction] = frozenset()
        self.swallowing_after = b""
        """Only on connections on which this command has come; all when it is empty."""
        self.planned: Cut | None = None
        self.pairs: set[_Pair] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self.thawed = asyncio.Event()
        """Not set while the last command before a cut of everything is being answered."""
        self.thawed.set()
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._listening: asyncio.Server | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    # ---- faults ----

    def delay(self, seconds: float) -> None:
        """Hold back what comes for so long, in both directions."""
        self._change(delay_s=seconds)

    def cut(self) -> None:
        """Reset all connections; new ones are passed on."""

        async def cut() -> None:
            self.cut_now(None)
            await asyncio.sleep(0)

        self._do(cut())

    def cut_after(
        self,
        *,
        commands: int = 0,
        replies: int = 0,
        bytes_to_server: int = 0,
        bytes_to_client: int = 0,
        deliver: bool = True,
        everything: bool = True,
    ) -> None:
        """Reset connections once so much more has passed. One of these at a time; once.

        Args:
            commands: The n-th command from now on, and not its reply.
            replies: The n-th reply.
            bytes_to_server: So many bytes, wherever that is in a command.
            bytes_to_client: So many bytes, wherever that is in a reply.
            deliver: False keeps that last command from the server; True sees to it that the server has carried it out.
            everything: False cuts only the connection on which it came.
        """
        amounts = {
            "commands": commands,
            "replies": replies,
            "bytes_to_server": bytes_to_server,
            "bytes_to_client": bytes_to_client,
        }
        [(unit, left)] = [(unit, left) for unit, left in amounts.items() if left > 0]
        self._change(planned=Cut(unit, left, deliver, everything))  # type: ignore[arg-type]

    def black_hole(self, *directions: Direction, after: bytes = b"") -> None:
        """Swallow what goes that way, by default both; connections stay open, and new ones are accepted.

        Args:
            *directions: Which way.
            after: Only on connections on which this command has come, now or then; `b"SUBSCRIBE"`: those that listen.
        """
        self._change(swallowing=frozenset(directions or ("to_server", "to_client")), swallowing_after=after)

    def refuse(self) -> None:
        """Accept no new connections; what is open stays."""
        self._do(self._refuse())

    def heal(self) -> None:
        """Pass everything on again. Connections that have lost something are reset, as by a router that forgot them."""
        self._do(self._heal())

    # ---- what has happened ----

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self.pairs)

    def url(self, db: int = 0) -> str:
        """Return the URL of a Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def wait_for(self, condition: Callable[["FaultProxy"], object], timeout: float = PATIENCE_S) -> None:
        """Block until `condition` holds of this proxy; in a coroutine by `asyncio.to_thread`."""
        with self._news:
            if not self._news.wait_for(lambda: condition(self), timeout):
                raise AssertionError(
                    f"not within {timeout:g} s; {len(self.commands)} commands, {self.replies} replies, "
                    f"{self.cuts} cuts, {len(self.pairs)} connections"
                )

    # ---- inside, on the proxy's own loop ----

    def note(self) -> None:
        """Let those who wait look."""
        with self._news:
            self._news.notify_all()

    def cut_now(self, pair: "_Pair | None") -> None:
        """Reset `pair`, or all."""
        self.cuts += 1
        for one in tuple(self.pairs) if pair is None else (pair,):
            one.reset()
        self.note()

    def due(self, unit: str, amount: int = 1) -> Cut | None:
        """Count `amount` of what a cut is planned by; return the plan, planned no more, when that is enough."""
        plan = self.planned
        if plan is None or plan.unit != unit:
            return None
        if amount < plan.left:
            self.planned = plan._replace(left=plan.left - amount)
            return None
        self.planned = None
        return plan

    def _do(self, work: "Coroutine[object, object, None]") -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def _change(self, **values: object) -> None:
        async def change() -> None:
            for name, value in values.items():
                setattr(self, name, value)

        self._do(change())

    async def _listen(self) -> None:
        if self._listening is None:
            self._listening = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
            self.port = self._listening.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        listening, self._listening = self._listening, None
        if listening is not None:
            self._loop.remove_reader(listening.sockets[0].fileno())
            for _ in range(_TURNS):  # what was accepted just now becomes a pair; a closed server would leave it open
                await asyncio.sleep(0)
            listening.close()

    async def _heal(self) -> None:
        self.delay_s, self.swallowing, self.swallowing_after, self.planned = 0.0, frozenset(), b"", None
        for pair in tuple(self.pairs):
            if pair.lossy:
                pair.reset()
        await self._listen()

    async def _end(self) -> None:
        await self._refuse()
        for pair in tuple(self.pairs):
            pair.reset()
        self.thawed.set()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pair = _Pair(self, writer)
        self.pairs.add(pair)  # before its task has run: the proxy may end first, and resets all that there are
        task = self._loop.create_task(self._pass_on(pair, reader))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)
        self.note()

    async def _pass_on(self, pair: "_Pair", reader: asyncio.StreamReader) -> None:
        try:
            await pair.run(reader)
        except (OSError, asyncio.CancelledError):
            pass  # one side is gone, or the proxy ends
        finally:
            pair.reset()
            self.pairs.discard(pair)
            self.note()


class _Pair:
    """A client's connection and the one to the server that it is passed on to."""

    def __init__(self, proxy: FaultProxy, client: asyncio.StreamWriter) -> None:
        self.lossy = False
        self._proxy = proxy
        self._client = client
        self._server: asyncio.StreamWriter | None = None
        self._sent = 0
        self._answered = 0
        self._last: int | None = None
        """The reply that is not passed on: it shows that the last command was carried out."""
        self._was_answered = asyncio.Event()
        self._words: set[bytes] = set()

    async def run(self, from_client: asyncio.StreamReader) -> None:
        """Pass on until one side ends."""
        if self._is_swallowed("to_server"):
            self.lossy = True
            while await from_client.read(65536):
                pass
            return
        from_server, self._server = await asyncio.open_connection(*self._proxy.target)
        pumps = [
            asyncio.create_task(self._pump("to_server", from_client, self._server)),
            asyncio.create_task(self._pump("to_client", from_server, self._client)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    def reset(self) -> None:
        """Close both ends at once, the client's with a reset."""
        for writer in (self._client, self._server):
            if writer is not None and not writer.transport.is_closing():
                ours = writer.get_extra_info("socket")
                ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()

    def _is_swallowed(self, direction: Direction) -> bool:
        after = self._proxy.swallowing_after
        return direction in self._proxy.swallowing and (not after or after in self._words)

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        proxy = self._proxy
        while data := await reader.read(65536):
            if proxy.delay_s:
                await asyncio.sleep(proxy.delay_s)
            if direction == "to_server":
                await proxy.thawed.wait()
            if self._is_swallowed(direction):
                self.lossy = True
                continue
            passed, cut, answered = self._judge(direction, data, frames)
            if direction == "to_server":
                proxy.bytes_to_server += passed
            else:
                proxy.bytes_to_client += passed
            if passed:
                writer.write(data[:passed])
                await writer.drain()
            proxy.note()
            if cut is not None:
                await self._cut(cut, answered)
                return

    def _judge(self, direction: Direction, data: bytes, frames: Frames) -> tuple[int, Cut | None, bool]:
        """Return how many bytes of `data` pass, what cut follows, and whether it is to wait for the reply."""
        proxy = self._proxy
        passed = 0
        for end, word in frames.feed(data):
            if direction == "to_server":
                cut = proxy.due("commands")
                if cut is not None and not cut.deliver:
                    return passed, cut, False
                proxy.commands.append(word)
                self._words.add(word)
                self._sent += 1
                if cut is not None:
                    return end, cut, True
            else:
                self._answered += 1
                if self._last is not None and self._answered >= self._last:
                    self._was_answered.set()
                    return passed, None, False
                proxy.replies += 1
                if (cut := proxy.due("replies")) is not None:
                    return end, cut, False
            passed = end
        cut = proxy.due(f"bytes_{direction}", len(data))
        return (len(data) if cut is None else cut.left), cut, False

    async def _cut(self, cut: Cut, answered: bool) -> None:
        if answered:
            self._last = self._sent
            if cut.everything:
                self._proxy.thawed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._was_answered.wait(), _REPLY_WITHIN_S)
        self._proxy.cut_now(None if cut.everything else self)
        self._proxy.thawed.set()
