"""The clauses of `aiotask.protocols.RemoteControlled`. A node may begin to listen a moment after it was told to."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final, cast

from aiotask.exceptions import BrokerError
from aiotask.message import new_id
from aiotask.protocols import Answering, RemoteControlled
from aiotask.testing.harness import BrokerHarness, RemoteBroker

PLAIN: Final[dict[str, Any]] = {
    "text": "ü 'quoted' \x00",
    "numbers": [0, -1, 1.5, 2**40],
    "nothing": None,
    "yes": True,
    "nested": {"list": [{}, []]},
}

_NEVER_S: Final = 3600.0
"""A timeout that would be a failure to reach."""

_HEARD_S: Final = 0.1
"""How long an ask waits that is repeated until it is answered."""


async def _broker(harness: BrokerHarness) -> RemoteBroker:
    broker = await harness.broker()
    assert isinstance(broker, RemoteControlled), "it has no answering() and ask()"
    return cast("RemoteBroker", broker)


async def _ask(harness: BrokerHarness, command: str, *destination: str, timeout: float = _NEVER_S) -> dict[str, Any]:
    """Ask by a broker of its own."""
    broker = await _broker(harness)
    return await harness.soon(broker.ask(command, {}, destination=list(destination) or None, timeout=timeout))


def _node() -> str:
    return f"nöde-{new_id()[-8:]}@host"


async def _listen(harness: BrokerHarness, node: str, commands: Mapping[str, Answering] | None = None) -> None:
    """Answer `commands` as `node` until the harness is closed; return when it listens."""
    broker = await _broker(harness)
    await harness.entered(broker.answering(node, {"ping": _pong, **(commands or {})}))
    await _is_heard(harness, node)


async def _is_heard(harness: BrokerHarness, node: str) -> None:
    broker = await _broker(harness)

    async def answers() -> bool:
        return bool(await broker.ask("ping", {}, destination=[node], timeout=_HEARD_S))

    await harness.until(answers, f"an answer of {node}")


def _pong(_: Mapping[str, Any]) -> Any:
    return "pong"


async def answer_comes_by_the_nodes_name_when_it_is_asked(harness: BrokerHarness) -> None:
    """The answer of a node that is named comes under its name, as soon as it is there."""
    node = _node()
    await _listen(harness, node)
    assert await _ask(harness, "ping", node) == {node: "pong"}


async def values_are_unchanged_when_they_are_plain(harness: BrokerHarness) -> None:
    """Arguments reach the command as they are, and its answer comes as it is."""
    node, heard = _node(), list[Any]()

    def echo(arguments: Mapping[str, Any]) -> Any:
        heard.append(dict(arguments))
        return arguments["nested"]

    await _listen(harness, node, {"echo": echo})
    broker = await _broker(harness)
    answers = await harness.soon(broker.ask("echo", PLAIN, destination=[node], timeout=_NEVER_S))
    assert heard == [PLAIN], heard
    assert answers == {node: PLAIN["nested"]}, answers


async def all_answer_when_none_is_named(harness: BrokerHarness) -> None:
    """Without a destination every node is asked."""
    first, second = _node(), _node()
    await _listen(harness, first)
    await _listen(harness, second)
    answers = await _ask(harness, "ping", timeout=harness.patience / 2)
    assert answers == {first: "pong", second: "pong"}, answers


async def others_are_not_asked_when_one_is_named(harness: BrokerHarness) -> None:
    """Who is not in `destination` does not carry out the command."""
    named, other, heard = _node(), _node(), list[str]()

    def hears(node: str) -> dict[str, Answering]:
        return {"hear": lambda _: heard.append(node)}

    await _listen(harness, other, hears(other))
    await _listen(harness, named, hears(named))
    assert await _ask(harness, "hear", named) == {named: None}
    await _is_heard(harness, other)
    assert heard == [named], heard


async def error_is_answered_when_the_command_is_unknown(harness: BrokerHarness) -> None:
    """A command that a node does not know is answered by an error that names it."""
    node = _node()
    await _listen(harness, node)
    answers = await _ask(harness, "no_such_command", node)
    assert list(answers) == [node]
    assert list(answers[node]) == ["error"], answers
    assert "no_such_command" in answers[node]["error"]


async def error_is_answered_when_the_command_raises(harness: BrokerHarness) -> None:
    """A command that raises is answered by an error that says so, and the next one is answered."""
    node = _node()

    def fail(_: Mapping[str, Any]) -> Any:
        raise ValueError("of this")

    await _listen(harness, node, {"fail": fail})
    answers = await _ask(harness, "fail", node)
    assert list(answers) == [node]
    assert list(answers[node]) == ["error"], answers
    assert "of this" in answers[node]["error"]
    assert await _ask(harness, "ping", node) == {node: "pong"}


async def node_goes_on_when_an_answer_is_not_plain(harness: BrokerHarness) -> None:
    """Whatever a command returns, the node goes on to answer."""
    node = _node()
    await _listen(harness, node, {"odd": lambda _: {"odd": object()}})
    await _ask(harness, "odd", node, timeout=harness.quiet)
    await _is_heard(harness, node)


async def answers_that_came_are_returned_when_the_time_is_over(harness: BrokerHarness) -> None:
    """Who does not answer is not in the answers; it is not waited for beyond `timeout`."""
    node, nobody = _node(), _node()
    await _listen(harness, node)
    broker = await _broker(harness)
    begun = time.monotonic()
    answers = await broker.ask("ping", {}, destination=[node, nobody], timeout=0.5)
    took = time.monotonic() - begun
    assert answers == {node: "pong"}, answers
    assert took < 0.5 + harness.patience, f"took {took:.3f} s"


async def nothing_is_returned_when_nobody_listens(harness: BrokerHarness) -> None:
    """Where nobody listens there are no answers, and no error."""
    assert await _ask(harness, "ping", timeout=harness.quiet) == {}


async def nothing_is_returned_when_the_node_has_left(harness: BrokerHarness) -> None:
    """A node answers for as long as its context is open."""
    node, broker = _node(), await _broker(harness)
    async with broker.answering(node, {"ping": _pong}):
        await _is_heard(harness, node)
    assert await _ask(harness, "ping", node, timeout=harness.quiet) == {}


async def node_answers_when_it_has_come_back(harness: BrokerHarness) -> None:
    """A node that has left may listen again under its name, on the same broker."""
    node, broker = _node(), await _broker(harness)
    for _ in range(2):
        async with broker.answering(node, {"ping": _pong}):
            await _is_heard(harness, node)


async def all_hear_it_when_they_share_a_name(harness: BrokerHarness) -> None:
    """Of several nodes of one name all carry out the command, and one's answer is returned."""
    node, heard = _node(), list[int]()
    await _listen(harness, node, {"hear": lambda _: heard.append(0)})
    await _listen(harness, node, {"hear": lambda _: heard.append(1)})

    async def both_hear() -> bool:
        heard.clear()
        assert await _ask(harness, "hear", node) == {node: None}
        await _is_heard(harness, node)
        return sorted(heard) == [0, 1]

    await harness.until(both_hear, "both nodes of one name hear a command")


