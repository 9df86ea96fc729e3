"""What the API promises and this version does not have says so; it is never accepted and ignored.

Each test goes through a list of the contract's names: what is there passes, what is not must say that it is not
available yet. A name moves from one to the other by itself.
"""

from collections.abc import Callable
from typing import Any

import pytest

import aiotask
from aiotask import AioTask, ImproperlyConfigured
from aiotask.options import CALL_OPTIONS, TASK_OPTIONS

SAID = "is not available in this version"

MODULE = (
    *("AioTask", "AsyncResult", "Task", "task", "default_app", "current_app", "current_request", "current_task"),
    *("states", "exceptions", "AbortableTask", "EagerResult", "GroupResult", "ErrorMail", "crontab", "chain", "chord"),
    *("chunks", "group", "signature", "subtask", "xmap", "xstarmap"),
    *("get_task_logger", "redirect_stdouts"),
)
APP = (
    *("Task", "add_periodic_task", "backend", "beat", "broker", "close", "conf", "control", "main", "periodic_task"),
    *("register", "result", "send_task", "signature", "task", "tasks", "worker"),
)
TASK = (
    *("name", "app", "request", "run", "delay", "apply_async", "send_many", "apply", "sync", "s", "si", "signature"),
    *("retry", "update_state", "get_logger", "backend", "replace", "add_to_chord", "chunks"),
    *("before_start", "on_success", "on_failure", "on_retry", "after_return", "execute"),
)
RESULT = (
    *(
        "id",
        "get",
        "state",
        "info",
        "ready",
        "successful",
        "failed",
        "traceback",
        "meta",
        "children",
        "forget",
        "revoke",
    ),
    *("abort", "updates", "parent", "graph", "sync", "name"),
)
# An option, and a value that will be right once it is there.
OF_TASKS: dict[str, Any] = {
    "rate_limit": "100/m",
    "rate_limit_scope": "global",
    "concurrency": 5,
    "time_limit": 30,
    "soft_time_limit": 20,
    "send_error_emails": True,
    "error_whitelist": (ValueError,),
    "ErrorMail": object,
}
OF_CALLS: dict[str, Any] = {
    "link": {},
    "link_error": {},
    "time_limit": 30,
    "soft_time_limit": 20,
}
# A setting, and a value other than its default.
SETTINGS: dict[str, Any] = {
    "timezone": "Europe/Berlin",
    "enable_utc": False,
    "task_protocol": 2,
    "task_time_limit": 30,
    "task_soft_time_limit": 20,
    "task_default_rate_limit": "100/m",
    "task_queue_max_priority": 10,
    "task_send_error_emails": True,
    "result_persistent": True,
    "worker_disable_rate_limits": True,
    "worker_send_task_events": True,
    "http_dispatch_allow_private": True,
    "beat_schedule": {"x": {}},
    "beat_max_late": 60,
    "admins": ["a@b.example"],
    "server_email": "a@b.example",
    "email_host": "mail.example",
    "email_port": 587,
    "email_host_user": "u",
    "email_host_password": "p",
    "email_use_tls": True,
    "email_use_ssl": True,
    "email_timeout": 5,
}
URLS = (
    *("redis://host/0", "rediss://host/0", "amqp://host//", "amqps://host//", "rpc://", "db+postgresql://host/x"),
    *("cache+memcached://host", "mongodb://host", "tyrant://host", "disabled://"),
)


@pytest.fixture
def app() -> AioTask:
    return AioTask("proj", broker="memory://")


@pytest.fixture
def task(app: AioTask) -> Any:
    @app.task(name="proj.t")
    async def task() -> None: ...

    return task


def refusal(make: Callable[[], Any]) -> str | None:
    """Return what is said when something is refused, None when it is taken."""
    try:
        make()
    except ImproperlyConfigured as error:
        return str(error)
    return None


def is_there_or_says_so(owner: object, name: str) -> bool:
    try:
        getattr(owner, name)
    except AttributeError as error:
        return SAID in str(error) and name in str(error)
    return True


@pytest.mark.parametrize("name", MODULE)
def test_name_of_the_package_is_there_or_says_so(name: str) -> None:
    assert is_there_or_says_so(aiotask, name)


@pytest.mark.parametrize("name", APP)
def test_member_of_the_app_is_there_or_says_so(app: AioTask, name: str) -> None:
    assert is_there_or_says_so(app, name)


@pytest.mark.parametrize("name", TASK)
def test_member_of_a_task_is_there_or_says_so(task: Any, name: str) -> None:
    assert is_there_or_says_so(task, name)


@pytest.mark.parametrize("name", RESULT)
def test_member_of_a_result_is_there_or_says_so(app: AioTask, name: str) -> None:
    assert is_there_or_says_so(app.result("x"), name)


@pytest.mark.parametrize(("option", "value"), OF_TASKS.items())
def test_option_of_a_task_is_there_or_says_so_where_the_task_is_defined(app: AioTask, option: str, value: Any) -> None:
    async def function() -> None: ...

    def by_class() -> None:
        type("Tasked", (app.Task,), {"run": function, option: value, "__module__": "proj", "__qualname__": "Tasked"})

    ways: list[Callable[[], Any]] = [lambda: app.task(**{option: value})(function), by_class]
    for define in ways:
        said = refusal(define)
        if said is None:
            assert option in TASK_OPTIONS, "accepted as a mere attribute"
        else:
            assert option in said
            assert SAID in said


@pytest.mark.parametrize(("option", "value"), OF_CALLS.items())
async def test_option_of_a_call_is_there_or_says_so_before_anything_is_sent(
    app: AioTask, task: Any, option: str, value: Any
) -> None:
    sending = task.apply_async(**{option: value})
    if option in CALL_OPTIONS:
        await sending
    else:
        with pytest.raises(ImproperlyConfigured, match=f"{option}.*{SAID}"):
            await sending
    await app.close()


@pytest.mark.parametrize(("setting", "value"), SETTINGS.items())
def test_setting_is_there_or_says_so_whichever_way_it_is_set(app: AioTask, setting: str, value: Any) -> None:
    before = getattr(app.conf, setting)
    made: list[AioTask] = []
    ways: list[tuple[list[AioTask], Callable[[], Any]]] = [
        (made, lambda: made.append(AioTask("proj", broker="memory://", **{setting: value}))),
        ([app], lambda: setattr(app.conf, setting, value)),
    ]
    for changed, set_it in ways:
        said = refusal(set_it)
        if said is None:
            assert getattr(changed[0].conf, setting) != before, "accepted and ignored"
        else:
            assert setting in said
            assert "not available" in said or "can do yet" in said


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("argument", ["broker", "backend"])
def test_url_is_there_or_says_so_where_the_app_is_made(argument: str, url: str) -> None:
    urls: dict[str, Any] = {"broker": "memory://", argument: url}
    said = refusal(lambda: AioTask("proj", **urls))
    if said is not None:
        assert url.partition("://")[0] in said
        assert "memory://" in said, "it says what there is"
