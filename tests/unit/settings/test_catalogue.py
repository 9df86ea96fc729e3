"""The settings there are: their defaults, what fits, and what this version can't do yet."""

import math
from datetime import timedelta
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.message import DEFAULT_PRIORITY, PRIORITIES
from aiotask.routing import ROUTE_OPTIONS, Queue
from aiotask.settings import DEFAULT_BROKER_URL, NOT_YET, Settings

AVAILABLE: dict[str, Any] = {
    "broker_url": None,
    "result_backend": None,
    "imports": [],
    "timezone": "UTC",
    "enable_utc": True,
    "task_default_queue": "default",
    "task_default_exchange": None,
    "task_default_exchange_type": "direct",
    "task_default_routing_key": None,
    "task_default_priority": DEFAULT_PRIORITY,
    "task_queues": None,
    "task_routes": None,
    "task_create_missing_queues": True,
    "task_protocol": "aiotask",
    "task_acks_late": False,
    "task_acks_on_failure_or_timeout": True,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": False,
    "task_store_errors_even_if_ignored": False,
    "task_track_started": False,
    "task_serializer": "json",
    "task_compression": None,
    "task_always_eager": False,
    "task_eager_propagates": False,
    "task_annotations": None,
    "task_max_deliveries": 4,
    "task_queue_max_priority": None,
    "accept_content": ["json"],
    "result_accept_content": None,
    "result_serializer": "json",
    "result_compression": None,
    "result_expires": 86400.0,
    "result_persistent": False,
    "result_extended": False,
    "message_max_bytes": 1048576,
    "worker_concurrency": 100,
    "worker_threads": None,
    "worker_processes": 1,
    "worker_prefetch_multiplier": 1,
    "worker_shutdown_timeout": 30.0,
    "worker_lease": 20.0,
    "worker_log_format": "text",
    "worker_max_tasks": None,
    "worker_loop_stall_limit": 60.0,
    "worker_redirect_stdouts": True,
    "worker_redirect_stdouts_level": "WARNING",
    "worker_setup_logging": True,
    "worker_lease_renewal": 5.0,
    "worker_reclaim_interval": 5.0,
    "worker_name": None,
    "broker_connection_timeout": 5.0,
    "broker_command_timeout": 5.0,
    "broker_publish_timeout": 10.0,
    "broker_heartbeat": 60.0,
    "broker_transport_options": {},
}

DURATIONS = [name for name, default in AVAILABLE.items() if isinstance(default, float)]


