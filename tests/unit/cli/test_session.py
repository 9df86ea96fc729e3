import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiotask import AioTask, ImproperlyConfigured
from aiotask.cli.session import find_app, load_app, override, queue_admin, refuse_memory, shown_url


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    """A folder with an app, and a module that its setting `imports` names."""
    (tmp_path / "some_app.py").write_text(
        "from aiotask import AioTask\napp = AioTask('x', broker='memory://', imports=['some_tasks'])\n"
    )
    (tmp_path / "some_tasks.py").write_text("")
    path = list(sys.path)
    yield str(tmp_path)
    sys.path[:] = path
    for name in ("some_app", "some_tasks"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("imports", [True, False])
def test_load_app_lays_the_command_line_over_the_app_and_imports_what_a_worker_would(
    folder: str, imports: bool
) -> None:
    app = load_app("some_app", folder, imports=imports, worker_concurrency=7, worker_threads=None)

    assert app is sys.modules["some_app"].app
    assert (app.conf.worker_concurrency, app.conf.origin("worker_concurrency")) == (7, "command line")
    assert ("some_tasks" in sys.modules) is imports


def test_load_app_finds_the_modules_of_the_default_app_in_the_folder(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotask.default.default_app", AioTask("d", broker="memory://", imports=["some_tasks"]))

    assert load_app(None, folder, imports=True).main == "d"
    assert "some_tasks" in sys.modules


@pytest.mark.parametrize(
    ("target", "broker", "refused"),
    [("some_app", None, True), ("some_app", "sqlite:////a.db", False), (None, "memory://", True)],
)
def test_find_app_refuses_a_broker_that_only_this_process_would_see(
    folder: str, target: str | None, broker: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotask.default.default_app", AioTask("d", broker="sqlite:////d.db"))
    if refused:
        with pytest.raises(ImproperlyConfigured, match="what is sent there, nobody would ever get"):
            find_app(target, folder, broker, None)
    else:
        assert find_app(target, folder, broker, None).broker_url == broker
    assert ("some_tasks" in sys.modules) is (target is not None and not refused)


def test_override_wins_over_the_app_and_keeps_winning_when_it_is_assigned_later() -> None:
    app = AioTask("x", broker="memory://", worker_concurrency=5)

    override(app, broker_url="sqlite:////a.db", worker_concurrency=7, worker_threads=None)
    app.conf.worker_concurrency = 9

    assert (app.broker_url, app.conf.worker_concurrency, app.conf.worker_threads) == ("sqlite:////a.db", 7, None)
    assert app.conf.origin("broker_url") == "command line"
    assert app.conf.origin("worker_threads") == "default"


@pytest.mark.parametrize("url", ["redos://x", "nonsense"])
def test_override_refuses_a_url_of_an_unknown_scheme(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="unknown scheme"):
        override(AioTask("x"), broker_url=url)


def test_refuse_memory_says_why_and_where_the_url_comes_from() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'memory://' \(origin: argument\).*: because\. Use sqlite:///"):
        refuse_memory(AioTask("x", broker="memory://"), "because")


def test_queue_admin_is_the_broker_when_it_can_look_into_its_queues() -> None:
    app = AioTask("x", broker="memory://")

    assert queue_admin(app) is app.broker


def test_shown_url_is_whole_and_has_no_password() -> None:
    assert shown_url("redis://me:secret@host") == "redis://me:***@host:6379/0"
    assert shown_url("sqlite:///x.db").startswith("sqlite:////")
