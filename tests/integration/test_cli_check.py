"""`aiotask check`, in a project of each test's own."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from tests.processes import run_aiotask

APP = """
from aiotask import AioTask
app = AioTask("shop", broker="sqlite:///shop.db")
"""
FINE = f"""{APP}
@app.task
async def add(x: int, y: int) -> int:
    return x + y

@app.task(queue="mail")
def render(path: str) -> str: ...
"""

PLAIN = {"unroutable": None, "unchecked": {}, "unreadable": None}

Run = Callable[..., "CompletedProcess[str]"]
Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@pytest.fixture
def aiotask(tmp_path: Path, write: Write) -> Run:
    write("pyproject.toml", "")
    return lambda *arguments, **env: run_aiotask(*arguments, cwd=tmp_path, env=env)


def test_check_exits_0_and_says_what_it_has_seen_when_all_is_well(aiotask: Run, write: Write, tmp_path: Path) -> None:
    write("shop.py", FINE)

    finished = aiotask("check", "shop")

    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.splitlines() == [
        "ok: shop is imported",
        "ok: the settings fit; not at their default: broker_url",
        f"ok: the broker sqlite:///{tmp_path}/shop.db can be reached (origin: argument)",
        f"ok: the result backend sqlite:///{tmp_path}/shop.db can be reached (origin: what the broker implies)",
        "ok: 2 tasks: shop.add, shop.render",
        "ok: 1 plain function, run in threads: shop.render",
        "ok: tasks go to the queues default, mail; a worker without -Q takes from default only",
        "ok: the queue default gets shop.add",
        "ok: the queue mail gets shop.render",
        "0 errors, 0 warnings, 9 ok",
    ]


def test_check_prints_one_document_when_json_is_asked_for(aiotask: Run, write: Write, tmp_path: Path) -> None:
    write("shop.py", FINE)

    document = json.loads(aiotask("check", "shop", "--json").stdout)

    assert document["findings"][0] == {"level": "ok", "what": "shop is imported"}
    assert document["broker"] == document["results"] == f"sqlite:///{tmp_path}/shop.db"
    assert document["tasks"] == [
        {**PLAIN, "name": "shop.add", "body": "async", "queues": ["default"]},
        {**PLAIN, "name": "shop.render", "body": "thread", "queues": ["mail"]},
    ]


def test_check_imports_the_tasks_of_the_default_app_when_no_target_is_named(aiotask: Run, write: Write) -> None:
    write("src/tasks.py", "from aiotask import task\n@task\nasync def add(x: int) -> int: ...\n")

    finished = aiotask("check", "--app-dir", "src", AIOTASK_IMPORTS="tasks")

    assert finished.returncode == 0
    assert "ok: no TARGET is named, so this is the default app\n" in finished.stdout
    assert "ok: 1 task: tasks.add\n" in finished.stdout
    assert "warning:" not in finished.stdout


def test_check_exits_0_when_there_are_warnings_alone(aiotask: Run) -> None:
    finished = aiotask("check", "-b", "memory://", AIOTASK_TASK_ALWAYS_EAGER="1")

    assert finished.returncode == 0
    assert "warning: the broker memory:// (origin: command line) lives in one process alone" in finished.stdout
    assert "warning: task_always_eager is on (origin: environment AIOTASK_TASK_ALWAYS_EAGER)" in finished.stdout
    assert "warning: there are no tasks" in finished.stdout
    assert finished.stdout.splitlines()[-1].startswith("0 errors, 3 warnings, ")


def test_check_exits_1_when_the_broker_carries_no_messages_of_celery(aiotask: Run) -> None:
    finished = aiotask("check", "-b", "sqlite:///shop.db", AIOTASK_TASK_PROTOCOL="2")

    assert finished.returncode == 1
    assert "error: task_protocol is 2 (origin: environment AIOTASK_TASK_PROTOCOL): Celery's" in finished.stdout


def test_check_warns_of_tasks_that_belong_to_the_default_app(aiotask: Run, write: Write) -> None:
    write("shop.py", f"{FINE}\nfrom aiotask import task\n@task\nasync def lost(): ...\n")

    last = aiotask("check", "shop").stdout.splitlines()[-2]

    assert last.startswith("warning: defined with `from aiotask import task`")
    assert last.endswith(" shop.lost")


def test_check_warns_of_a_module_that_is_imported_under_two_names(aiotask: Run, write: Write, tmp_path: Path) -> None:
    write("shop/app.py", f"{APP}\napp.conf.imports = ['shop.tasks', 'tasks']\n")
    write(
        "shop/tasks.py", "import sys; sys.path.append('shop')\nfrom shop.app import app\n@app.task\ndef mail(): ...\n"
    )

    assert (
        f"warning: {tmp_path}/shop/tasks.py is imported under several names, shop.tasks, tasks; "
        "so there are shop.tasks.mail, tasks.mail\n" in aiotask("check", "shop.app").stdout
    )


def test_check_exits_1_when_a_task_can_never_be_called(aiotask: Run, write: Write) -> None:
    write("shop.py", f"{APP}\napp.task(name='shop.most')(max)\n")

    finished = aiotask("check", "shop")

    assert finished.returncode == 1
    assert "error: shop.most: its signature can't be read, so every call fails (ValueError: " in finished.stdout
    assert finished.stdout.splitlines()[-1].startswith("1 error, 0 warnings, ")


def test_check_tells_where_each_task_goes_when_there_are_routes(aiotask: Run, write: Write) -> None:
    write("shop.py", FINE.replace('(queue="mail")', ""))
    write(
        "pyproject.toml",
        """[tool.aiotask]
        task_queues = ["default", {name = "letters", exchange = "post", routing_key = "letter.#"}]
        task_default_exchange_type = "topic"
        [tool.aiotask.task_routes]
        "shop.render" = {exchange = "post", routing_key = "letter.white"}
        "shop.ad" = "letters"
        """,
    )

    finished = aiotask("check", "shop")

    assert finished.returncode == 0
    assert finished.stdout.splitlines()[-5:] == [
        "ok: tasks go to the queues default, letters; a worker without -Q takes from default, letters",
        "ok: the queue default gets shop.add",
        "ok: the queue letters gets shop.render",
        (
            "warning: task_routes routes 'shop.ad', and no task here is called so: right only for tasks of other "
            "programs that this one sends by name. Did you mean 'shop.add'?"
        ),
        "0 errors, 1 warning, 9 ok",
    ]


def test_check_exits_1_when_a_route_names_a_queue_that_may_not_be_made(aiotask: Run, write: Write) -> None:
    write("shop.py", FINE)

    finished = aiotask("check", "shop", AIOTASK_TASK_CREATE_MISSING_QUEUES="no", AIOTASK_TASK_QUEUES="default,mails")

    assert finished.returncode == 1
    assert (
        "error: shop.render can't be sent: There is no queue 'mail', and task_create_missing_queues is False; "
        "task_queues declares these: 'default', 'mails'. Did you mean 'mails'?\n" in finished.stdout
    )


def test_check_exits_78_when_a_route_does_not_fit(aiotask: Run, write: Write) -> None:
    write("shop.py", FINE)

    finished = aiotask("check", "shop", AIOTASK_TASK_ROUTES='{"shop.add": {"que": "mail"}}')

    assert (finished.returncode, finished.stdout) == (78, "")
    assert "setting 'task_routes' routes 'shop.add' with the unknown option 'que'; a route takes " in finished.stderr
    assert " (origin: environment AIOTASK_TASK_ROUTES). Did you mean 'queue'? (" in finished.stderr


def test_check_exits_2_when_an_option_is_unknown(aiotask: Run) -> None:
    assert aiotask("check", "--strict").returncode == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no module 'shop'"),
        ("raise ValueError('no')", "it raised ValueError: no"),
        ("x = 1", "'shop' has no AioTask"),
        (f"{APP}\napp.conf.imports = ['missing']", "can't import 'missing', which the setting 'imports' names"),
    ],
)
def test_check_exits_3_when_something_can_not_be_imported(
    aiotask: Run, write: Write, text: str | None, said: str
) -> None:
    if text is not None:
        write("shop.py", text)

    finished = aiotask("check", "shop", "--json")

    assert (finished.returncode, finished.stdout) == (3, "")
    assert said in finished.stderr
    assert finished.stderr.count("\n") == 1


@pytest.mark.parametrize(("option", "setting"), [("--broker", "broker_url"), ("--result-backend", "result_backend")])
def test_check_exits_69_and_still_tells_the_rest_when_a_server_is_unreachable(
    aiotask: Run, write: Write, option: str, setting: str
) -> None:
    write("shop.py", FINE)
    url = "sqlite:////nowhere/tasks.db"

    finished = aiotask("check", "shop", option, url, "--json")

    assert finished.returncode == 69
    document: dict[str, Any] = json.loads(finished.stdout)
    [error] = [finding["what"] for finding in document["findings"] if finding["level"] == "error"]
    assert "the folder /nowhere does not exist" in error
    assert error.endswith(f"Tried {setting} {url} (origin: command line).")
    assert len(document["tasks"]) == 2
    assert any("broker" in finding["what"] and "reached" in finding["what"] for finding in document["findings"]) is (
        setting == "result_backend"
    )


def test_check_exits_78_with_the_nearest_name_when_the_environment_has_an_unknown_setting(
    aiotask: Run, write: Write
) -> None:
    write("shop.py", FINE)

    finished = aiotask("check", "shop", AIOTASK_WORKER_CONCURENCY="5")

    assert (finished.returncode, finished.stdout) == (78, "")
    assert "(origin: environment AIOTASK_WORKER_CONCURENCY). Did you mean 'worker_concurrency'?" in finished.stderr


@pytest.mark.parametrize("how", ["environment", "option", "assigned"])
def test_check_exits_78_and_shows_no_password_when_a_url_does_not_fit(aiotask: Run, write: Write, how: str) -> None:
    url = "redos://me:hidden@host"
    write("shop.py", f"{APP}\napp.conf.broker_url = {url!r}" if how == "assigned" else FINE)
    options = ["-b", url] if how == "option" else []
    environment = {"AIOTASK_RESULT_BACKEND": url} if how == "environment" else {}

    finished = aiotask("check", "shop", *options, **environment)

    assert (finished.returncode, finished.stdout) == (78, "")
    assert "redos://me:***@host" in finished.stderr
    assert "hidden" not in finished.stderr


def test_check_exits_1_when_a_format_can_not_be_used(aiotask: Run, write: Write) -> None:
    write(
        "shop.py",
        f"""{APP}
@app.task(serializer="jsno", compression="gzpi")
async def add(x: int) -> int: ...

@app.task(serializer="pickle")
async def store(x: int) -> int: ...
""",
    )

    finished = aiotask("check", "shop")

    assert finished.returncode == 1
    assert "error: shop.add: There is no serializer 'jsno'" in finished.stdout
    assert "error: shop.add: There is no compression 'gzpi'" in finished.stdout
    assert "error: shop.store: what is sent as pickle is refused where it arrives" in finished.stdout


def test_check_exits_69_and_names_the_backend_of_a_task_when_it_can_not_be_reached(
    aiotask: Run, write: Write, tmp_path: Path
) -> None:
    write(
        "shop.py",
        f"""{APP}
@app.task(backend="sqlite:///missing/own.db")
async def add(x: int) -> int: ...
""",
    )

    finished = aiotask("check", "shop")

    assert finished.returncode == 69
    said = f"Tried sqlite:///{tmp_path}/missing/own.db, a result backend that tasks have for themselves"
    assert said in finished.stdout
    assert "Tried result_backend" not in finished.stdout