def refusal(**values: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        Settings(**values)
    return str(raised.value)


def test_the_settings_that_can_be_set_have_their_defaults() -> None:
    settings = Settings()
    assert {name: getattr(settings, name) for name in Settings.catalogue() if name not in NOT_YET} == AVAILABLE


def test_the_default_broker_needs_no_server() -> None:
    assert DEFAULT_BROKER_URL == "sqlite:///aiotask.db"


@pytest.mark.parametrize("name", sorted(NOT_YET))
def test_a_setting_that_is_not_available_takes_nothing_but_its_default(name: str) -> None:
    default = getattr(Settings(), name)
    assert getattr(Settings(**{name: default}), name) == default
    for value in (object(), "CELERY", 7, not default):
        assert refusal(**{name: value}).startswith(f"setting '{name}' is not available in aiotask 0.1 yet")


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("value", [-1, "-1s", "soon", True, math.nan, [], timedelta(-1)])
def test_a_duration_is_refused_when_it_is_none(name: str, value: Any) -> None:
    assert refusal(**{name: value}).startswith(f"setting '{name}' must be a duration of ")


@pytest.mark.parametrize(
    "name", [name for name in DURATIONS if name not in {"worker_shutdown_timeout", "broker_heartbeat"}]
)
def test_a_duration_must_be_more_than_zero(name: str) -> None:
    assert "must be a duration of more than 0" in refusal(**{name: 0})


def test_a_worker_may_stop_at_once() -> None:
    assert Settings(worker_shutdown_timeout=0).worker_shutdown_timeout == 0.0


def test_results_are_kept_for_ever_when_they_expire_never() -> None:
    assert Settings(result_expires=None).result_expires is None


@pytest.mark.parametrize(
    "name",
    ["worker_concurrency", "worker_threads", "worker_processes", "worker_max_tasks", "task_max_deliveries",
     "worker_prefetch_multiplier"],
)  # fmt: skip
def test_a_count_must_be_one_at_least(name: str) -> None:
    assert f"setting '{name}' must be a whole number of at least 1" in refusal(**{name: 0})
    assert getattr(Settings(**{name: 1}), name) == 1


def test_the_priority_is_one_that_a_message_can_have() -> None:
    for priority in PRIORITIES:
        assert Settings(task_default_priority=priority).task_default_priority == priority
    assert "from 0 to 9, not 10" in refusal(task_default_priority=PRIORITIES.stop)


@pytest.mark.parametrize(
    ("name", "value", "sole"),
    [
        ("timezone", "Europe/Berlin", "'UTC'"),
        ("enable_utc", False, "True"),
    ],
)
def test_a_value_of_a_later_version_is_refused(name: str, value: Any, sole: str) -> None:
    assert refusal(**{name: value}) == (
        f"setting '{name}' must be {sole}, all that aiotask 0.1 can do yet, not {value!r} (origin: argument)."
    )


def test_queues_and_routes_are_kept_as_they_are_read() -> None:
    settings = Settings(
        task_queues=["default", {"name": "feeds", "routing_key": "feed.#"}],
        task_routes=[("feed.*", {"queue": "feeds"}), {"mail.send": "mail"}],
    )
    assert settings.task_queues == [Queue("default"), Queue("feeds", routing_key="feed.#")]
    assert settings.task_routes == [["feed.*", {"queue": "feeds"}], {"mail.send": "mail"}]
    settings.task_queues += ["mail"]  # type: ignore[list-item]
    assert [queue.name for queue in settings.task_queues] == ["default", "feeds", "mail"]
    for change in (lambda: settings.task_queues.append("x"), lambda: settings.task_routes[1].update(a="b")):
        with pytest.raises(TypeError, match="in place"):
            change()


def test_router_follows_the_settings_whenever_they_are_changed() -> None:
    settings = Settings()
    assert settings.router.plain
    settings.task_routes = {"t": "feeds"}
    assert settings.router.route("t", (), {}, {}, None) == {"queue": "feeds"}
    settings.task_queues = ["a", "b"]
    assert settings.router.consumed == ("a", "b")
    refusal(task_routes=5)
    settings.update(task_routes=None, task_queues=None, task_default_queue="q")
    assert settings.router.plain
    assert settings.router.consumed == ("q",)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"task_routes": 5},
            (
                "setting 'task_routes' must be a mapping of task names to routes, a list of pairs, or a "
                "function, or a list of those, not 5 (origin: argument)."
            ),
        ),
        (
            {"task_routes": {"t": {"que": "x"}}},
            (
                f"setting 'task_routes' routes 't' with the unknown option 'que'; a route "
                f"takes {', '.join(ROUTE_OPTIONS)} (origin: argument). Did you mean 'queue'?"
            ),
        ),
        (
            {"task_queues": "mail"},
            (
                "setting 'task_queues' must be a list of queues, or a mapping of their names to their "
                "keys, not 'mail' (origin: argument)."
            ),
        ),
        (
            {"task_queues": [{"name": "a", "exchang": "x"}]},
            (
                "setting 'task_queues' declares the queue 'a' with the unknown "
                "key 'exchang'; a queue takes name, exchange, routing_key, exchange_type (origin: argument). "
                "Did you mean 'exchange'?"
            ),
        ),
        (
            {"task_default_exchange_type": "headers"},
            (
                "setting 'task_default_exchange_type' must be 'direct' or 'topic' or "
                "'fanout', not 'headers' (origin: argument)."
            ),
        ),
        (
            {"task_default_exchange": ""},
            (
                "setting 'task_default_exchange' must be a text of 1 to 255 printable characters, "
                "or None, not '' (origin: argument)."
            ),
        ),
        (
            {"task_default_routing_key": 5},
            (
                "setting 'task_default_routing_key' must be a text of 1 to 255 printable "
                "characters, or None, not 5 (origin: argument)."
            ),
        ),
        (
            {"task_create_missing_queues": "no"},
            (
                "setting 'task_create_missing_queues' must be True or False (in the "
                "environment also 1, yes, on, 0, no, off), not 'no' (origin: argument)."
            ),
        ),
        (
            {"task_create_missing_queues": False, "task_queues": ["defualt"]},
            (
                "setting 'task_default_queue' (origin: "
                "default) must be one of 'task_queues' (origin: argument). There is no queue 'default', and "
                "task_create_missing_queues is False; task_queues declares these: 'defualt'. Did you mean 'defualt'? "
                "Change both "
                "at once: app.conf.update(task_default_queue=..., task_queues=[...])"
            ),
        ),
    ],
)
def test_routing_settings_say_what_fits_when_they_do_not(values: dict[str, Any], said: str) -> None:
    assert refusal(**values) == said


def test_transport_options_are_those_of_the_brokers_that_there_are() -> None:
    assert Settings(broker_transport_options={"synchronous": "normal"}).broker_transport_options == {
        "synchronous": "NORMAL"
    }
    assert refusal(broker_transport_options={"synchronus": "FULL"}) == (
        "setting 'broker_transport_options' has no key 'synchronus' (origin: argument). Did you mean 'synchronous'?"
    )
    assert Settings(broker_transport_options={"key_prefix": "shop"}).broker_transport_options == {"key_prefix": "shop"}
    assert Settings(broker_transport_options={"queue_type": "Classic"}).broker_transport_options == {
        "queue_type": "classic"
    }


@pytest.mark.parametrize("values", [{"worker_lease": 5}, {"worker_lease_renewal": 20}, {"worker_lease": "3s"}])
def test_a_lease_must_outlast_its_renewal(values: dict[str, Any]) -> None:
    said = refusal(**values)
    assert said.startswith("setting 'worker_lease' must be longer than 'worker_lease_renewal'")
    assert said.endswith("Change both at once: app.conf.update(worker_lease=20, worker_lease_renewal=5)")
    assert "(origin: argument)" in said
    assert "(origin: default)" in said


def test_a_lease_and_its_renewal_can_be_changed_together() -> None:
    settings = Settings()
    settings.update(worker_lease=2, worker_lease_renewal=0.5)
    assert (settings.worker_lease, settings.worker_lease_renewal) == (2.0, 0.5)
