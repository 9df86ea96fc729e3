"""What URLs say: masked, and as SQLite paths."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotask.exceptions import ImproperlyConfigured
from aiotask.urls import mask_url, resolve_sqlite


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://user:hunter2@host/0", "redis://user:***@host/0"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("amqp://user:hun@ter/2?@host//vhost", "amqp://user:***@host//vhost"),
        ("mongodb://u:hunter2@one:1,two:2/db", "mongodb://u:***@one:1,two:2/db"),
        ("redis://host/0?password=hunter2&db=1", "redis://host/0?password=***&db=1"),
        ("rediss://host/0?db=1&ssl_Password=hunter2", "rediss://host/0?db=1&ssl_Password=***"),
        ("redis:/user:hunter2@host", "redis:***@host"),
        ("sqlite:///a;redis://u:hunter2@host", "sqlite:///a;redis:***@host"),
    ],
)
def test_mask_url_hides_the_password(url: str, masked: str) -> None:
    assert mask_url(url) == masked


@pytest.mark.parametrize(
    "url",
    [
        "memory://",
        "redis://localhost:6379/0",
        "redis://user@localhost:6379/0",
        "sqlite:////srv/a:b@c/jobs.db",
        "redis://host?db=1",
        "",
    ],
)
def test_mask_url_changes_nothing_when_there_is_no_password(url: str) -> None:
    assert mask_url(url) == url


@given(st.text(min_size=1).map(lambda text: f"PW{text}PW"))
def test_mask_url_hides_any_password(password: str) -> None:
    assert "PW" not in mask_url(f"redis://user:{password}@host:6379/0")


def test_resolve_sqlite_begins_at_the_project_when_relative(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    assert resolve_sqlite("sqlite:///aiotask.db", tmp_path) == str(tmp_path / "aiotask.db")
    assert resolve_sqlite("sqlite:///aiotask.db", tmp_path / "web" / "views") == str(tmp_path / "aiotask.db")


def test_resolve_sqlite_begins_at_the_base_when_there_is_no_project(tmp_path: Path) -> None:
    assert resolve_sqlite("sqlite:///aiotask.db", tmp_path) == str(tmp_path / "aiotask.db")
    assert resolve_sqlite("sqlite:///data/../x.db", tmp_path) == str(tmp_path / "x.db")


def test_resolve_sqlite_ignores_the_base_when_absolute(tmp_path: Path) -> None:
    assert resolve_sqlite(f"sqlite:///{tmp_path}/x.db", Path("/elsewhere")) == str(tmp_path / "x.db")


def test_resolve_sqlite_gives_one_path_when_folders_are_linked(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert resolve_sqlite("sqlite:///x.db", tmp_path / "link") == str(tmp_path / "real" / "x.db")


@pytest.mark.parametrize("url", ["sqlite://x.db", "sqlite:///", "sqlite:////", "redis://u:hunter2@host/0", "x.db", ""])
def test_resolve_sqlite_shows_the_forms_when_the_url_is_another(url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        resolve_sqlite(url, Path("/"))
    assert str(raised.value) == (
        f"{mask_url(url)!r} is no SQLite URL; write 'sqlite:///relative.db' or 'sqlite:////absolute.db'"
    )


def test_resolve_sqlite_names_the_memory_broker_when_the_path_is_memory() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        resolve_sqlite("sqlite:///:memory:", Path("/"))
    assert str(raised.value) == (
        "'sqlite:///:memory:' can't be shared by processes; for one process alone write 'memory://'"
    )


def test_resolve_sqlite_names_the_setting_when_the_url_has_parameters() -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        resolve_sqlite("sqlite:///x.db?synchronous=NORMAL", Path("/"))
    assert str(raised.value) == (
        "'sqlite:///x.db?synchronous=NORMAL' has parameters, and SQLite URLs take none; "
        "write them into the setting 'broker_transport_options'"
    )
