"""Arguments are checked at the caller, converted on arrival, and named by their path when they don't fit."""

import dataclasses
import enum
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.arguments import Arguments
from aiotask.exceptions import ArgumentError, EncodeError
from aiotask.wire.serialization import JSON

if TYPE_CHECKING:
    from elsewhere import NeverImported


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int
    y: float = 0.0
    raw: bytes = b""


class Segment(msgspec.Struct):
    start: Point
    end: Point | None = None


class Options(TypedDict, total=False):
    name: str
    at: datetime


class Pair(NamedTuple):
    left: int
    right: str


class Invoice(pydantic.BaseModel):
    number: int
    due: date


class Opaque:
    """Something that nobody can convert."""


def arguments(function: Callable[..., Any], *, skip_first: bool = False) -> Arguments:
    return Arguments("proj.task", function, skip_first=skip_first)


def across(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
    """Check a call as the caller does, send it over the wire, and let it arrive."""
    fitted = arguments(function)
    fitted.check(args, kwargs)
    sent_args, sent_kwargs = JSON.decode(JSON.encode_call(args, kwargs))
    return fitted.arrive(sent_args, sent_kwargs)


def refusal(function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    with pytest.raises(ArgumentError) as raised:
        arguments(function).check(args, kwargs)
    return str(raised.value)


NOON = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 3),
        (int, 2**70),
        (float, 2.5),
        (float, float("inf")),
        (str, "x"),
        (bool, True),
        (None, None),
        (bytes, b"\x00\xff"),
        (datetime, NOON),
        (date, date(2026, 3, 1)),
        (timedelta, timedelta(minutes=90)),
        (UUID, UUID(int=5)),
        (Decimal, Decimal("1.10")),
        (Colour, Colour.RED),
        (Level, Level.LOW),
        (Literal["a", "b"], "b"),
        (Point, Point(1, 2.0, b"\xff")),
        (Segment, Segment(Point(1), Point(2))),
        (Options, {"name": "x", "at": NOON}),
        (Pair, Pair(1, "b")),
        (Invoice, Invoice(number=1, due=date(2026, 3, 1))),
        (set[int], {1, 2}),
        (frozenset[str], frozenset({"a"})),
        (tuple[int, str], (1, "b")),
        (tuple[UUID, ...], (UUID(int=1), UUID(int=2))),
        (dict[int, Point], {1: Point(1)}),
        (dict[UUID, int], {UUID(int=1): 1}),
        (list[Point], [Point(1), Point(2)]),
        (list[Segment], [Segment(Point(1))]),
        (list[Invoice], [Invoice(number=1, due=date(2026, 3, 1))]),
        (dict[str, list[Colour]], {"a": [Colour.RED]}),
        (Point | None, Point(1)),
        (int | None, None),
        (Annotated[int, msgspec.Meta(gt=0)], 1),
        (Annotated[int, ["unhashable", "metadata"]], 1),
        (list[bytes], [b"a", b"\xff"]),
    ],
)
def test_arguments_arrive_as_their_types_when_annotated(annotation: Any, value: Any) -> None:
    def task(x): ...

    task.__annotations__["x"] = annotation
    assert across(task, value) == ([value], {})
    assert across(task, x=value) == ([], {"x": value})
    assert type(across(task, value)[0][0]) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        NOON,
        NOON.date(),
        NOON.timetz(),
        UUID(int=7),
        Decimal("1.10"),
        b"\x00\xff",
        float("-inf"),
        [Decimal(1), {"a": b"b"}],
    ],
)
def test_arguments_arrive_as_their_types_when_tagged_and_not_annotated(value: Any) -> None:
    def task(x): ...

    assert across(task, value) == ([value], {})


def test_arguments_of_several_kinds_arrive_in_their_places() -> None:
    def task(a: int, /, b: Decimal, *more: Point, c: Colour, d: int = 1, **others: UUID) -> None: ...

    args, kwargs = across(task, 1, Decimal(2), Point(3), Point(4), c=Colour.RED, u=UUID(int=1), a=UUID(int=2))
    assert args == [1, Decimal(2), Point(3), Point(4)]
    assert kwargs == {"c": Colour.RED, "u": UUID(int=1), "a": UUID(int=2)}


def test_arguments_stay_positional_and_by_name_as_they_were_sent() -> None:
    def task(a: int, b: Decimal = Decimal(0)) -> None: ...

    assert across(task, a=1, b=Decimal(2)) == ([], {"a": 1, "b": Decimal(2)})
    assert across(task, 1, b=Decimal(2)) == ([1], {"b": Decimal(2)})
    assert across(task, 1) == ([1], {})


