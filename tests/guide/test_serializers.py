"""Arguments and results can travel in another format than JSON; whoever reads says what it accepts."""

import dataclasses
import enum
import json
import pickle
from ast import literal_eval
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from aiotask import (
    AioTask,
    ArgumentError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    ImproperlyConfigured,
    register_serializer,
)
from aiotask.message import DeadLetter, TaskMessage
from aiotask.outcome import TaskMeta

Post = Callable[..., Awaitable[str]]
DeadLetters = Callable[[], Awaitable[list[DeadLetter]]]


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Colour(enum.Enum):
    RED = "red"


@pytest.fixture
def kind(app: AioTask) -> Any:
    """Tells what arrives."""

    @app.task(name="proj.kind")
    async def kind(value: Any, *rest: Any, **named: Any) -> str:
        return repr((value, *rest, *named.items()))

    return kind


# Naming a serializer


@pytest.mark.parametrize("name", ["pickle", "msgpack", "application/x-python-serialize"])
async def test_arguments_go_as_the_call_says(app: AioTask, kind: Any, name: str) -> None:
    app.conf.accept_content = ["json", "pickle", "msgpack"]
    async with app.worker():
        result = await kind.apply_async((b"\xff", date(2026, 3, 1)), {"k": [None]}, serializer=name)
        assert await result.get(timeout=10) == repr((b"\xff", date(2026, 3, 1), ("k", [None])))


async def test_arguments_go_as_the_task_says(app: AioTask) -> None:
    app.conf.accept_content = ["json", "pickle"]

    @app.task(serializer="pickle")
    async def kind(value: Any) -> str:
        return repr(value)

    assert kind.serializer == "pickle"
    async with app.worker():
        assert await (await kind.delay({1, 2})).get(timeout=10) == "{1, 2}"
        assert await (await kind.apply_async(({1},), serializer="json")).get(timeout=10) == "[1]"
        assert [await one for one in await kind.send_many([((1, 2),), (1j,)])] == ["(1, 2)", "1j"]


async def test_arguments_go_as_the_setting_says(app: AioTask, kind: Any) -> None:
    app.conf.update(accept_content=["pickle"], result_accept_content=["json"], task_serializer="pickle")
    assert kind.serializer == "pickle"
    async with app.worker():
        assert await (await kind.delay((1, 2))).get(timeout=10) == "((1, 2),)"
        assert await (await app.send_task("proj.kind", ((1, 2),))).get(timeout=10) == "((1, 2),)"


async def test_arguments_of_a_class_s_task_go_as_its_attribute_says(app: AioTask) -> None:
    app.conf.accept_content = ["json", "pickle"]

    class Kind(app.Task):
        serializer = "pickle"

        async def run(self, value: Any) -> str:
            return repr(value)

    async with app.worker():
        assert await (await app.tasks[Kind.name].delay((1,))).get(timeout=10) == "(1,)"


@pytest.mark.parametrize("name", ["pickle", "msgpack"])
async def test_arguments_arrive_as_they_are_annotated(app: AioTask, name: str) -> None:
    app.conf.accept_content = ["json", name]

    @app.task(serializer=name)
    async def typed(point: Point, points: list[Point], colour: Colour, days: set[date], pair: tuple[int, str]) -> str:
        return repr((point, points, colour, days, pair))

    sent = (Point(1, 2), [Point(3, 4)], Colour.RED, {date(2026, 3, 1)}, (1, "a"))
    async with app.worker():
        assert await (await typed.delay(*sent)).get(timeout=10) == repr(sent)


@pytest.mark.parametrize("name", ["pickle", "msgpack"])
async def test_arguments_that_do_not_convert_fail_the_task(app: AioTask, name: str) -> None:
    app.conf.accept_content = ["json", name]

    @app.task(typing=False, serializer=name)
    async def typed(point: Point) -> None: ...

    async with app.worker():
        with pytest.raises(ArgumentError, match="`point`"):
            await (await typed.delay("no point")).get(timeout=10)


