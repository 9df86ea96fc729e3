import pytest

from aiotask.brokers.amqp.names import Kind, Make, Source, line_name, server_name, word


@pytest.mark.parametrize("name", ["default", "proj.tasks", "a-b_c:d@e#f,g/h+i j"])
def test_name_stays_as_it_is_when_the_server_takes_it(name: str) -> None:
    assert server_name(name) == name


def test_letters_that_are_not_taken_become_their_numbers() -> None:
    assert server_name("täsk'") == "t@e4@sk@27@"
    assert server_name(server_name("täsk'")) == server_name("täsk'")


def test_name_that_is_too_long_ends_in_a_hash_of_the_whole() -> None:
    one, other = server_name("q" * 300 + "a"), server_name("q" * 300 + "b")
    assert len(one) == len(other) == 255
    assert one != other


def test_kinds_and_lines_of_a_queue_have_names_of_their_own() -> None:
    names = [Source("q", kind).name for kind in Kind] + [line_name("q", "proj.add")]
    assert names == ["q", "q.returned", "q.suspects", "q.dead", "q.workers", "q.line.proj.add"]


def test_word_of_a_name_has_no_dots_and_is_its_own() -> None:
    assert "." not in word("a.b")
    assert word("a.b") != word("b")


def test_queues_are_quorum_but_for_those_with_priorities() -> None:
    assert Make().arguments(Kind.MAIN) == {"x-queue-type": "quorum"}
    assert Make("classic").arguments(Kind.DEAD) == {}
    assert Make(max_priority=9).arguments(Kind.MAIN) == Make(max_priority=9).arguments(None) == {"x-max-priority": 9}
    assert Make(max_priority=9).arguments(Kind.SUSPECTS) == {"x-queue-type": "quorum"}
    assert Make().arguments(Kind.WORKERS) == {}