async def each_gets_its_own_answer_when_many_ask(harness: BrokerHarness) -> None:
    """Who asks at the same time as others gets the answer to what it has asked."""
    node = _node()
    await _listen(harness, node, {"echo": lambda arguments: arguments["n"]})
    broker, other = await _broker(harness), await _broker(harness)
    asked = [
        asker.ask("echo", {"n": n}, destination=[node], timeout=_NEVER_S)
        for n, asker in enumerate([broker, other, broker] * 7)
    ]
    assert await harness.soon(asyncio.gather(*asked)) == [{node: n} for n in range(len(asked))]


async def command_is_carried_out_once_when_it_is_asked_once(harness: BrokerHarness) -> None:
    """What is asked once is carried out once by a node that listens, however many questions there are."""
    node, heard = _node(), list[int]()
    await _listen(harness, node, {"count": lambda arguments: heard.append(arguments["n"])})
    broker = await _broker(harness)
    for n in range(10):
        await harness.soon(broker.ask("count", {"n": n}, destination=[node], timeout=_NEVER_S))
    await _is_heard(harness, node)
    assert heard == list(range(10)), heard


async def node_answers_when_its_own_broker_asks(harness: BrokerHarness) -> None:
    """A process may ask the node that it is itself."""
    node, broker = _node(), await _broker(harness)
    await harness.entered(broker.answering(node, {"ping": _pong}))
    await _is_heard(harness, node)
    assert await harness.soon(broker.ask("ping", {}, destination=[node], timeout=_NEVER_S)) == {node: "pong"}


async def error_is_raised_when_a_closed_broker_asks(harness: BrokerHarness) -> None:
    """A closed broker raises a `BrokerError`: no answer is no sign that nobody is there."""
    broker = await _broker(harness)
    await broker.close()
    try:
        await broker.ask("ping", {}, destination=None, timeout=harness.quiet)
    except BrokerError:
        return
    raise AssertionError("ask() of a closed broker did not raise a BrokerError")


CLAUSES: Final = (
    answer_comes_by_the_nodes_name_when_it_is_asked,
    values_are_unchanged_when_they_are_plain,
    all_answer_when_none_is_named,
    others_are_not_asked_when_one_is_named,
    error_is_answered_when_the_command_is_unknown,
    error_is_answered_when_the_command_raises,
    node_goes_on_when_an_answer_is_not_plain,
    answers_that_came_are_returned_when_the_time_is_over,
    nothing_is_returned_when_nobody_listens,
    nothing_is_returned_when_the_node_has_left,
    node_answers_when_it_has_come_back,
    all_hear_it_when_they_share_a_name,
    each_gets_its_own_answer_when_many_ask,
    command_is_carried_out_once_when_it_is_asked_once,
    node_answers_when_its_own_broker_asks,
    error_is_raised_when_a_closed_broker_asks,
)