def test_arguments_skip_the_first_parameter_when_bound() -> None:
    def task(self: Any, x: int) -> None: ...

    bound = arguments(task, skip_first=True)
    bound.check([1], {})
    with pytest.raises(ArgumentError, match=r"proj\.task\(x: int\).*: missing a required argument: 'x'"):
        bound.check([], {})
    with pytest.raises(ArgumentError, match="argument `x`"):
        bound.check(["1"], {})


def test_arguments_name_task_and_signature_when_the_number_or_a_name_is_wrong() -> None:
    def task(x: int, y: int = 0) -> None: ...

    assert refusal(task) == "proj.task(x: int, y: int = 0) -> None: missing a required argument: 'x'."
    assert "too many positional arguments" in refusal(task, 1, 2, 3)
    assert "unexpected keyword argument 'z'" in refusal(task, 1, z=3)
    assert "multiple values for argument 'x'" in refusal(task, 1, x=3)


@pytest.mark.parametrize(
    ("annotation", "value", "path", "why"),
    [
        (int, "1", "x", "Expected `int`, got `str`"),
        (int, 1.0, "x", "Expected `int`, got `float`"),
        (int, None, "x", "Expected `int`, got `null`"),
        (int, Decimal(1), "x", "Expected `int`, got `decimal`"),
        (int, Opaque(), "x", "Expected `int`, got `Opaque`"),
        (str, b"abcd", "x", "Expected `str`, got `bytes`"),
        (bytes, "abcd", "x", "Expected `bytes`, got `str`"),
        (list[bytes], [b"a", "abcd"], "x[1]", "Expected `bytes`, got `str`"),
        (datetime, date(2026, 3, 1), "x", "Expected `datetime`, got `date`"),
        (list[int], [1, [2]], "x[1]", "Expected `int`, got `array`"),
        (list[int], [True, "2"], "x[1]", "Expected `int`, got `str`"),
        (list[int], [1, Opaque()], "x[1]", "Expected `int`, got `Opaque`"),
        (list[int], 5, "x", "Expected `array`, got `int`"),
        (dict[str, Point], {"a": {"x": "1"}}, "x[...].x", "Expected `int`, got `str`"),
        (Segment, {"start": {"x": 1}, "end": {"x": "2"}}, "x.end.x", "Expected `int`, got `str`"),
        (Colour, "blue", "x", "Invalid enum value 'blue'"),
        (Literal["a"], "b", "x", "Invalid enum value 'b'"),
        (Annotated[int, msgspec.Meta(gt=0)], 0, "x", "Expected `int` >= 1"),
        (int | None, "1", "x", "Expected `int | null`, got `str`"),
        (tuple[int, str], (1,), "x", "Expected `array` of length 2, got 1"),
    ],
)
def test_arguments_name_the_path_when_a_type_does_not_fit(annotation: Any, value: Any, path: str, why: str) -> None:
    def task(x): ...

    task.__annotations__["x"] = annotation
    assert refusal(task, value) == f"proj.task: argument `{path}`: {why}."
    assert refusal(task, x=value) == f"proj.task: argument `{path}`: {why}."


def test_arguments_name_the_path_when_one_of_many_does_not_fit() -> None:
    def task(*numbers: int, **names: str) -> None: ...

    assert "argument `numbers[1]`" in refusal(task, 1, "2")
    assert "argument `second`" in refusal(task, first="a", second=2)


def test_arguments_tell_what_pydantic_says_when_a_model_does_not_fit() -> None:
    def task(x: Invoice) -> None: ...

    said = refusal(task, {"number": "many", "due": "2026-03-01"})
    assert said.startswith("proj.task: argument `x`: ")
    assert "number" in said
    arguments(task).check([{"number": 1, "due": "2026-03-01"}], {})


def test_arguments_are_type_errors_when_refused() -> None:
    def task(x: int) -> None: ...

    with pytest.raises(TypeError):
        arguments(task).check(["1"], {})


@pytest.mark.parametrize(("annotation", "arrived"), [(int, True), (list[int], [1]), (float, True), (int | None, True)])
def test_arguments_take_a_bool_when_an_int_is_wanted(annotation: Any, arrived: Any) -> None:
    def task(x): ...

    task.__annotations__["x"] = annotation
    assert across(task, [True] if isinstance(arrived, list) else True) == ([arrived], {})


def test_arguments_keep_a_bool_when_a_union_has_both() -> None:
    def task(x: bool | int) -> None: ...

    assert across(task, True)[0][0] is True


def test_arguments_make_a_float_when_an_int_is_given_for_one() -> None:
    def task(x: float) -> None: ...

    [arrived], _ = across(task, 3)
    assert type(arrived) is float


