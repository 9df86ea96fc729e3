from collections import OrderedDict

from aiotask.newest import keep_newest


def test_oldest_are_dropped_when_there_are_too_many() -> None:
    kept: OrderedDict[str, None] = OrderedDict()
    keep_newest(kept, "abc", 3)
    keep_newest(kept, "de", 3)
    assert list(kept) == ["c", "d", "e"]


def test_id_is_as_new_as_the_others_when_it_is_added_again() -> None:
    kept: OrderedDict[str, None] = OrderedDict()
    keep_newest(kept, "abcad", 3)
    assert list(kept) == ["c", "a", "d"]
