"""What a process is told about a worker's app leads it to the same app and its tasks."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from aiotask import AioTask, AioTaskError, ImproperlyConfigured
from aiotask.message import TaskMessage
from aiotask.task_logging import redirect_stdouts
from aiotask.worker import inside
from aiotask.worker.finding import Finder, UnreadyError
from aiotask.worker.pipe import Call, Place, Setup
from aiotask.worker.preparation import place_of, places_of, setup

Files = Callable[..., Path]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    """Make modules that can be imported, and forget them afterwards."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files change within a second

    def write(**sources: str) -> Path:
        for name, source in sources.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(source, encoding="utf-8")
        return tmp_path

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def module(monkeypatch: pytest.MonkeyPatch, name: str, **fields: object) -> None:
    made = ModuleType(name)
    vars(made).update(fields)
    monkeypatch.setitem(sys.modules, name, made)


def call(name: str, place: Place) -> Call:
    return Call(1, TaskMessage(name, "id", b""), place, "default", 1, 5, None, False, None)


def find(app: Any, name: str, where: Place, **changes: Any) -> Any:
    """Find a task as a process would that knows what `app` says now."""
    told = setup(app, changes.pop("apps", None) or places_of(app, where.module))
    for field, value in changes.items():
        setattr(told, field, value)
    for place in (where, *told.apps):
        sys.modules.pop(place.module, None)
    return Finder(told).find(call(name, where))


ONE = """
from aiotask import AioTask
app = AioTask("one", broker="memory://")

@app.task
def first() -> None: ...
"""


def imported(name: str) -> Any:
    return __import__(name, fromlist=["app"])


def test_app_is_in_the_module_of_the_task_when_it_is_a_global_there(monkeypatch: pytest.MonkeyPatch) -> None:
    app = AioTask("proj", broker="memory://")
    module(monkeypatch, "aaa_first", app=app)
    module(monkeypatch, "bbb_tasks", other=1, celery=app)
    assert places_of(app, "bbb_tasks") == [Place("bbb_tasks", None, "celery"), Place("aaa_first", None, "app")]


def test_apps_modules_come_in_the_order_of_their_import_and_the_script_last(monkeypatch: pytest.MonkeyPatch) -> None:
    app = AioTask("proj", broker="memory://")
    monkeypatch.setattr(sys.modules["__main__"], "app", app, raising=False)
    module(monkeypatch, "ccc_first", app=app)
    module(monkeypatch, "aaa_second", app=app)
    assert [place.module for place in places_of(app, "elsewhere")] == ["ccc_first", "aaa_second", "__main__"]


def test_app_is_refused_when_it_is_no_global() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"<AioTask: local>.*Assign it in a module.*offload=\"thread\""):
        places_of(AioTask("local", broker="memory://"), "proj")


def test_modules_of_every_kind_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("it is not to be touched")

    app = AioTask("proj", broker="memory://")
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    monkeypatch.setitem(sys.modules, "no_module", None)
    module(monkeypatch, "proj", app=app)
    assert places_of(app, "proj") == [Place("proj", None, "app")]


def test_task_is_found_by_importing_its_module(files: Files) -> None:
    files(one=ONE)
    app = imported("one").app
    found = find(app, "one.first", place_of(app.tasks["one.first"]))
    assert found.name == "one.first"
    assert found.app is sys.modules["one"].app
    assert found.app is not app


def test_task_is_found_when_another_module_defines_it(files: Files) -> None:
    files(one=ONE, more="import one\n@one.app.task\ndef second() -> None: ...\n")
    app = imported("more").one.app
    found = find(app, "more.second", place_of(app.tasks["more.second"]))
    assert found.name == "more.second"


def test_task_is_found_when_the_setting_imports_names_its_module(files: Files) -> None:
    files(
        one=ONE.replace('"memory://"', '"memory://", imports=["makes"]'),
        makes="import one\ndef make(app):\n    @app.task(name='made')\n    def made() -> None: ...\nmake(one.app)\n",
    )
    app = imported("one").app
    app.import_tasks()
    sys.modules.pop("makes")
    assert find(app, "made", Place("one", None)).name == "made"


def test_app_is_found_when_modules_import_each_other(files: Files) -> None:
    files(
        circle__app="from aiotask import AioTask\napp = AioTask(broker='memory://')\nfrom circle.tasks import add\n",
        circle__tasks="from circle.app import app\n@app.task\ndef add() -> None: ...\n",
    )
    app = imported("circle.app").app
    where = place_of(app.tasks["circle.tasks.add"])
    assert where.module == "circle.tasks"
    assert find(app, "circle.tasks.add", where).name == "circle.tasks.add"