def test_arguments_trust_an_instance_at_the_caller_and_refuse_it_on_arrival() -> None:
    def task(x: Point) -> None: ...

    with pytest.raises(ArgumentError, match=r"argument `x\.x`: Expected `int`, got `str`"):
        across(task, Point("no number"))  # type: ignore[arg-type]


def test_arguments_are_not_checked_when_msgspec_can_not_judge_the_type() -> None:
    def task(x: Opaque, y: Point | Segment | Opaque, z: "NeverImported", w: str | bytes) -> None: ...

    arguments(task).check([1, 2, 3, 4], {})
    assert across(task, {"x": 1}, {"x": 1}, [1], b"w") == ([{"x": 1}, {"x": 1}, [1], b"w"], {})


def test_arguments_are_checked_by_the_other_annotations_when_one_can_not_be_resolved() -> None:
    def task(x: "NeverImported", y: "int") -> None: ...

    assert "argument `y`" in refusal(task, 1, "2")


def test_arguments_are_refused_by_the_serializer_when_nothing_can_carry_them() -> None:
    def task(x: Opaque) -> None: ...

    with pytest.raises(EncodeError, match="Opaque is not serialisable"):
        across(task, Opaque())


def test_arguments_change_nothing_of_the_caller_s_when_checked() -> None:
    def task(x: list[float], **more: dict[str, float]) -> None: ...

    numbers, names = [1, True], {"y": {"z": 1}}
    arguments(task).check([numbers], names)
    assert numbers == [1, True]
    assert type(numbers[0]) is int
    assert names == {"y": {"z": 1}}
    assert type(names["y"]["z"]) is int


@pytest.mark.parametrize("payload", [([], {}), ([1, 2, 3], {}), (["1"], {}), ([1], {"z": 1}), ([], {"x": "1"})])
def test_arguments_are_refused_on_arrival_when_another_program_sent_what_does_not_fit(payload: Any) -> None:
    def task(x: int, y: int = 0) -> None: ...

    with pytest.raises(ArgumentError, match=r"^proj\.task"):
        arguments(task).arrive(*payload)


def test_arguments_arrive_as_bytes_when_another_program_sent_them_as_base64_text() -> None:
    def task(x: bytes) -> None: ...

    assert arguments(task).arrive(["AP8="], {}) == ([b"\x00\xff"], {})


def test_arguments_read_the_signature_when_first_used_so_that_later_names_count() -> None:
    namespace: dict[str, Any] = {}
    exec("def task(x: 'Later') -> None: ...", namespace)
    late = arguments(namespace["task"])
    namespace["Later"] = int
    with pytest.raises(ArgumentError):
        late.check(["1"], {})


@pytest.mark.parametrize(
    ("annotation", "stored", "shown"),
    [
        (Point, {"x": 1}, Point(1)),
        (Invoice, {"number": 1, "due": "2026-03-01"}, Invoice(number=1, due=date(2026, 3, 1))),
        (set[int], [1, 2], {1, 2}),
        (int, 1, 1),
        (int, "not what it says", "not what it says"),
        (None, "not what it says", "not what it says"),
        (Opaque, {"a": 1}, {"a": 1}),
    ],
)
def test_result_is_shown_as_annotated_when_it_fits_and_as_it_is_otherwise(
    annotation: Any, stored: Any, shown: Any
) -> None:
    def task(): ...

    task.__annotations__["return"] = annotation
    assert arguments(task).result(stored) == shown


def test_unchecked_names_the_annotated_parameters_that_nobody_looks_at_and_says_why() -> None:
    def task(
        self: Opaque,
        plain,
        anything: Any,
        thing: object,
        fine: int,
        model: Invoice,
        opaque: Opaque,
        inside: list[Opaque],
        typed: "NeverImported",
        *args: "NeverImported",
        **kwargs: Opaque,
    ) -> None: ...

    assert arguments(task, skip_first=True).unchecked() == {
        "opaque": f"{Opaque.__module__}.Opaque is no type that values can be made of",
        "inside": f"list[{Opaque.__module__}.Opaque] is no type that values can be made of",
        "typed": "NeverImported is not defined",
        "args": "NeverImported is not defined",
        "kwargs": f"{Opaque.__module__}.Opaque is no type that values can be made of",
    }


def test_unchecked_raises_when_the_function_has_no_signature_to_read() -> None:
    with pytest.raises(ValueError, match="no signature"):
        arguments(max).unchecked()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(), st.lists))
def test_arguments_raise_nothing_but_argument_error_whatever_is_given(value: Any) -> None:
    def task(x: list[int | None] | int) -> None: ...

    try:
        arguments(task).check([value], {})
    except ArgumentError:
        return
    arguments(task).arrive(*JSON.decode(JSON.encode_call((value,), {})))
