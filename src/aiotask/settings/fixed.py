"""Lists and mappings that a setting can hold: equal to plain ones, but not to be changed behind the checks' back."""

from typing import Any, NoReturn, TypeVar

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class FixedList(list[T]):
    """A list that refuses to be changed in place. `app.conf.imports += [...]` works: it assigns, and so is checked."""

    __slots__ = ()

    def __iadd__(self, other: Any) -> Any:  # type: ignore[misc]  # a plain list is what gets assigned
        return [*self, *other]

    def __reduce__(self) -> tuple[Any, ...]:
        # The inherited way to copy or unpickle a list appends to it.
        return FixedList, (list(self),)


class FixedDict(dict[K, V]):
    """A mapping that refuses to be changed in place. `app.conf.x |= {...}` works: it assigns, and so is checked."""

    __slots__ = ()

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # a plain dict is what gets assigned
        return {**self, **other}

    def __reduce__(self) -> tuple[Any, ...]:
        return FixedDict, (dict(self),)


def _refuse(self: object, *_: object, **__: object) -> NoReturn:
    raise TypeError(
        "the value of a setting can't be changed in place, where nothing would check it; "
        "assign a new one: app.conf.imports = [*app.conf.imports, 'proj.tasks']"
    )


for _fixed, _changing in (
    (FixedList, "append extend insert remove pop clear sort reverse __setitem__ __delitem__ __imul__"),
    (FixedDict, "update setdefault pop popitem clear __setitem__ __delitem__"),
):
    for _method in _changing.split():
        setattr(_fixed, _method, _refuse)
