"""Frames come out as they went in, however the stream is cut; what can't be pickled becomes something that can."""

import logging
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import EncodeError, Ignore, Reject, RemoteError, Retry
from aiotask.message import TaskMessage
from aiotask.worker.pipe import (
    Begun,
    Call,
    FrameReader,
    Log,
    PackedRetry,
    Place,
    Raised,
    Returned,
    Setup,
    State,
    Unready,
    decode_call,
    decode_news,
    decode_setup,
    framed,
    pack_error,
    pack_record,
    pack_retry,
    pack_value,
    unpack_error,
    unpack_record,
    unpack_value,
)


class Picky(Exception):
    """Its pickle can be made and not be read."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Holding(Exception):
    """Its pickle can't be made."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        self.held = lambda: None


class Explosive:
    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle of me")

    def __repr__(self) -> str:
        raise RuntimeError("nor a repr")


class Bomb:
    """Its pickle can be made, and reading it fails."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


PLACE = Place("proj.tasks", "/proj/tasks.py", "app")
MESSAGES = [
    Begun(1),
    Log(1, b"record"),
    State(2, "PROGRESS", b"{}"),
    Returned(3, b"value", ["child"], None),
    Returned(3, b"value", [], PackedRetry("again", None, 1.5, None, b"arguments")),
    Raised(4, pack_error(ValueError("x"), "Traceback"), []),
    Raised(4, pack_retry(Retry("again", ValueError("x"), 1.0), "Traceback"), []),
    Unready(5, "why", None),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_news_come_out_as_they_went_in(message: Any) -> None:
    [frame] = FrameReader().feed(framed(message))
    assert decode_news(frame) == message


def test_setup_and_call_come_out_as_they_went_in() -> None:
    setup = Setup(
        ["prog"],
        ("path", "/proj/main.py"),
        [PLACE],
        {"task_acks_late": (b"True", "assigned"), "task_routes": (None, "assigned")},
        {"": 20},
        ("prints", 30),
    )
    call = Call(1, TaskMessage("proj.add", "id", b"[[],{}]"), PLACE, "default", 2, 5, "web@host", False, None)
    first, second = FrameReader().feed(framed(setup) + framed(call))
    assert decode_setup(first) == setup
    assert decode_call(second) == call


@given(st.lists(st.binary(max_size=300)), st.data())
def test_frames_are_whole_when_the_stream_is_cut_anywhere(records: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(framed(Log(0, record)) for record in records)
    reader, found = FrameReader(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += [decode_news(frame) for frame in reader.feed(stream[:size])]
        stream = stream[size:]
    assert found == [Log(0, record) for record in records]


def test_value_comes_back() -> None:
    value = {"a": [1, (2, {3})], "b": PLACE}
    assert unpack_value(pack_value(value, "It"), "It") == value


@pytest.mark.parametrize("value", [lambda: None, Explosive(), sys])
def test_value_is_refused_when_it_can_not_be_pickled(value: object) -> None:
    with pytest.raises(EncodeError, match=r"^What it returns can't be handed.*can't be pickled.*offload=\"thread\""):
        pack_value(value, "What it returns")


def test_value_is_refused_when_it_can_not_be_read_again() -> None:
    with pytest.raises(EncodeError, match=r"^What it returns can't be handed.*no number.*offload=\"thread\""):
        unpack_value(pack_value(Bomb(), "What it returns"), "What it returns")


@pytest.mark.parametrize(
    "exc", [ValueError("x", 1), KeyError("k"), SystemExit(3), Ignore(), StopIteration(5), OSError(2, "none", "file")]
)
def test_exception_comes_back_with_the_traceback(exc: BaseException) -> None:
    again, traceback = unpack_error(pack_error(exc, "Traceback"))
    assert (type(again), again.args, traceback) == (type(exc), exc.args, "Traceback")


@pytest.mark.parametrize("exc", [Picky("a", "b"), Holding("a", 1)])
def test_exception_is_made_anew_when_its_pickle_is_of_no_use(exc: Exception) -> None:
    again, _ = unpack_error(pack_error(exc, None))
    assert (type(again), again.args) == (type(exc), exc.args)


def test_exception_becomes_a_remote_error_when_its_arguments_can_not_travel() -> None:
    again, _ = unpack_error(pack_error(Holding(Explosive()), None))
    assert isinstance(again, RemoteError)
    assert "Holding" in str(again)


def test_exception_is_made_of_its_record_when_it_can_not_be_read_here() -> None:
    packed: Any = pack_error(ValueError("x"), None)
    packed.pickled = pickle.dumps(Bomb())
    again, _ = unpack_error(packed)
    assert (type(again), again.args) == (ValueError, ("x",))
    packed.pickled = pickle.dumps("no exception")
    assert type(unpack_error(packed)[0]) is ValueError


def test_reject_stays_one_when_its_reason_can_not_travel() -> None:
    again, _ = unpack_error(pack_error(Reject(Holding("why"), requeue=True), None))
    assert isinstance(again, Reject)
    assert (again.reason, again.requeue) == ("why", True)


@pytest.mark.parametrize("reason", [None, ValueError("x"), Picky("a", "b")])
def test_retry_comes_back_whole(reason: Exception | None) -> None:
    retry = Retry("in a while", reason, 2.5, None, ([1, PLACE], {"k": 2}))
    again, traceback = unpack_error(pack_error(retry, "Traceback"))
    assert isinstance(again, Retry)
    assert (str(again), again.delay, again.eta_at) == ("in a while", 2.5, None)
    assert again.arguments == ([1, PLACE], {"k": 2})
    assert type(again.exc) is type(reason)
    assert traceback == (None if reason is None else "Traceback")


@pytest.mark.parametrize(("argument", "says"), [(lambda: None, "can't be pickled"), (Bomb(), "can't be read again")])
def test_retry_becomes_an_encode_error_when_its_arguments_can_not_travel(argument: object, says: str) -> None:
    again, _ = unpack_error(pack_error(Retry("again", arguments=([argument], {})), None))
    assert isinstance(again, EncodeError)
    assert says in str(again)


def record(message: Any, *args: object, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("proj", logging.INFO, "/proj/tasks.py", 3, message, args, None)
    vars(made).update(extra)
    return made


def test_record_comes_back_formatted() -> None:
    again = unpack_record(pack_record(record("%s of %d", "one", 2, shape="round")))
    assert (again.getMessage(), again.args, vars(again)["shape"]) == ("one of 2", None, "round")
    assert (again.name, again.levelno, again.lineno) == ("proj", logging.INFO, 3)


def test_record_comes_back_when_something_given_with_it_can_not_travel() -> None:
    again = unpack_record(pack_record(record("hello", shape=Explosive(), size=3)))
    assert again.getMessage() == "hello"
    assert (vars(again)["shape"], vars(again)["size"]) == ("<Explosive whose repr raised RuntimeError>", 3)


def test_record_says_so_when_it_can_not_be_formatted() -> None:
    message = unpack_record(pack_record(record("%d of %d", "one"))).getMessage()
    assert message.startswith("'%d of %d' with the arguments ('one',) can't be formatted: TypeError")


def test_record_has_its_traceback_as_text() -> None:
    made = record("it failed")
    try:
        raise Holding("caught")
    except Holding:
        made.exc_info = sys.exc_info()
    again = unpack_record(pack_record(made))
    assert again.exc_info is None
    assert (again.exc_text or "").startswith("Traceback")
    assert (again.exc_text or "").endswith("Holding: caught")
