import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from aiotask import AioTask, ImproperlyConfigured
from aiotask.cli.errors import CommandError
from aiotask.cli.targets import import_tasks, load_target

APP = "from aiotask import AioTask\napp = AioTask('proj', broker='memory://')\n"


@pytest.fixture(autouse=True)
def imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith("aiotask"):
            del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], None]:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return write


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], AioTask]:
    return lambda target: load_target(target, str(tmp_path))


@pytest.fixture
def refusal(load: Callable[[str], AioTask]) -> Callable[[str], str]:
    """Returns what is said of a target that can't be had."""

    def refuse(target: str) -> str:
        with pytest.raises(CommandError) as caught:
            load(target)
        assert caught.value.code == 3
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return refuse


Write = Callable[[str, str], None]
Load = Callable[[str], AioTask]
Refusal = Callable[[str], str]


def test_app_is_taken_when_no_attribute_is_named(write: Write, load: Load) -> None:
    write("proj/tasks.py", f"{APP}other = AioTask('other', broker='memory://')\n")

    assert load("proj.tasks").main == "proj"


def test_only_app_is_taken_when_it_has_another_name(write: Write, load: Load) -> None:
    write("single.py", "from aiotask import AioTask\ncelery = same = AioTask('mine', broker='memory://')\napp = 7\n")

    assert load("single").main == "mine"


def test_attribute_is_taken_when_it_is_named(write: Write, load: Load) -> None:
    write("named.py", f"{APP}class holder:\n    inner = AioTask('inner', broker='memory://')\n")

    assert load("named:app").main == "proj"
    assert load("named:holder.inner").main == "inner"


def test_default_app_is_taken_when_the_module_has_tasks_and_no_app(write: Write, load: Load) -> None:
    from aiotask import default_app

    write("plain.py", "from aiotask import task\n@task\nasync def add(): ...\n")

    assert load("plain") is default_app


def test_folder_is_put_in_front_of_the_path(write: Write, load: Load, tmp_path: Path) -> None:
    write("first.py", APP)

    load("first")

    assert sys.path[0] == str(tmp_path)


@pytest.mark.parametrize("target", ["", ":app", "module:", ".module"])
def test_target_is_refused_when_it_is_no_name(load: Load, target: str) -> None:
    with pytest.raises(click.UsageError, match="write MODULE or MODULE:ATTRIBUTE"):
        load(target)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("proj.taks", "there is no module 'taks' in package 'proj'. Did you mean 'proj.tasks'?"),
        ("porj.tasks", "Did you mean 'proj.tasks'?"),
        ("porj", "Did you mean 'proj'?"),
        ("proj.tasks.app", "there is no module 'app' in package 'proj.tasks'."),
        ("something_else", "(--app-dir names another folder)."),
        ("proj/tasks.py", "it names a file, not a module. Did you mean 'proj.tasks'?"),
        ("proj.tasks:ap", "'proj.tasks' has no attribute 'ap'. Did you mean 'app'?"),
        ("proj.tasks:nothing", "'proj.tasks' has no attribute 'nothing'. Its apps are: app."),
        ("proj.tasks:AioTask", "proj.tasks:AioTask has to be an AioTask, and is of type type. Its apps are: app."),
    ],
)
def test_misspelt_target_is_told_with_what_was_likely_meant(
    write: Write, refusal: Refusal, target: str, says: str
) -> None:
    write("proj/__init__.py", "")
    write("proj/tasks.py", APP)

    assert says in refusal(target)


def test_target_is_refused_when_the_module_has_several_apps(write: Write, refusal: Refusal) -> None:
    write("several.py", "from aiotask import AioTask\none = AioTask('one')\ntwo = AioTask('two')\n")

    assert refusal("several") == "'several' has several apps: one, two. Say which: several:one"


def test_target_is_refused_when_the_package_has_neither_app_nor_task(
    write: Write, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiotask import default_app

    monkeypatch.setattr(default_app, "_registry", {})
    write("empty/__init__.py", "")
    write("empty/tasks.py", APP)

    assert "The package holds empty.tasks: name the one with the tasks." in refusal("empty")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1 / 0", "it raised ZeroDivisionError: division by zero (FILE, line 1: x = 1 / 0)"),
        ("\nimport no_such", "it raised ModuleNotFoundError: No module named 'no_such' (FILE, line 2: import no_such)"),
        ("def f(:", "it raised SyntaxError: invalid syntax (FILE, line 1: def f(:)"),
        ("import sys\nsys.exit(5)", "it raised SystemExit: 5 (FILE, line 2: sys.exit(5))"),
        ("import json\njson.loads('x')", "(FILE, line 2: json.loads('x'))"),
    ],
)
def test_place_is_told_when_the_module_itself_raises(
    write: Write, refusal: Refusal, tmp_path: Path, text: str, says: str
) -> None:
    write("broken.py", text)

    assert says.replace("FILE", str(tmp_path / "broken.py")) in refusal("broken")


def test_bad_setting_is_told_with_its_place_when_the_module_makes_the_app(
    write: Write, load: Load, tmp_path: Path
) -> None:
    write("bad.py", "from aiotask import AioTask\n\napp = AioTask(task_acks_lat=True)\n")

    with pytest.raises(ImproperlyConfigured, match="Did you mean 'task_acks_late'") as caught:
        load("bad")
    assert f"({tmp_path / 'bad.py'}, line 3: app = AioTask(task_acks_lat=True))" in str(caught.value)


def test_interrupt_is_no_failed_import(write: Write, load: Load) -> None:
    write("interrupted.py", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        load("interrupted")


def test_imports_are_told_with_their_origin_when_one_is_missing(write: Write, load: Load) -> None:
    write("importing.py", "from aiotask import AioTask\napp = AioTask('x', imports=['importin'])\n")
    app = load("importing")

    with pytest.raises(CommandError, match=r"setting 'imports' names \(origin: argument\).*'importing'\?") as caught:
        import_tasks(app)
    assert caught.value.code == 3
