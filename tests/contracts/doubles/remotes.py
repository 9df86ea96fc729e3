"""Doubles for `remote_contract`."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

from aiotask.brokers.memory import MemoryBroker
from aiotask.protocols import Answering
from aiotask.testing import remote_contract as c
from aiotask.wire.commands import carry_out

from .registry import breaks


class Asking(MemoryBroker):
    """Asks otherwise."""

    async def asked(
        self, command: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        return await super().ask(command, arguments, destination=destination, timeout=timeout)

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        return await self.asked(command, arguments, destination, timeout)


@breaks(c.answer_comes_by_the_nodes_name_when_it_is_asked)
class NamesOnlyTheHost(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        return {node.partition("@")[2]: answer for node, answer in (await super().asked(*args)).items()}


@breaks(c.answer_comes_by_the_nodes_name_when_it_is_asked)
class WaitsItsTime(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        answers = await super().asked(*args)
        await asyncio.sleep(args[-1])
        return answers


@breaks(c.values_are_unchanged_when_they_are_plain)
class SendsTexts(Asking):
    async def asked(self, command: str, arguments: Mapping[str, Any], *args: Any) -> dict[str, Any]:
        texts = {name: value if name == "nested" else str(value) for name, value in arguments.items()}
        return await super().asked(command, texts, *args)


@breaks(c.values_are_unchanged_when_they_are_plain)
class ReturnsTexts(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        return {node: str(answer) for node, answer in (await super().asked(*args)).items()}


@breaks(c.all_answer_when_none_is_named)
class ReturnsTheFirst(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        return dict(list((await super().asked(*args)).items())[:1])


@breaks(c.others_are_not_asked_when_one_is_named)
class AsksAll(Asking):
    async def asked(
        self, command: str, arguments: Mapping[str, Any], destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        answers = await super().asked(command, arguments, None, timeout)
        return {node: answer for node, answer in answers.items() if destination is None or node in destination}


@breaks(c.error_is_answered_when_the_command_is_unknown)
class KnowsEveryCommand(MemoryBroker):
    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        async with super().answering(node, defaultdict(lambda: lambda _: {}, commands)):
            yield


class Quitting(MemoryBroker):
    """Leaves after an answer that it can't bear."""

    unbearable = b""

    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        with ExitStack() as stack:

            def answer(command: str, arguments: bytes) -> bytes:
                answer = carry_out(commands, command, arguments)
                if self.unbearable in answer:
                    stack.close()
                return answer

            stack.enter_context(self.link.nodes.listening(node, answer))
            yield


@breaks(c.error_is_answered_when_the_command_raises)
class LeavesWhenACommandRaises(Quitting):
    unbearable = b"of this"


@breaks(c.error_is_answered_when_the_command_raises)
class HidesWhatWasRaised(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        answers = await super().asked(*args)
        return {node: {"error": ""} if "error" in answer else answer for node, answer in answers.items()}


@breaks(c.node_goes_on_when_an_answer_is_not_plain)
class LeavesWhenAnAnswerIsNotPlain(Quitting):
    unbearable = b"<object"


@breaks(c.answers_that_came_are_returned_when_the_time_is_over)
class ReturnsAllOrNothing(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        answers = await super().asked(*args)
        return answers if answers.keys() == set(args[2] or ()) else {}


@breaks(c.answers_that_came_are_returned_when_the_time_is_over)
class WaitsLonger(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        answers = await super().asked(*args)
        if answers.keys() != set(args[2] or ()):
            await asyncio.sleep(args[3] * 3)
        return answers


@breaks(c.nothing_is_returned_when_nobody_listens)
class AnswersForOthers(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        return await super().asked(*args) or {"nobody@host": "pong"}


@breaks(c.nothing_is_returned_when_the_node_has_left)
class NeverLeaves(MemoryBroker):
    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        listening = self.link.nodes.listening(node, partial(carry_out, commands))
        listening.__enter__()
        yield
        self.still_listening = listening  # or it would be collected, and so be left


@breaks(c.node_answers_when_it_has_come_back)
class UsesANameOnce(MemoryBroker):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.used = set[str]()

    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        name = f"{node}-again" if node in self.used else node
        self.used.add(node)
        async with super().answering(name, commands):
            yield


@breaks(c.all_hear_it_when_they_share_a_name)
class GivesANameToOne(MemoryBroker):
    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        taken = any(other.name == node for other in self.link.nodes._nodes)
        async with super().answering(f"{node}-2" if taken else node, commands):
            yield


@breaks(c.each_gets_its_own_answer_when_many_ask)
class MixesWhatIsAsked(Asking):
    async def asked(self, command: str, arguments: Mapping[str, Any], *args: Any) -> dict[str, Any]:
        self.arguments = arguments
        await asyncio.sleep(0)
        return await super().asked(command, self.arguments, *args)


@breaks(c.command_is_carried_out_once_when_it_is_asked_once)
class AsksTwice(Asking):
    async def asked(self, *args: Any) -> dict[str, Any]:
        await super().asked(*args)
        return await super().asked(*args)


@breaks(c.node_answers_when_its_own_broker_asks)
class AsksOthersOnly(MemoryBroker):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.own = set[str]()

    @asynccontextmanager
    async def answering(self, node: str, commands: Mapping[str, Answering]) -> AsyncIterator[None]:
        self.own.add(node)
        async with super().answering(node, commands):
            yield

    async def ask(
        self, command: str, arguments: Mapping[str, Any], *, destination: Sequence[str] | None, timeout: float
    ) -> dict[str, Any]:
        answers = await super().ask(command, arguments, destination=destination, timeout=timeout)
        return {node: answer for node, answer in answers.items() if node not in self.own}


@breaks(c.error_is_raised_when_a_closed_broker_asks)
class AsksWhenItIsClosed(MemoryBroker):
    def _must_be_open(self) -> None:
        pass
