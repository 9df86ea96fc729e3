import click
import pytest

from aiotask.cli.options import queue_names, seconds

CONTEXT = click.Context(click.Command("x"))
PARAMETER = click.Option(["-Q", "--queues"])


@pytest.mark.parametrize(
    ("values", "names"),
    [((), ()), (("a,b",), ("a", "b")), (("a", "b , a"), ("a", "b"))],
)
def test_queue_names_are_split_and_each_taken_once(values: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert queue_names(CONTEXT, PARAMETER, values) == names


@pytest.mark.parametrize("values", [("",), ("a,",), ("a\nb",), ("x" * 300,)])
def test_queue_names_are_refused_when_one_is_no_name(values: tuple[str, ...]) -> None:
    with pytest.raises(click.BadParameter, match="queue is"):
        queue_names(CONTEXT, PARAMETER, values)


@pytest.mark.parametrize(("text", "length_s"), [("0", 0.0), ("1.5", 1.5), ("90s", 90.0), ("5m", 300.0)])
def test_seconds_reads_durations(text: str, length_s: float) -> None:
    assert seconds(text) == length_s


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "1 fortnight"])
def test_seconds_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter):
        seconds(text)
