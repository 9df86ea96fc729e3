"""Arguments are checked where the call is made, and arrive as the types that the function names."""

import dataclasses
import enum
import math
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest

from aiotask import AioTask, ArgumentError, EncodeError, TaskMeta
from aiotask.message import QueueDepth, TaskMessage


class Size(enum.Enum):
    SMALL = "small"


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Parcel(msgspec.Struct):
    to: Point
    size: Size


class Address(TypedDict):
    street: str
    since: date


@dataclasses.dataclass
class Reading:
    value: float
    more: Any


class Report(TypedDict):
    reading: Reading


class Sample(pydantic.BaseModel):
    held: float


class Customer(pydantic.BaseModel):
    id: UUID
    name: str


CUSTOMER = Customer(id=UUID(int=1), name="George")


async def test_arguments_arrive_as_the_annotated_types(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task
    async def ship(
        parcel: Parcel,
        customer: Customer,
        address: Address,
        *points: Point,
        when: datetime,
        tags: set[str],
        **prices: Decimal,
    ) -> None:
        seen.extend([parcel, customer, address, points, when, tags, prices])

    moment = datetime(2026, 3, 1, tzinfo=UTC)
    parcel, address = Parcel(Point(1, 2), Size.SMALL), Address(street="Main", since=date(2020, 1, 1))
    async with app.worker():
        result = await ship.delay(
            parcel, CUSTOMER, address, Point(1, 1), Point(2, 2), when=moment, tags={"a", "b"}, net=Decimal("1.10")
        )
        await result.get(timeout=10)
    assert seen == [parcel, CUSTOMER, address, (Point(1, 1), Point(2, 2)), moment, {"a", "b"}, {"net": Decimal("1.10")}]


async def test_arguments_without_annotations_keep_the_types_that_celery_s_json_keeps(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task
    async def take(*args, **kwargs):  # type: ignore[no-untyped-def]
        seen.append((args, kwargs))

    sent = (
        datetime(2026, 3, 1, tzinfo=UTC),
        date(2026, 3, 1),
        UUID(int=1),
        Decimal("1.1"),
        b"\xff",
        {"n": [None, 1.5]},
    )
    async with app.worker():
        await (await take.delay(*sent, raw=b"")).get(timeout=10)
    assert seen == [(sent, {"raw": b""})]


async def test_values_in_fields_arrive_as_they_do_by_themselves(app: AioTask) -> None:
    seen: list[Any] = []

    @app.task
    async def measure(reading: Reading, report: Report, model: Sample, plain=None) -> Reading:  # type: ignore[no-untyped-def]
        seen.extend([reading, report, model, plain])
        return reading

    moment = datetime(2026, 3, 1, tzinfo=UTC)
    of_any_type = [moment, date(2026, 3, 1), UUID(int=1), Decimal("1.1"), b"\xff", float("-inf"), {"n": [None, 1.5]}]
    sent = Reading(float("inf"), of_any_type), Report(reading=Reading(float("-inf"), moment)), Sample(held=float("inf"))
    async with app.worker():
        result = await measure.delay(*sent, plain=Reading(0.5, of_any_type))
        assert await result.get(timeout=10) == sent[0]
        assert seen == [*sent, {"value": 0.5, "more": of_any_type}]
        await (await measure.delay(Reading(float("nan"), None), *sent[1:])).get(timeout=10)
    assert math.isnan(seen[4].value)


ANNOTATED: list[tuple[Any, Any]] = [
    (int, 5),
    (float, 1.5),
    (bool, True),
    (str, "größe"),
    (bytes, b"\xff"),
    (datetime, datetime(2026, 3, 1, tzinfo=UTC)),
    (date, date(2026, 3, 1)),
    (time, time(12, 30)),
    (timedelta, timedelta(days=1, seconds=0.5)),
    (UUID, UUID(int=1)),
    (Decimal, Decimal("1.10")),
    (Size, Size.SMALL),
    (set[str], {"a"}),
    (frozenset[int], frozenset({1, 2})),
    (tuple[int, str], (1, "a")),
    (list[Point], [Point(1, 2)]),
    (dict[str, Parcel], {"a": Parcel(Point(1, 2), Size.SMALL)}),
    (dict[int, date], {1: date(2026, 3, 1)}),
    (Address, {"street": "Main", "since": date(2020, 1, 1)}),
    (Point | None, Point(1, 2)),
    (Point | None, None),
    (Literal["a", "b"], "b"),
    (Customer, Customer(id=UUID(int=1), name="George")),
    (list[Customer], [Customer(id=UUID(int=1), name="George")]),
]


@pytest.mark.parametrize(("annotation", "value"), ANNOTATED, ids=lambda case: str(case)[:30])
async def test_value_arrives_as_the_annotated_type_as_an_argument_and_as_a_result(
    app: AioTask, annotation: Any, value: Any
) -> None:
    seen: list[Any] = []

    async def echo(value):  # type: ignore[no-untyped-def]
        seen.append(value)
        return value

    echo.__annotations__ = {"value": annotation, "return": annotation}
    task = app.task(name="proj.echo")(echo)
    async with app.worker():
        back = await (await task.delay(value)).get(timeout=10)
    for arrived in (seen[0], back):
        assert arrived == value
        assert type(arrived) is type(value)


async def test_bool_fits_an_int(app: AioTask) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        assert await (await add.delay(True, 2)).get(timeout=10) == 3


async def test_instance_of_the_annotated_class_is_trusted_where_it_is_sent_and_checked_where_it_arrives(
    app: AioTask,
) -> None:
    @app.task(name="proj.move")
    async def move(to: Point) -> None: ...

    wrong: Any = "not a number"
    async with app.worker():
        result = await move.delay(Point(wrong, 2))
        with pytest.raises(ArgumentError, match=r"proj\.move: argument `to\.x`: Expected `int`, got `str`"):
            await result.get(timeout=10)


class Opaque:
    """Nothing that could be made of a message."""


async def test_argument_of_a_class_that_values_can_not_be_made_of_arrives_as_it_was_sent(app: AioTask) -> None:
    @app.task
    async def take(one: Opaque, other: Opaque | int) -> list[str]:
        return [type(one).__name__, type(other).__name__]

    plain: Any = {"a": 1}
    async with app.worker():
        assert await (await take.delay(plain, plain)).get(timeout=10) == ["dict", "dict"]


async def test_result_is_the_annotated_type_where_the_task_is_known_and_plain_elsewhere(app: AioTask) -> None:
    @app.task
    async def find() -> Customer:
        return CUSTOMER

    async with app.worker():
        result = await find.delay()
        assert await result.get(timeout=10) == CUSTOMER
        assert (await app.result(result.id).meta()).result == CUSTOMER
        elsewhere = AioTask("web", broker="memory://")
        [meta] = await app.backend.fetch([result.id])
        assert isinstance(meta, TaskMeta)
        assert meta.result == {"id": str(CUSTOMER.id), "name": "George"}
        assert meta.name not in elsewhere.tasks


@pytest.mark.parametrize(
    ("args", "kwargs", "said"),
    [
        (("1", 2), {}, "argument `x`: Expected `int`, got `str`."),
        ((1,), {}, "missing a required argument: 'y'."),
        ((1, 2, 3), {}, "too many positional arguments."),
        ((1,), {"z": 2}, "missing a required argument: 'y'."),
        ((1, 2), {"z": 2}, "got an unexpected keyword argument 'z'."),
        ((1,), {"y": None}, "argument `y`: Expected `int`, got `null`."),
    ],
)
async def test_call_is_refused_and_nothing_is_sent_when_arguments_do_not_fit(
    app: AioTask,
    depth: Callable[..., Awaitable[QueueDepth]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    said: str,
) -> None:
    @app.task(name="proj.add")
    async def add(x: int, y: int) -> int:
        return x + y

    with pytest.raises(ArgumentError) as raised:
        await add.delay(*args, **kwargs)
    assert str(raised.value).startswith("proj.add")
    assert str(raised.value).endswith(said)
    with pytest.raises(TypeError):
        await add.apply_async(args, kwargs)
    with pytest.raises(ArgumentError):
        await add.send_many([(1, 2), (1, "2"), (3, 4)])
    assert (await depth()).ready == 0


async def test_call_is_not_checked_when_the_task_does_not_want_it(app: AioTask) -> None:
    @app.task(typing=False)
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        result = await add.apply_async((1,))
        with pytest.raises(ArgumentError, match="missing a required argument: 'y'"):
            await result.get(timeout=10)


async def test_message_of_another_program_fails_and_is_never_retried_when_it_does_not_fit(
    app: AioTask, post: Callable[..., Awaitable[str]]
) -> None:
    ran = []

    @app.task(name="proj.add", autoretry_for=(Exception,), default_retry_delay=0)
    async def add(x: int) -> None:
        ran.append(x)

    async with app.worker():
        result = app.result(await post(TaskMessage("proj.add", "id-1", b'[["one"],{}]')))
        with pytest.raises(ArgumentError, match="argument `x`: Expected `int`, got `str`"):
            await result.get(timeout=10)
    assert ran == []


@pytest.mark.parametrize(
    ("value", "path"),
    [(object(), r"args\[0\]"), ({"deep": [1, object()]}, r"args\[0\]\.deep\[1\]"), ("\ud800", r"args\[0\]")],
)
async def test_call_is_refused_and_nothing_is_sent_when_an_argument_can_not_be_serialised(
    app: AioTask, depth: Callable[..., Awaitable[QueueDepth]], value: object, path: str
) -> None:
    @app.task
    async def take(value): ...  # type: ignore[no-untyped-def]

    with pytest.raises(EncodeError, match=f"{take.name}: Can't serialise {path} as JSON"):
        await take.delay(value)
    with pytest.raises(EncodeError, match=path.replace(r"args\[0\]", r"kwargs\.value")):
        await take.delay(value=value)
    assert (await depth()).ready == 0


async def test_call_is_refused_when_the_message_is_too_large(url: str) -> None:
    app = AioTask("proj", broker=url, message_max_bytes=1000)

    @app.task(name="proj.take")
    async def take(text: str) -> None: ...

    with pytest.raises(
        EncodeError, match=r"proj\.take: the message has 1,\d\d\d bytes, more than message_max_bytes \(1,000\)"
    ):
        await take.delay("x" * 1000)
    await take.delay("x" * 500)
    await app.close()


async def test_argument_is_what_it_was_when_the_call_was_made(app: AioTask) -> None:
    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    numbers = [1, 2, 3]
    async with app.worker():
        sending = total.delay(numbers)
        result = await sending
        numbers.append(100)
        assert await result.get(timeout=10) == 6
