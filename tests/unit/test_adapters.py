"""An app's broker and result backends: one of each URL, opened and closed together."""

from pathlib import Path

import pytest

from aiotask.adapters import Adapters
from aiotask.connections.memory import MemoryLink
from aiotask.exceptions import BackendConnectionError
from aiotask.results.memory import MemoryBackend
from aiotask.settings import Settings


def adapters(**settings: str) -> Adapters:
    return Adapters(Settings(**{"broker_url": "memory://", **settings}))


async def test_all_are_open_when_opened_and_none_when_closed(tmp_path: Path) -> None:
    own = MemoryBackend(MemoryLink())
    made = adapters()
    made.want(f"sqlite:///{tmp_path}/a.db")
    made.want(own)
    every = [*made.pair, made.own(f"sqlite:///{tmp_path}/a.db"), own]
    await made.open()
    assert [one.connected for one in every] == [True] * 4
    await made.close()
    await made.close()
    assert [one.connected for one in every] == [False] * 4


async def test_what_is_wanted_later_is_opened_by_itself(tmp_path: Path) -> None:
    made = adapters()
    await made.open()
    assert not made.incomplete
    made.want(f"sqlite:///{tmp_path}/a.db")
    made.want(f"sqlite:///{tmp_path}/a.db")
    assert made.incomplete
    await made.open_wanted()
    assert not made.incomplete
    assert made.own(f"sqlite:///{tmp_path}/a.db").connected
    await made.close()
    assert made.incomplete


async def test_opening_names_the_backend_that_can_not_be_reached(tmp_path: Path) -> None:
    made = adapters()
    made.want(f"sqlite:///{tmp_path}/missing/a.db")
    with pytest.raises(BackendConnectionError) as raised:
        await made.open()
    assert raised.value.__notes__ == [
        (
            f"Tried sqlite:///{tmp_path}/missing/a.db, a result backend that tasks have for themselves "
            "(their option backend)."
        )
    ]
    await made.close()
    assert [one.connected for one in made.pair] == [False, False]


def test_one_place_has_one_backend_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    made = adapters(result_backend="sqlite:///results.db")
    assert made.own(f"sqlite:///{tmp_path}/results.db") is made.pair[1]
    assert made.own("sqlite:///own.db") is made.own(f"sqlite:///{tmp_path}/own.db")
    assert made.own("sqlite:///own.db") is not made.pair[1]


def test_pair_is_made_anew_when_the_urls_have_changed(tmp_path: Path) -> None:
    conf = Settings(broker_url="memory://")
    made = Adapters(conf)
    before, own = made.pair, made.own(f"sqlite:///{tmp_path}/own.db")
    assert made.pair is before
    conf.result_backend = f"sqlite:///{tmp_path}/own.db"
    assert made.pair is not before
    assert made.own(f"sqlite:///{tmp_path}/own.db") is made.pair[1] is not own


async def test_pair_stays_when_the_urls_change_while_it_is_open(tmp_path: Path) -> None:
    conf = Settings(broker_url="memory://")
    made = Adapters(conf)
    await made.open()
    before = made.pair
    conf.result_backend = f"sqlite:///{tmp_path}/other.db"
    assert made.pair is before
    await made.close()
    assert made.pair is not before


async def test_adapters_for_another_loop_share_what_lives_in_memory_and_nothing_else(tmp_path: Path) -> None:
    made = adapters(result_backend=f"sqlite:///{tmp_path}/results.db")
    twin = Adapters(made._conf, origin=made)
    own = f"sqlite:///{tmp_path}/own.db"
    made.want(own)
    assert twin.pair is made.pair
    assert twin.own("memory://own") is made.own("memory://own")
    assert twin.own(own) is not made.own(own)
    assert twin.incomplete
