"""Settings are checked whichever way they are set, and know where they came from."""

import copy
import pickle
from typing import Any

import pytest

from aiotask.exceptions import ImproperlyConfigured
from aiotask.settings.checked import CheckedSettings, Setting, not_yet
from aiotask.settings.kinds import FLAG, NAMES, SECRET, TEXT, URL, optional, seconds, whole


class Example(CheckedSettings):
    """A few settings."""

    broker_url = Setting(optional(URL), None, "Where messages wait.")
    worker_concurrency = Setting(whole(1), 100, "Executions at once.")
    worker_lease = Setting(seconds(), "20s", "How long a message is ours.")
    imports = Setting(NAMES, [], "Modules.")
    smtp_password = Setting(optional(SECRET), None, "Hidden.")
    task_always_eager = not_yet(FLAG, False, "Later.")
    task_routes = not_yet(TEXT, "direct", "Later.")
    low = Setting(whole(0), 0, "Less than high.")
    high = Setting(whole(0), 10, "More than low.")

    def check_together(self) -> None:
        """Check the order."""
        if self.low >= self.high:
            raise ImproperlyConfigured(f"{self.low} ({self.origin('low')}) {self.high} ({self.origin('high')})")


def refusal(action: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as raised:
        action()
    return str(raised.value)


def test_defaults_are_kept_as_their_kind_reads_them() -> None:
    settings = Example()
    assert settings.worker_lease == 20.0
    assert settings.imports == []
    assert settings.origin("worker_lease") == "default"


def test_arguments_are_checked() -> None:
    settings = Example(worker_lease="1m")
    assert settings.worker_lease == 60.0
    assert settings.origin("worker_lease") == "argument"
    assert refusal(lambda: Example(worker_concurrency=0)) == (
        "setting 'worker_concurrency' must be a whole number of at least 1, not 0 (origin: argument)."
    )


def test_assignment_is_checked() -> None:
    settings = Example()
    settings.worker_lease = "1m"
    assert settings.worker_lease == 60.0
    assert settings.origin("worker_lease") == "assigned"
    assert refusal(lambda: setattr(settings, "worker_concurrency", "many")) == (
        "setting 'worker_concurrency' must be a whole number of at least 1, not 'many' (origin: assigned)."
    )
    assert settings.worker_concurrency == 100


def test_augmented_assignment_is_checked() -> None:
    settings = Example(imports=["a"])
    settings.imports += ["b"]
    assert settings.imports == ["a", "b"]
    assert settings.origin("imports") == "assigned"
    with pytest.raises(TypeError, match="in place"):
        settings.imports.append("c")


def test_settings_of_two_apps_are_their_own() -> None:
    one, two = Example(), Example()
    one.imports = ["a"]
    assert two.imports == []
    assert two.origin("imports") == "default"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    settings = Example()
    said = "unknown setting 'worker_concurency' = 5 (origin: assigned). Did you mean 'worker_concurrency'?"
    assert refusal(lambda: setattr(settings, "worker_concurency", 5)) == said
    assert refusal(lambda: settings.update(worker_concurency=5)) == said
    assert refusal(lambda: settings.override("worker_concurency", 5, "assigned")) == said
    with pytest.raises(AttributeError, match="worker_concurency"):
        settings.worker_concurency  # noqa: B018


def test_an_unknown_name_has_no_origin() -> None:
    assert refusal(lambda: Example().origin("worker_concurency")) == (
        "unknown setting 'worker_concurency'. Did you mean 'worker_concurrency'?"
    )


def test_an_unknown_name_points_to_the_list_when_none_is_near() -> None:
    assert refusal(lambda: Example(zzz=5)) == (
        "unknown setting 'zzz' = 5 (origin: argument). docs/settings.md lists those that there are."
    )


@pytest.mark.parametrize("name", ["BROKER_URL", "CELERY_BROKER_URL", "broker"])
def test_an_unknown_name_is_understood_when_it_is_celerys(name: str) -> None:
    assert refusal(lambda: Example(**{name: "redis://"})).endswith("Did you mean 'broker_url'?")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("broker_uri", "redis://u:hunter2@host"),
        ("broker_password", "hunter2"),
        ("smtp_pasword", "hunter2"),
        ("api_key", "hunter2"),
        ("smtp_password", ["hunter2"]),
        ("broker_url", ["redis://u:hunter2@host"]),
        ("worker_concurrency", "redis://u:hunter2@host"),
    ],
)
def test_a_refusal_never_shows_a_password(name: str, value: object) -> None:
    said = refusal(lambda: Example(**{name: value}))
    assert repr(name) in said
    assert "***" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("name", "value"), [("task_always_eager", True), ("task_always_eager", "x"), ("task_routes", 5)]
)
def test_a_setting_that_is_not_available_is_refused(name: str, value: object) -> None:
    default = {"task_always_eager": "False", "task_routes": "'direct'"}[name]
    assert refusal(lambda: Example(**{name: value})) == (
        f"setting '{name}' is not available in aiotask 0.1 yet (origin: argument). "
        f"Leave it out: it is {default} in any case."
    )


