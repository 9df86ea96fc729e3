"""Names stand for one task each; a module that is imported again may take its own names again."""

from collections.abc import Callable
from typing import Any

import pytest

from aiotask import AioTask, AlreadyRegistered, NotRegistered, Task
from aiotask.registry import Registry


def make(name: str, function: Callable[..., Any]) -> Task:
    """Return a task that another app has made, so that nothing but its name stands in the way."""
    return AioTask("elsewhere", broker="memory://").task(name=name)(function)


def source(number: int) -> str:
    return f"def add(x, y):\n    return x + y + {number}\n"


def module(filename: str, code: str) -> Callable[..., Any]:
    """Return the function `add` of a module, executed as an import does."""
    namespace: dict[str, Any] = {"__name__": "proj.tasks"}
    exec(compile(code, filename, "exec"), namespace)
    return namespace["add"]  # type: ignore[no-any-return]


def test_registry_is_a_mapping_of_names_to_tasks() -> None:
    registry = Registry()
    task = make("proj.add", lambda: None)
    registry.add(task)
    assert dict(registry) == {"proj.add": task}
    assert registry["proj.add"] is registry.get("proj.add") is task
    assert "proj.add" in registry
    assert "proj.sub" not in registry
    assert registry.get("proj.sub") is None
    assert len(registry) == 1


def test_registry_names_the_nearest_when_a_name_is_unknown() -> None:
    registry = Registry()
    registry.add(make("proj.add", lambda: None))
    with pytest.raises(NotRegistered) as raised:
        registry["proj.ad"]
    assert str(raised.value) == "No task 'proj.ad' is registered. Did you mean 'proj.add'?"
    with pytest.raises(KeyError):
        registry["something.else"]


def test_registry_refuses_a_second_task_and_says_where_both_stand() -> None:
    registry = Registry()
    first, second = module("/srv/one.py", source(1)), module("/srv/two.py", source(2))
    task = make("proj.add", first)
    registry.add(task)
    with pytest.raises(AlreadyRegistered) as raised:
        registry.add(make("proj.add", second))
    assert str(raised.value) == (
        "Two tasks are called 'proj.add': proj.tasks.add (/srv/one.py:1) and proj.tasks.add (/srv/two.py:1). "
        "Give one another name=."
    )
    assert registry["proj.add"] is task


def test_registry_takes_the_new_one_when_the_same_module_is_imported_again() -> None:
    registry = Registry()
    old, new = (make("proj.add", module("/srv/one.py", source(1))) for _ in range(2))
    registry.add(old)
    registry.add(new)
    registry.add(new)
    assert registry["proj.add"] is new
    assert len(registry) == 1


def test_registry_refuses_a_second_class_though_both_inherit_one_body() -> None:
    app = AioTask("proj", broker="memory://")

    class Body(app.Task):  # type: ignore[name-defined,misc]
        abstract = True

        async def run(self) -> None: ...

    class One(Body):
        name = "proj.same"

    with pytest.raises(AlreadyRegistered, match=r"One.*Other"):

        class Other(Body):
            name = "proj.same"

    assert isinstance(app.tasks["proj.same"], One)
