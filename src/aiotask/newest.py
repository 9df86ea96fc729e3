"""Keeps the newest of many ids. Used by whoever must not forget soon, and can't keep all."""

from collections import OrderedDict
from collections.abc import Iterable


def keep_newest(kept: OrderedDict[str, None], ids: Iterable[str], limit: int) -> None:
    """Add `ids` to `kept` as its newest, also those that it has, and drop the oldest of more than `limit`.

    Cost: the same for each, however many there are. A plain dict would look past all that it has dropped.
    """
    for id_ in ids:
        kept[id_] = None
        kept.move_to_end(id_)
    while len(kept) > limit:
        kept.popitem(last=False)