def test_module_is_found_by_its_file_when_no_path_leads_to_it(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    root = files(apart__tasks=ONE)
    app = imported("apart.tasks").app
    sys.modules.pop("apart")
    monkeypatch.setattr(sys, "path", sys.path[1:])
    where = place_of(app.tasks["apart.tasks.first"])
    assert find(app, "apart.tasks.first", where).name == "apart.tasks.first"
    assert sys.path[-1] == str(root)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("raise RuntimeError('no licence')", r"can't import 'one', as the worker has: RuntimeError: no licence"),
        ("import sys; sys.exit(3)", r"can't import 'one', as the worker has: SystemExit: 3"),
        ("import no_such_module", r"can't import 'one', as the worker has: ModuleNotFoundError"),
        ("app = None", r"finds no app: importing its module does not make one \(one\.app\)"),
        (ONE.replace("first", "second"), r"has imported 'one', and there is no task 'one\.first' there"),
    ],
)
def test_it_is_said_what_is_missing(files: Files, source: str, says: str) -> None:
    files(one=ONE)
    app = imported("one").app
    where = place_of(app.tasks["one.first"])
    files(one=source)
    with pytest.raises(UnreadyError, match=says):
        find(app, "one.first", where)


def test_settings_are_those_of_the_worker(files: Files) -> None:
    files(one=ONE)
    app = imported("one").app
    app.conf.override("broker_url", "sqlite:///other.db")
    app.conf.task_acks_late = True
    found = find(app, "one.first", Place("one", None)).app.conf
    assert (found.broker_url, found.origin("broker_url")) == ("sqlite:///other.db", "command line")
    assert (found.task_acks_late, found.origin("task_acks_late")) == (True, "assigned")


def test_setting_that_can_not_be_sent_has_to_be_set_by_the_import(files: Files) -> None:
    files(one=ONE)
    app = imported("one").app
    app.conf.task_routes = [lambda *_, **__: None]
    with pytest.raises(UnreadyError, match=r"get its app ready.*'task_routes' was assigned after.*can't be pickled"):
        find(app, "one.first", Place("one", None))
    files(one=f"{ONE}app.conf.task_routes = [lambda *_, **__: None]\n")
    found = find(app, "one.first", Place("one", None), apps=[Place("one", None, "app")])
    assert found.app.conf.task_routes is not None


def test_loggers_have_the_levels_that_they_have_in_the_worker(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    files(one=f"import logging\nlogging.getLogger('finding.noisy').setLevel('DEBUG')\n{ONE}")
    app = imported("one").app
    noisy = logging.getLogger("finding.noisy")
    monkeypatch.setattr(noisy, "level", logging.ERROR)
    find(app, "one.first", Place("one", None))
    assert noisy.level == logging.ERROR


def test_redirection_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    app = AioTask("proj", broker="memory://")
    assert setup(app, []).redirect is None
    with redirect_stdouts(logging.getLogger("prints"), "ERROR"):
        assert setup(app, []).redirect == ("prints", logging.ERROR)


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_inside", "_imports_main"):
        monkeypatch.setattr(inside, name, False)
    inside.enter()


@pytest.mark.usefixtures("in_a_process")
async def test_memory_is_refused_in_a_process() -> None:
    for urls in (
        {"broker": "memory://"},
        {"broker": "sqlite:///x.db", "backend": "memory://"},
    ):
        app = AioTask("proj", **urls)
        with pytest.raises(AioTaskError, match=r"memory:// is in the worker's process alone"):
            await app.connect()
    assert inside.refusal(AioTask("proj", broker="sqlite:///x.db").conf) is None


async def test_nothing_is_refused_elsewhere() -> None:
    assert inside.refusal(AioTask("proj", broker="memory://").conf) is None


@pytest.mark.usefixtures("in_a_process")
async def test_everything_is_refused_while_the_script_is_imported() -> None:
    app = AioTask("proj", broker="sqlite:///x.db")
    inside.importing_main(True)
    with pytest.raises(AioTaskError, match=r'Put what is to run once under: if __name__ == "__main__":'):
        await app.connect()
    inside.importing_main(False)
    assert inside.refusal(app.conf) is None


def test_script_that_was_typed_in_is_refused() -> None:
    told = Setup([], None, [Place("__main__", None, "app")], {}, {}, None)
    with pytest.raises(UnreadyError, match=r"can't import '__main__'.*typed in; define the task in a module"):
        Finder(told).find(call("proj.t", Place("__main__", None)))