async def test_retry_goes_as_the_first_time(app: AioTask, kind: Any) -> None:
    app.conf.accept_content = ["json", "pickle"]
    seen: list[Any] = []

    @app.task(bind=True, default_retry_delay=0)
    async def again(self: Any, value: Any) -> None:
        seen.append((value, self.request.properties["content_type"]))
        if self.request.retries == 0:
            raise self.retry()
        if self.request.retries == 1:
            raise self.retry(args=((3, 4),))

    async with app.worker():
        await (await again.apply_async(((1, 2),), serializer="pickle", compression="gzip")).get(timeout=10)
    pickled = "application/x-python-serialize"
    assert seen == [((1, 2), pickled), ((1, 2), pickled), ((3, 4), pickled)]


async def test_eager_call_takes_its_arguments_through_the_serializer(app: AioTask) -> None:
    app.conf.accept_content = ["json", "pickle"]

    @app.task(bind=True, default_retry_delay=0, serializer="pickle")
    async def kind(self: Any, value: Any) -> str:
        if self.request.retries == 0:
            raise self.retry(args=([value],))
        return repr(value)

    assert await (await kind.apply(((1, 2),))).get() == "[(1, 2)]"


async def test_eager_call_fails_as_a_worker_would_when_the_content_is_not_accepted(app: AioTask, kind: Any) -> None:
    result = await kind.apply(("x",), serializer="pickle")
    with pytest.raises(ContentDisallowed, match="accept_content allows json"):
        await result.get()


# Refusing


async def test_unknown_name_is_refused_before_anything_is_sent(app: AioTask, kind: Any, depth: Any) -> None:
    for send in (kind.apply_async(("x",), serializer="yaml"), kind.send_many([("x",)], serializer="yaml")):
        with pytest.raises(ImproperlyConfigured) as raised:
            await send
        assert "There is no serializer 'yaml'; there are " in str(raised.value)
        assert "aiotask.register_serializer(" in str(raised.value)
    assert (await depth()).ready == 0


@pytest.mark.parametrize("name", ["", 5, b"json"])
async def test_name_that_is_none_is_refused(app: AioTask, kind: Any, name: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="serializer is "):
        await kind.apply_async(("x",), serializer=name)
    with pytest.raises(ImproperlyConfigured, match="option 'serializer' is "):
        app.task(serializer=name, name="proj.t")(lambda: None)


async def test_argument_that_can_not_be_pickled_is_named(app: AioTask, kind: Any) -> None:
    with pytest.raises(EncodeError, match=r"^proj\.kind: Can't pickle args\[1\]: "):
        await kind.apply_async((1, lambda: None), serializer="pickle")


async def test_worker_dead_letters_what_it_does_not_accept(
    app: AioTask, kind: Any, dead_letters: DeadLetters, tmp_path: Path
) -> None:
    async with app.worker():
        result = await kind.apply_async((Bomb(tmp_path),), serializer="pickle")
        with pytest.raises(ContentDisallowed, match=r"\(pickle\) is refused: accept_content allows json"):
            await result.get(timeout=10)
        assert await (await kind.delay(1)).get(timeout=10) == "(1,)"
    [letter] = await dead_letters()
    assert (letter.id, letter.reason) == (result.id, "ContentDisallowed")
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return (Path.touch, (self.folder / "exploded",))


@pytest.mark.parametrize("how", ["application/json", "application/x-msgpack", "application/x-unheard-of"])
async def test_pickle_is_not_read_whatever_a_message_calls_it(
    app: AioTask, kind: Any, post: Post, dead_letters: DeadLetters, tmp_path: Path, how: str
) -> None:
    app.conf.accept_content = ["json", "msgpack"]
    payload = pickle.dumps([[Bomb(tmp_path)], {}])
    async with app.worker():
        await post(TaskMessage("proj.kind", "id-1", payload, content_type=how))
        with pytest.raises((DecodeError, ContentDisallowed)):
            await app.result("id-1").get(timeout=10)
    assert len(await dead_letters()) == 1
    assert not (tmp_path / "exploded").exists()


async def test_content_is_refused_before_it_is_decompressed(
    app: AioTask, kind: Any, post: Post, dead_letters: DeadLetters
) -> None:
    message = TaskMessage("proj.kind", "id-1", b"x", content_type="application/x-python-serialize")
    message.compression = "application/x-gzip"
    async with app.worker():
        await post(message)
        with pytest.raises(ContentDisallowed):
            await app.result("id-1").get(timeout=10)


