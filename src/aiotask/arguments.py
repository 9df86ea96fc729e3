"""A task function's parameters: checked at the caller, converted on arrival. Pure; built per task at first use."""

import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec

from aiotask.exceptions import ArgumentError

_SKIPPED: Final = (inspect.Parameter.empty, Any)
_EXACT: Final = (int, str, float, bool, bytes, dict, list)
"""Annotations that a value of exactly this type satisfies, with nothing inside to look at."""
_BINARY: Final = (bytes, bytearray, memoryview)
_SCALARS: Final = (*_BINARY, datetime, date, time, timedelta, UUID, Decimal)


def _rebuild(kind: type, value: Any) -> Any:
    """Make a value of a class that msgspec doesn't know; only Pydantic models get here (see `_convertible`)."""
    if isinstance(value, kind):
        return value
    return kind.model_validate(value)  # type: ignore[attr-defined]


def _plain(value: Any) -> Any:
    """Return `value` with its containers and instances as JSON would carry them; only used after a first refusal.

    Raises:
        TypeError: It holds something that JSON doesn't carry.
    """
    return msgspec.to_builtins(value, builtin_types=_SCALARS)


def _ints(value: Any) -> Any:
    """Return `value` with whole numbers for bools, and with the values of enums, which pickle brings as they are."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, dict):
        return {key: _ints(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_ints(item) for item in value]
    return value


def _convertible(annotation: Any) -> bool:
    """Tell whether msgspec can judge every part of a type; Pydantic models are judged by themselves."""
    try:
        root = msgspec.inspect.type_info(annotation)
    except (TypeError, NameError, ValueError):
        return False
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType) and not hasattr(node.cls, "model_validate"):
            return False
        if isinstance(node, (msgspec.inspect.DataclassType, msgspec.inspect.StructType, msgspec.inspect.TypedDictType)):
            waiting.extend(field.type for field in node.fields)
        for name in ("item_type", "key_type", "value_type"):
            part = getattr(node, name, None)
            if part is not None:
                waiting.append(part)
        waiting.extend(getattr(node, "item_types", ()))
        waiting.extend(getattr(node, "types", ()))
    return True


class _Slot:
    """One parameter: what a value of it must be, and the cheapest way to see that it is."""

    __slots__ = ("annotation", "exact", "name", "origin")

    def __init__(self, name: str, annotation: Any) -> None:
        self.name = name
        self.annotation = annotation
        # By identity: not every annotation can be hashed or compared.
        self.exact = next((kind for kind in _EXACT if kind is annotation), None)
        origin = annotation if isinstance(annotation, type) and typing.get_origin(annotation) is None else None
        # An instance of an annotated class is trusted at the caller; containers are looked into.
        looked_into = origin in (dict, list, tuple, set, frozenset) or typing.is_typeddict(annotation)
        self.origin = None if looked_into else origin

    def check(self, value: Any) -> None:
        """Raise ValidationError when `value` can't be meant for this parameter."""
        if self.origin is not None and isinstance(value, self.origin):
            return
        # Bytes are themselves here: a text is not meant for them, though JSON carries them as one.
        try:
            msgspec.convert(value, self.annotation, dec_hook=_rebuild, builtin_types=_BINARY)
        except msgspec.ValidationError as refusal:
            # Instances inside containers, bools for ints, and tuples are judged by what they become on the wire.
            try:
                plain = _ints(_plain(value))
            except (TypeError, ValueError, RecursionError):
                raise refusal from None
            msgspec.convert(plain, self.annotation, dec_hook=_rebuild, builtin_types=_BINARY, str_keys=True)

    def convert(self, value: Any) -> Any:
        """Return `value` as the annotated type; raise ValidationError when it can't become one."""
        if value is True or value is False:
            return self._convert_bool(value)
        try:
            return msgspec.convert(value, self.annotation, dec_hook=_rebuild, str_keys=True)
        except msgspec.ValidationError:
            return msgspec.convert(_ints(value), self.annotation, dec_hook=_rebuild, str_keys=True)

    def _convert_bool(self, value: bool) -> Any:
        try:
            return msgspec.convert(value, self.annotation, dec_hook=_rebuild)
        except msgspec.ValidationError:
            msgspec.convert(int(value), self.annotation, dec_hook=_rebuild)
            return value


class _Plan:
    """A function's signature, laid out for checking."""

    def __init__(self, function: Callable[..., Any], *, skip_first: bool) -> None:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())[1 if skip_first else 0 :]
        self.signature = signature.replace(parameters=parameters)
        hints = _hints(function)
        self.slots: dict[str, _Slot] = {}
        for parameter in parameters:
            annotation = hints.get(parameter.name, parameter.annotation)
            if annotation not in _SKIPPED and not isinstance(annotation, str) and _convertible(annotation):
                self.slots[parameter.name] = _Slot(parameter.name, annotation)
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.positional = [self.slots.get(p.name) for p in positional]
        self.required = sum(p.default is p.empty for p in positional)
        self.only_positional = len(positional) == len(parameters)
        self.keywords = {
            p.name: self.slots.get(p.name) for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        variable = {p.kind: self.slots.get(p.name) for p in parameters}
        self.more_positional = variable.get(inspect.Parameter.VAR_POSITIONAL)
        self.more_keywords = variable.get(inspect.Parameter.VAR_KEYWORD)
        returned = hints.get("return", signature.return_annotation)
        known = returned not in (*_SKIPPED, None, type(None)) and not isinstance(returned, str)
        self.result = _Slot("return", returned) if known and _convertible(returned) else None


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the annotations with names resolved; one that can't be (imported for typing only) is left out."""
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError, SyntaxError):
        pass
    hints = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        holder = type("holder", (), {"__annotations__": {name: annotation}, "__module__": function.__module__})
        try:
            hints.update(typing.get_type_hints(holder, include_extras=True))
        except (NameError, TypeError, AttributeError, SyntaxError):
            continue
    return hints


