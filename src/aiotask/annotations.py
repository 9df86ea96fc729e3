"""Options that are laid over those of the tasks: the setting `task_annotations`. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from aiotask.exceptions import ImproperlyConfigured
from aiotask.options import check_task_option

EVERY_TASK: Final = "*"

_FIXED: Final = ("name", "bind", "base", "abstract", "backend")
"""What a task is, and not how it runs."""


def check_annotations(value: Any) -> None:
    """See that `value` is a mapping of task names, or `*` for all, to options; or a list of such mappings.

    Raises:
        TypeError, ValueError: It is not; the text is a predicate of the setting.
    """
    if not isinstance(value, (Mapping, list, tuple)):
        raise TypeError(f"must be a mapping of task names, or '*', to options, or a list of those, not {value!r:.80}")
    for annotations in _each(value):
        if not isinstance(annotations, Mapping):
            raise TypeError(f"holds {annotations!r:.80}; it takes mappings of task names, or '*', to options")
        for name, options in annotations.items():
            _check(name, options)


def laid_over(annotations: Any, task: str) -> dict[str, Any]:
    """Return the options that the setting lays over those of a task; of a list the later over the earlier ones."""
    laid: dict[str, Any] = {}
    for mapping in _each(annotations):
        laid |= mapping.get(EVERY_TASK, {})
        laid |= mapping.get(task, {})
    return laid


def unused(annotations: Any, tasks: Iterable[str]) -> Iterator[str]:
    """Return the names that are those of none of `tasks`."""
    known = {EVERY_TASK, *tasks}
    for mapping in _each(annotations):
        yield from (name for name in mapping if name not in known)


def _each(annotations: Any) -> Any:
    return (annotations,) if isinstance(annotations, Mapping) else annotations or ()


def _check(name: Any, options: Any) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"names {name!r:.80}; it takes the name of a task, or '*' for all")
    if not isinstance(options, Mapping):
        raise TypeError(f"lays {options!r:.80} over {name!r}; it takes a mapping of options")
    for option, value in options.items():
        if not isinstance(option, str) or option in _FIXED:
            raise ValueError(f"lays {option!r:.80} over {name!r}, which is said where a task is defined")
        try:
            check_task_option(name, option, value)
        except ImproperlyConfigured as error:
            raise ValueError(f"doesn't fit: {str(error).removesuffix('.')}") from None
