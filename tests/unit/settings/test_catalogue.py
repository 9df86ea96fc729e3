"""The settings there are: their defaults, what fits, and what this version can't do yet."""

import math
from datetime import timedelta
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.message import DEFAULT_PRIORITY, PRIORITIES
from aiotask.settings import DEFAULT_BROKER_URL, NOT_YET, Settings

AVAILABLE: dict[str, Any] = {
    "broker_url": None,
    "result_backend": None,
    "imports": [],
    "timezone": "UTC",
    "enable_utc": True,
    "task_default_queue": "default",
    "task_default_priority": DEFAULT_PRIORITY,
    "task_create_missing_queues": True,
    "task_protocol": "aiotask",
    "task_acks_late": False,
    "task_acks_on_failure_or_timeout": True,
    "task_ignore_result": False,
    "task_store_errors_even_if_ignored": False,
    "task_track_started": False,
    "task_serializer": "json",
    "task_always_eager": False,
    "task_eager_propagates": False,
    "task_max_deliveries": 4,
    "accept_content": ["json"],
    "result_serializer": "json",
    "result_expires": 86400.0,
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


@pytest.mark.parametrize("name", [name for name in DURATIONS if name != "worker_shutdown_timeout"])
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
        ("task_create_missing_queues", False, "True"),
        ("task_protocol", 2, "'aiotask'"),
        ("task_serializer", "pickle", "'json'"),
        ("result_serializer", "yaml", "'json'"),
        ("accept_content", ["json", "pickle"], "['json']"),
    ],
)
def test_a_value_of_a_later_version_is_refused(name: str, value: Any, sole: str) -> None:
    assert refusal(**{name: value}) == (
        f"setting '{name}' must be {sole}, all that aiotask 0.1 can do yet, not {value!r} (origin: argument)."
    )


def test_transport_options_are_sqlites() -> None:
    assert Settings(broker_transport_options={"synchronous": "normal"}).broker_transport_options == {
        "synchronous": "NORMAL"
    }
    assert refusal(broker_transport_options={"synchronus": "FULL"}) == (
        "setting 'broker_transport_options' has no key 'synchronus' (origin: argument). Did you mean 'synchronous'?"
    )
    assert refusal(broker_transport_options={"key_prefix": "x"}) == (
        "setting 'broker_transport_options' has a key 'key_prefix' that is not available in aiotask 0.1 yet "
        "(origin: argument)."
    )


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
