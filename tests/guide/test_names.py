"""Messages ask for tasks by name; a name stands for one task."""

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aiotask import AioTask, AlreadyRegistered, ImproperlyConfigured, NotRegistered


async def fetch(url: str) -> str:
    return url


def test_name_is_the_module_and_the_function_when_none_is_given(app: AioTask) -> None:
    assert app.task(fetch).name == f"{__name__}.fetch"


def test_name_is_the_decorator_s_when_one_is_given(app: AioTask) -> None:
    assert app.task(name="proj.get")(fetch).name == "proj.get"


def test_name_begins_with_the_app_s_main_name_when_the_program_itself_defines_the_task(app: AioTask) -> None:
    program: dict[str, object] = {"__name__": "__main__", "app": app}
    exec("@app.task\nasync def add(x, y): ...", program)
    assert set(app.tasks) == {"proj.add"}
    nameless = AioTask(broker="memory://")
    exec("@app.task\nasync def add(x, y): ...", {"__name__": "__main__", "app": nameless})
    assert set(nameless.tasks) == {"__main__.add"}


def test_tasks_are_found_by_their_names(app: AioTask) -> None:
    task = app.task(name="proj.fetch")(fetch)
    assert app.tasks["proj.fetch"] is task
    assert dict(app.tasks) == {"proj.fetch": task}
    with pytest.raises(NotRegistered, match=r"No task 'proj\.fetsh' is registered\. Did you mean 'proj\.fetch'\?"):
        app.tasks["proj.fetsh"]


def test_name_is_refused_when_another_task_has_it(app: AioTask) -> None:
    @app.task(name="proj.add")
    async def first(x: int) -> int:
        return x

    with pytest.raises(AlreadyRegistered, match=r"Two tasks are called 'proj\.add': .*first .* and .*second"):

        @app.task(name="proj.add")
        async def second(x: int) -> int:
            return x

    assert app.tasks["proj.add"] is first


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reloaded_tasks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reloaded_tasks"] = module
    spec.loader.exec_module(module)
    return module


def test_module_may_be_imported_again_and_its_new_tasks_count(tmp_path: Path) -> None:
    path = tmp_path / "reloaded_tasks.py"
    path.write_text(
        "from aiotask import AioTask\n"
        "app = globals().get('app') or AioTask('proj', broker='memory://')\n"
        "@app.task\n"
        "async def add(x, y): return x + y\n"
    )
    try:
        module = load(path)
        first = module.add
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        assert module.add is not first
        assert module.app.tasks["reloaded_tasks.add"] is module.add
    finally:
        sys.modules.pop("reloaded_tasks", None)


@pytest.mark.parametrize("name", ["", 5, "with\nnewline", "x" * 300, b"proj.add"])
def test_name_is_refused_when_it_could_not_be_one(app: AioTask, name: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="name is"):
        app.task(name=name)(fetch)  # type: ignore[call-overload]
    assert dict(app.tasks) == {}


def test_callable_without_a_name_of_its_own_is_asked_for_one(app: AioTask) -> None:
    with pytest.raises(ImproperlyConfigured, match="has no name of its own; give it one by name="):
        app.task(functools.partial(fetch, "x"))
    assert app.task(name="proj.fetch_x")(functools.partial(fetch, "x")).name == "proj.fetch_x"


async def test_callable_object_is_a_task_under_the_name_it_is_given(app: AioTask) -> None:
    class Adder:
        async def __call__(self, x: int, y: int) -> int:
            return x + y

    add = app.task(name="proj.add")(Adder())
    async with app.worker():
        assert await (await add.delay(2, 3)).get(timeout=10) == 5


def test_name_is_that_of_the_module_however_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shop_of_the_guide"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "app.py").write_text("from aiotask import AioTask\napp = AioTask('shop', broker='memory://')\n")
    (package / "tasks.py").write_text("from .app import app\n@app.task\nasync def pay(): ...\n")
    (package / "web.py").write_text("from . import tasks\nfrom .tasks import pay\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        web = importlib.import_module("shop_of_the_guide.web")
        absolute = importlib.import_module("shop_of_the_guide.tasks")
        assert web.pay is web.tasks.pay is absolute.pay
        assert set(web.pay.app.tasks) == {"shop_of_the_guide.tasks.pay"}
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "shop_of_the_guide"]:
            del sys.modules[name]


def test_task_has_the_name_and_text_of_its_function_too(app: AioTask) -> None:
    @app.task
    async def pay() -> None:
        """Pay the bill."""

    assert (pay.__name__, pay.__doc__, pay.__module__) == ("pay", "Pay the bill.", __name__)
    assert pay.__qualname__.endswith("<locals>.pay")
    assert repr(app.tasks) == f"<Registry: {__name__}.pay>"


def test_function_is_decorated_once(app: AioTask) -> None:
    task = app.task(name="proj.fetch")(fetch)
    for other in (app, AioTask("other", broker="memory://")):
        with pytest.raises(
            ImproperlyConfigured, match=r"<Task: proj\.fetch> is a task already; a function is decorated"
        ):
            other.task(task)
    assert dict(app.tasks) == {"proj.fetch": task}
