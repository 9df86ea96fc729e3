"""The tree that the module draws is the tree that the classes make, and users can import all of it."""

import copy
import inspect
import pickle
import re

import pytest

import aiotask
from aiotask import exceptions

PUBLIC = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__module__ == exceptions.__name__
}


def drawn() -> dict[str, tuple[str, str | None]]:
    """Read the docstring's drawing: name -> (parent, the class in "(also X)")."""
    tree: dict[str, tuple[str, str | None]] = {}
    path = ["Exception"]
    for line in inspect.getdoc(exceptions).splitlines():
        found = re.fullmatch(r"((?:│   |    )*)(?:├── |└── )(\w+)(?: \(also (\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4 + 1
            path[depth:] = [found[2]]
            tree[found[2]] = (path[depth - 1], found[3])
    return tree


def test_drawing_has_every_class_and_no_other() -> None:
    assert set(drawn()) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_drawing_shows_the_bases(name: str) -> None:
    parent, also = drawn()[name]
    assert [base.__name__ for base in PUBLIC[name].__bases__] == [parent, *filter(None, [also])]


@pytest.mark.parametrize("name", PUBLIC)
def test_class_is_exported(name: str) -> None:
    assert getattr(aiotask, name) is PUBLIC[name]
    assert name in aiotask.__all__


@pytest.mark.parametrize("name", PUBLIC)
def test_class_says_what_it_stands_for(name: str) -> None:
    assert (PUBLIC[name].__doc__ or "").strip()


@pytest.mark.parametrize("kind", [aiotask.Retry, aiotask.Ignore, aiotask.Reject])
def test_semipredicate_is_an_exception_and_no_error_of_ours(kind: type[BaseException]) -> None:
    assert issubclass(kind, Exception)
    assert not issubclass(kind, aiotask.AioTaskError)


def test_not_registered_reads_as_a_sentence_though_it_is_a_key_error() -> None:
    error = exceptions.NotRegistered("No task 'x' is registered.")
    assert str(error) == "No task 'x' is registered."
    assert isinstance(error, KeyError)


def test_publish_error_names_what_was_not_sent() -> None:
    assert exceptions.PublishError("late", ["a", "b"]).unsent == ("a", "b")
    assert exceptions.PublishError("late").unsent == ()


def test_reject_keeps_its_reason_and_what_becomes_of_the_message() -> None:
    assert (exceptions.Reject("why").reason, exceptions.Reject("why").requeue) == ("why", False)
    assert exceptions.Reject("why", requeue=True).requeue is True
    assert exceptions.Reject().reason is None


@pytest.mark.parametrize("name", PUBLIC)
def test_class_can_be_made_of_one_text_copied_and_pickled(name: str) -> None:
    error = PUBLIC[name]("why")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert twin.args == error.args
