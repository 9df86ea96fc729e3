"""Who answers commands in this process."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple


class Node(NamedTuple):
    """Someone who answers, on a loop of its own."""

    name: str
    loop: asyncio.AbstractEventLoop
    answer: Callable[[str, bytes], bytes]


class Nodes:
    """Those who listen now."""

    def __init__(self) -> None:
        self._nodes: set[Node] = set()

    @contextmanager
    def listening(self, name: str, answer: Callable[[str, bytes], bytes]) -> Iterator[None]:
        """Call `answer` on the running loop with each command for `name` and its arguments, while this is open."""
        node = Node(name, asyncio.get_running_loop(), answer)
        self._nodes.add(node)
        try:
            yield
        finally:
            self._nodes.discard(node)

    async def ask(
        self, command: str, arguments: bytes, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, bytes]:
        """Return the answers by name of those in `destination` (None: of all) that come within `timeout` seconds."""
        asked = [
            node
            for node in tuple(self._nodes)
            if (destination is None or node.name in destination) and not node.loop.is_closed()
        ]
        answers = {
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_answer(node, command, arguments), node.loop)): node
            for node in asked
        }
        if not answers:
            return {}
        done, _ = await asyncio.wait(answers, timeout=timeout)
        return {answers[answer].name: answer.result() for answer in done}


async def _answer(node: Node, command: str, arguments: bytes) -> bytes:
    return node.answer(command, arguments)
