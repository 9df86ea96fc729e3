"""Rows of results and of messages: packed, gathered and replaced."""

import pytest

from aiotask.connections.sqlite import SqliteLink
from aiotask.connections.sqlite.rows import Row, fetch_rows, gather, pack, store_rows


@pytest.mark.parametrize("bodies", [[b""], [b"", b""], [b"", b"a", b""], [b"abc", b"de"]])
async def test_each_part_is_found_when_parts_are_packed(link: SqliteLink, bodies: list[bytes]) -> None:
    whole, places = pack(bodies)
    sql = "SELECT substr(?, ?, ?)"
    found = await link.run(lambda c: [c.execute(sql, (whole, *place)).fetchone()[0] for place in places], writes=False)
    assert found == bodies


async def test_each_key_has_its_value_when_many_are_gathered(link: SqliteLink) -> None:
    for count in (0, 1, 8, 9, 64, 65, 200):
        keys = list(range(count))
        assert await link.run(lambda c, keys=keys: gather(c, "SELECT ? * 2", keys), writes=False) == [
            2 * key for key in keys
        ]


async def test_new_row_is_stored_when_the_final_one_has_expired(link: SqliteLink) -> None:
    await link.run(lambda c: store_rows(c, [Row("a", True, b"old", -1.0)]))
    assert await link.run(lambda c: fetch_rows(c, ["a"]), writes=False) == [None]
    await link.run(lambda c: store_rows(c, [Row("a", False, b"new", None)]))
    assert await link.run(lambda c: fetch_rows(c, ["a"]), writes=False) == [b"new"]