@pytest.mark.parametrize("payload", [5, [], [[], {}, None], [{}, []], ((), [])])
async def test_pickle_that_is_no_call_is_dead_lettered(
    app: AioTask, kind: Any, post: Post, dead_letters: DeadLetters, payload: Any
) -> None:
    app.conf.accept_content = ["json", "pickle"]
    message = TaskMessage("proj.kind", "id-1", pickle.dumps(payload), content_type="application/x-python-serialize")
    async with app.worker():
        await post(message)
        with pytest.raises(DecodeError, match="no pair of a list of arguments and a mapping"):
            await app.result("id-1").get(timeout=10)


async def test_pickled_call_of_tuples_is_one(app: AioTask, kind: Any, post: Post) -> None:
    app.conf.accept_content = ["json", "pickle"]
    message = TaskMessage("proj.kind", "id-1", pickle.dumps(((1,), {})), content_type="application/x-python-serialize")
    async with app.worker():
        await post(message)
        assert await app.result("id-1").get(timeout=10) == "(1,)"


# Registering


async def test_registered_serializer_is_used_by_name(app: AioTask, kind: Any) -> None:
    register_serializer("tests.python", repr, literal_eval, content_type="text/x-python")
    app.conf.accept_content = ["json", "tests.python"]
    async with app.worker():
        result = await kind.apply_async(((1, {2}),), serializer="tests.python")
        assert await result.get(timeout=10) == "((1, {2}),)"


async def test_content_type_is_accepted_as_well_as_the_name(app: AioTask, kind: Any) -> None:
    register_serializer("tests.typed", json.dumps, json.loads, content_type="application/x-tests-typed")
    app.conf.accept_content = ["json", "application/x-tests-typed"]
    async with app.worker():
        assert await (await kind.apply_async((1,), serializer="tests.typed")).get(timeout=10) == "(1,)"


async def test_failing_encode_is_told_to_the_caller(app: AioTask, kind: Any) -> None:
    register_serializer("tests.picky", json.dumps, json.loads, content_type="application/x-tests-picky")
    with pytest.raises(EncodeError) as raised:
        await kind.apply_async(({"a": object()},), serializer="tests.picky")
    assert str(raised.value).startswith("proj.kind: The serializer 'tests.picky' can't encode args[0].a: TypeError: ")


async def test_failing_decode_dead_letters_the_message(app: AioTask, kind: Any, dead_letters: DeadLetters) -> None:
    def fail(text: str) -> Any:
        raise RuntimeError("not today")

    register_serializer("tests.failing", json.dumps, fail, content_type="application/x-tests-failing")
    app.conf.accept_content = ["json", "tests.failing"]
    async with app.worker():
        result = await kind.apply_async((1,), serializer="tests.failing")
        with pytest.raises(
            DecodeError, match=r"The serializer 'tests.failing' can't decode .*: RuntimeError: not today"
        ):
            await result.get(timeout=10)
    assert [letter.reason for letter in await dead_letters()] == ["DecodeError"]


# Results


@pytest.mark.parametrize(("name", "back"), [("pickle", (Point(1, 2), {3})), ("msgpack", [{"x": 1, "y": 2}, [3]])])
async def test_result_goes_as_the_setting_says(app: AioTask, name: str, back: Any) -> None:
    app.conf.update(result_serializer=name, accept_content=["json", name])

    @app.task
    async def produce() -> Any:
        return Point(1, 2), {3}

    async with app.worker():
        result = await produce.delay()
        assert await result.get(timeout=10) == back
        assert (await app.result(result.id).meta()).result == back
        assert [meta.result async for meta in app.result(result.id).updates()] == [back]


@pytest.mark.parametrize("name", ["pickle", "msgpack"])
async def test_result_comes_back_as_it_is_annotated(app: AioTask, name: str) -> None:
    app.conf.update(result_serializer=name, accept_content=["json", name])

    @app.task
    async def produce() -> list[Point]:
        return [Point(1, 2)]

    async with app.worker():
        assert await (await produce.delay()).get(timeout=10) == [Point(1, 2)]


async def test_result_format_is_no_matter_of_the_task_s_serializer(app: AioTask) -> None:
    app.conf.accept_content = ["json", "pickle"]

    @app.task(serializer="pickle")
    async def produce() -> Any:
        return (1, 2)

    async with app.worker():
        assert await (await produce.delay()).get(timeout=10) == [1, 2]