class Arguments:
    """Checks and converts the arguments of one task by its function's signature."""

    __slots__ = ("_function", "_plan", "_skip_first", "_task_name")

    def __init__(self, task_name: str, function: Callable[..., Any], *, skip_first: bool) -> None:
        """Remember the function; its signature is read at the first use, when every name it mentions exists.

        Args:
            task_name: Named in errors.
            function: What the task runs.
            skip_first: True when its first parameter is given by us (`bind=True`).
        """
        self._task_name = task_name
        self._function = function
        self._skip_first = skip_first
        self._plan: _Plan | None = None

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """See at the caller that a call fits.

        Raises:
            ArgumentError: In number, name or annotated type; names the argument's path.
        """
        plan = self._plan or self._read()
        if not kwargs and plan.only_positional and plan.required <= len(args) <= len(plan.positional):
            for slot, value in zip(plan.positional, args, strict=False):
                if slot is not None and type(value) is not slot.exact:
                    self._check_one(slot, value, slot.name)
            return
        for slot, path, holder, key in self._placed(plan, args, kwargs):
            self._check_one(slot, holder[key], path)

    def arrive(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return decoded arguments as the annotated types, ready for the call.

        Raises:
            ArgumentError: They don't fit; names the argument's path.
        """
        plan = self._plan or self._read()
        if kwargs or not plan.only_positional or not plan.required <= len(args) <= len(plan.positional):
            for placed, path, holder, key in self._placed(plan, args, kwargs):
                holder[key] = self._convert_one(placed, holder[key], path)
            return args, kwargs
        for index, slot in enumerate(plan.positional[: len(args)]):
            if slot is not None and type(args[index]) is not slot.exact:
                args[index] = self._convert_one(slot, args[index], slot.name)
        return args, kwargs

    def result(self, value: Any) -> Any:
        """Return a stored return value as the annotated type; as it is when the annotation doesn't fit it."""
        slot = (self._plan or self._read()).result
        if slot is None or type(value) is slot.exact:
            return value
        try:
            return slot.convert(value)
        except (msgspec.ValidationError, ValueError, TypeError):
            return value

    def unchecked(self) -> dict[str, str]:
        """Return which annotated parameters are neither checked nor converted, and why, by their names.

        Only those that say what they take are named: no annotation, `Any` and `object` ask for no check.

        Raises:
            ValueError, TypeError: The function has no signature that can be read.
        """
        plan = self._plan or self._read()
        hints = _hints(self._function)
        reasons = {}
        for name, parameter in plan.signature.parameters.items():
            annotation = hints.get(name, parameter.annotation)
            # By identity: not every annotation can be compared. An `object` is anything.
            if name in plan.slots or any(annotation is anything for anything in (*_SKIPPED, object)):
                continue
            resolved = not isinstance(annotation, str)
            shown = inspect.formatannotation(annotation) if resolved else annotation
            reasons[name] = f"{shown} {'is no type that values can be made of' if resolved else 'is not defined'}"
        return reasons

    def _read(self) -> _Plan:
        self._plan = _Plan(self._function, skip_first=self._skip_first)
        return self._plan

    def _placed(
        self, plan: _Plan, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Iterator[tuple[_Slot, str, Any, int | str]]:
        """Yield each value that needs a look: its slot, the path to name it by, and where it lies.

        Raises:
            ArgumentError: The call doesn't fit in number or name.
        """
        self._bind(plan, args, kwargs)
        for index, value in enumerate(args):
            more = index - len(plan.positional)
            slot = plan.positional[index] if more < 0 else plan.more_positional
            if slot is not None and type(value) is not slot.exact:
                yield slot, slot.name if more < 0 else f"{slot.name}[{more}]", args, index
        for name, value in kwargs.items():
            slot = plan.keywords.get(name, plan.more_keywords)
            if slot is not None and type(value) is not slot.exact:
                yield slot, name, kwargs, name

    def _bind(self, plan: _Plan, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        try:
            plan.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentError(f"{self._task_name}{plan.signature}: {error}.") from None

    def _check_one(self, slot: _Slot, value: Any, path: str) -> None:
        try:
            slot.check(value)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
            raise self._misfit(path, error) from None  # whose text is in it; the rest is how we look

    def _convert_one(self, slot: _Slot, value: Any, path: str) -> Any:
        try:
            return slot.convert(value)
        except (msgspec.ValidationError, ValueError, TypeError, RecursionError) as error:
            raise self._misfit(path, error) from None  # whose text is in it; the rest is how we look

    def _misfit(self, path: str, error: Exception) -> ArgumentError:
        # msgspec ends its messages with "- at `$.items[0]`"; the path starts at the argument's own name.
        text = str(error)
        what, _, inner = text.partition(" - at `$")
        if inner:
            path += inner.rstrip("`")
        return ArgumentError(f"{self._task_name}: argument `{path}`: {what}.")