def test_a_setting_that_is_not_available_takes_its_default() -> None:
    assert Example(task_always_eager=False).task_always_eager is False


def test_several_are_set_together_or_not_at_all() -> None:
    settings = Example()
    settings.update(low=10, high=20)
    assert (settings.low, settings.high) == (10, 20)
    refusal(lambda: settings.update(low=11, worker_concurrency=0))
    assert settings.low == 10
    assert refusal(lambda: settings.apply({"low": (5, "here"), "high": (5, "there")})) == "5 (here) 5 (there)"
    assert (settings.low, settings.high, settings.origin("low")) == (10, 20, "assigned")


def test_override_wins_over_what_was_set_before() -> None:
    settings = Example(worker_concurrency=5)
    settings.override("worker_concurrency", 7, "command line")
    assert settings.worker_concurrency == 7
    assert settings.origin("worker_concurrency") == "command line"
    settings.override("worker_concurrency", 8)
    assert settings.worker_concurrency == 8


def test_the_command_line_stays_when_the_program_assigns_later() -> None:
    settings = Example()
    settings.override("worker_concurrency", 7)
    settings.worker_concurrency = 5
    settings.update(worker_concurrency=6, low=3)
    assert (settings.worker_concurrency, settings.low) == (7, 3)
    assert refusal(lambda: setattr(settings, "worker_concurrency", 0)).endswith("not 0 (origin: assigned).")


def test_watcher_sees_what_is_about_to_be_set_and_may_refuse_it() -> None:
    settings = Example(low=1)
    seen: list[Any] = []

    def watch(coming: Example) -> None:
        seen.append((settings.low, coming.low))
        if coming.low == 3:
            raise ImproperlyConfigured("not 3")

    settings.watch(watch)
    settings.low = 2
    assert refusal(lambda: settings.update(low=3, high=9)) == "not 3"
    assert seen == [(1, 2), (2, 3)]
    assert (settings.low, settings.high, settings.origin("high")) == (2, 10, "default")
    copy.copy(settings).low = 5
    assert len(seen) == 2, "a copy is not watched"


def test_a_setting_can_not_be_deleted() -> None:
    settings = Example(low=1)
    with pytest.raises(AttributeError) as raised:
        del settings.low
    assert str(raised.value) == "setting 'low' can't be deleted; assign its default instead"
    assert settings.low == 1


def test_repr_shows_what_was_set_without_secrets() -> None:
    settings = Example(broker_url="redis://u:hunter2@host", low=3, smtp_password="hunter2")
    assert repr(settings) == "Example(broker_url='redis://u:***@host', low=3, smtp_password='***')"
    assert settings.shown("broker_url") == "'redis://u:***@host'"


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_copies_keep_values_and_origins(again: Any) -> None:
    settings = again(Example(low=3))
    assert (settings.low, settings.origin("low"), settings.imports) == (3, "argument", [])


def test_reading_runs_no_code_of_ours() -> None:
    assert vars(Example())["worker_concurrency"] == 100
    assert not hasattr(Setting, "__get__")
