import pytest

from aiotask import AioTask, ImproperlyConfigured
from aiotask.cli.session import override, queue_admin, refuse_memory, shown_url


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
    assert shown_url("redis://me:secret@host") == "redis://me:***@host"
    assert shown_url("sqlite:///x.db").startswith("sqlite:////")
