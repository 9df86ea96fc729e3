"""Declares settings and holds their values: each is checked on its way in and known by where it came from."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NoReturn, Self, TypeVar, overload

from aiotask.exceptions import ImproperlyConfigured
from aiotask.settings.kinds import NOT_AVAILABLE, Kind, MisfitError, show
from aiotask.suggestions import did_you_mean

Kept = TypeVar("Kept")
Given = TypeVar("Given")

DEFAULT: Final = "default"
ARGUMENT: Final = "argument"
ASSIGNED: Final = "assigned"
COMMAND_LINE: Final = "command line"

_SECRET_WORDS: Final = ("pass", "pwd", "secret", "token", "key", "auth", "credential")


class Setting(Generic[Kept, Given]):
    """The declaration of one setting, in the body of a `CheckedSettings` class.

    Type checkers see a descriptor that is assigned a `Given` and read as a `Kept`. At run time reading finds the value
    in the instance, and no code of ours runs.

    Attributes:
        name: The setting's name.
        kind: What fits.
        default: What is kept when nobody says anything.
        meaning: One line for the documentation.
        available: False while only the default can be had.
    """

    __slots__ = ("available", "default", "kind", "meaning", "name")

    def __init__(self, kind: Kind[Kept, Given], default: Given, meaning: str, *, available: bool = True) -> None:
        self.name = ""
        self.kind = kind
        self.default: Kept = kind.check(default)
        self.meaning = meaning
        self.available = available

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: Any) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> Kept: ...
        def __get__(self, instance: object, owner: Any) -> Any: ...
        def __set__(self, instance: object, value: Given) -> None: ...

    def check(self, value: object) -> Kept:
        """Return what is kept of `value`.

        Raises:
            MisfitError: It does not fit, or is not the default of a setting that is not available.
        """
        if self.available:
            return self.kind.check(value)
        try:
            if self.kind.check(value) == self.default:
                return self.default
        except MisfitError:
            pass  # what it will have to look like does not matter as long as it can't be set
        raise MisfitError(NOT_AVAILABLE, f" Leave it out: it is {show(self.default)} in any case.")


def not_yet(kind: Kind[Kept, Given], default: Given, meaning: str) -> Setting[Kept, Given]:
    """Declare a setting that can't be honoured yet: anything but its default is refused, never ignored."""
    return Setting(kind, default, meaning, available=False)


class CheckedSettings:
    """Values of the settings that a subclass declares. Reading one is reading an attribute.

    Every way to set one checks it and raises `ImproperlyConfigured` with the setting, the value, where it came from and
    what would fit; of several set at once all are taken or none.
    """

    _catalogue: ClassVar[Mapping[str, Setting[Any, Any]]] = {}
    _origins: Mapping[str, str]
    _watchers: "list[Callable[[Self], None]]"

    def __init_subclass__(cls) -> None:
        cls._catalogue = {name: setting for name, setting in vars(cls).items() if isinstance(setting, Setting)}

    def __init__(self, **values: Any) -> None:
        fields = vars(self)
        fields.update((name, setting.default) for name, setting in self._catalogue.items())
        fields["_origins"] = {}
        fields["_watchers"] = []
        self.apply({name: (value, ARGUMENT) for name, value in values.items()})

    @classmethod
    def catalogue(cls) -> Mapping[str, Setting[Any, Any]]:
        """Return the declaration of each setting by its name, in the order of the documentation."""
        return cls._catalogue

    @classmethod
    def declaration(cls, name: str, value: object, origin: str) -> Setting[Any, Any]:
        """Return the declaration of setting `name`, which is to get `value` from `origin`.

        Raises:
            ImproperlyConfigured: There is none; the message names the nearest.
        """
        setting = cls._catalogue.get(name)
        if setting is not None:
            return setting
        hint = cls._nearest(name)
        secret = any(word in (name + hint).lower() for word in _SECRET_WORDS)
        raise ImproperlyConfigured(
            f"unknown setting {name!r} = {'***' if secret else show(value)} (origin: {origin})."
            f"{hint or ' docs/settings.md lists those that there are.'}"
        )

    @classmethod
    def _nearest(cls, name: str) -> str:
        return did_you_mean(name.lower().removeprefix("celery_"), cls._catalogue)

    def apply(self, values: Mapping[str, tuple[Any, str]]) -> None:
        """Set several settings at once, or none when one of them does not fit.

        Args:
            values: The value and its origin, by the setting's name.
        """
        checked = {name: self._check(name, value, origin) for name, (value, origin) in values.items()}
        candidate = object.__new__(type(self))
        fields = vars(candidate)
        fields.update(vars(self), **checked)
        fields["_origins"] = {**self._origins, **{name: origin for name, (_, origin) in values.items()}}
        candidate.check_together()
        for watcher in vars(self).get("_watchers", ()):
            watcher(candidate)
        vars(self).update(fields)

    def watch(self, watcher: Callable[[Self], None]) -> None:
        """Let `watcher` see all values whenever some are about to be set; it may refuse them by an error."""
        self._watchers.append(watcher)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has watchers of its own: these know the original.
        return {**vars(self), "_watchers": []}

    def override(self, name: str, value: Any, origin: str = COMMAND_LINE) -> None:
        """Set `name`, whatever had set it before. What the command line says, later assignments don't change."""
        self.apply({name: (value, origin)})

    def update(self, **values: Any) -> None:
        """Assign several settings at once. It is the way to change two that are checked against each other."""
        self._assign(values)

    def origin(self, name: str) -> str:
        """Return where the value of setting `name` came from.

        It is one of "default", "environment AIOTASK_X", "[tool.aiotask] in PATH", "argument" (of the app), "assigned",
        "command line".

        Raises:
            ImproperlyConfigured: There is no such setting; the message names the nearest.
        """
        if name not in self._catalogue:
            raise ImproperlyConfigured(f"unknown setting {name!r}.{self._nearest(name)}")
        return self._origins.get(name, DEFAULT)

    def shown(self, name: str) -> str:
        """Return the value of setting `name` as it may be shown to people: a repr without secrets."""
        return self._catalogue[name].kind.show(getattr(self, name))

    def check_together(self) -> None:
        """Check values against each other; a subclass raises `ImproperlyConfigured`. Called before any are taken."""

    def _assign(self, values: Mapping[str, Any]) -> None:
        fixed = [name for name in values if self._origins.get(name) == COMMAND_LINE]
        for name in fixed:
            self._check(name, values[name], ASSIGNED)
        self.apply({name: (value, ASSIGNED) for name, value in values.items() if name not in fixed})

    def _check(self, name: str, value: object, origin: str) -> Any:
        try:
            return self.declaration(name, value, origin).check(value)
        except MisfitError as misfit:
            raise ImproperlyConfigured(f"setting {name!r} {misfit} (origin: {origin}).{misfit.hint}") from None

    if not TYPE_CHECKING:  # a visible __setattr__ would allow every name in the eyes of a type checker

        def __setattr__(self, name: str, value: Any) -> None:
            self._assign({name: value})

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"setting {name!r} can't be deleted; assign its default instead")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={self.shown(name)}' for name in self._origins)})"