async def test_state_s_meta_goes_as_the_setting_says(app: AioTask) -> None:
    app.conf.update(result_serializer="pickle", accept_content=["json", "pickle"])
    seen: list[TaskMeta] = []

    @app.task(bind=True, track_started=True)
    async def working(self: Any) -> None:
        done = {1}
        self.update_state("PROGRESS", {"done": done})
        done.add(2)
        async for meta in app.result(self.request.id).updates():
            if meta.state == "PROGRESS":
                seen.append(meta)
                return

    async with app.worker():
        await (await working.delay()).get(timeout=10)
    assert seen[0].result == {"done": {1}}


async def test_failure_is_read_whatever_the_format(app: AioTask) -> None:
    app.conf.update(result_serializer="pickle", result_accept_content=["pickle"])

    @app.task(throws=ValueError)
    async def fail() -> None:
        raise ValueError("why", 5)

    async with app.worker():
        with pytest.raises(ValueError) as raised:
            await (await fail.delay()).get(timeout=10)
    assert raised.value.args == ("why", 5)


async def test_result_is_not_read_when_its_format_is_not_accepted(app: AioTask, tmp_path: Path) -> None:
    app.conf.result_serializer = "pickle"

    @app.task
    async def produce() -> Any:
        return Bomb(tmp_path)

    async with app.worker():
        result = await produce.delay()
        with pytest.raises(ContentDisallowed, match=r"\(pickle\) is refused: accept_content allows json"):
            await result.get(timeout=10)
        assert await result.state() == "SUCCESS"
        app.conf.result_accept_content = ["msgpack"]
        for ask in (result.get(), result.meta(), result.info(), app.result(result.id).get(timeout=10)):
            with pytest.raises(ContentDisallowed, match="result_accept_content allows msgpack"):
                await ask
    assert not (tmp_path / "exploded").exists()


async def test_json_result_is_not_read_when_only_another_format_is_accepted(app: AioTask, kind: Any) -> None:
    app.conf.result_accept_content = ["pickle"]
    async with app.worker():
        result = await kind.delay(1)
        with pytest.raises(ContentDisallowed, match="result_accept_content allows pickle"):
            await result.get(timeout=10)
        app.conf.result_accept_content = ["json"]
        assert await result.get() == "(1,)"


async def test_task_can_not_name_pickle_in_what_it_returns(app: AioTask, kind: Any, tmp_path: Path) -> None:
    app.conf.accept_content = ["json", "pickle"]
    body = {"content_type": "application/x-python-serialize", "compression": None, "data": "gASVAAAAAAAAAA=="}

    @app.task
    async def echo(value: Any) -> Any:
        return value

    async with app.worker():
        for sent in ({"packed": body}, {"__type__": "packed", "__value__": body}):
            assert await (await echo.delay(sent)).get(timeout=10) == sent


async def test_result_that_can_not_be_serialised_fails_its_task(app: AioTask) -> None:
    app.conf.update(result_serializer="pickle", accept_content=["json", "pickle"])

    @app.task
    async def produce() -> Any:
        return [lambda: None]

    async with app.worker():
        with pytest.raises(EncodeError, match=r"Can't pickle \$\[0\]: "):
            await (await produce.delay()).get(timeout=10)


async def test_worker_does_not_start_when_the_result_s_format_is_unknown(app: AioTask) -> None:
    app.conf.result_serializer = "yaml"
    with pytest.raises(ImproperlyConfigured, match="There is no serializer 'yaml'"):
        async with app.worker():
            pass


async def test_extended_result_has_the_arguments_whatever_their_format(app: AioTask, kind: Any) -> None:
    app.conf.update(accept_content=["json", "pickle"], result_extended=True)
    async with app.worker():
        result = await kind.apply_async(({1}, 1j, b"x"), {"k": Point(1, 2)}, serializer="pickle", compression="gzip")
        await result.get(timeout=10)
        meta = await result.meta()
    # What the row can't carry as a value is its repr.
    assert meta.args == [[1], "1j", b"x"]
    assert meta.kwargs == {"k": {"x": 1, "y": 2}}
