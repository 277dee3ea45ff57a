"""A dataclass that checks the type and range of each of its fields when it is built."""

from __future__ import annotations

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from upright.errors import SettingError, shown
from upright.settings.foreign_names import SCHEDULES


class Checked:
    """Derive a frozen dataclass from it: a value of another type, or outside its interval in `_ranges`, is refused.

    Intervals are written as in the fields' texts: "[0, 1)". None, where a field may be None, lies in all of them. A
    whole number has 64 bits, so that all that is computed of it is a number, too.
    """

    _ranges: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        for name, annotation in _annotations(type(self)).items():
            given = getattr(self, name)
            value = _conform(given, annotation)
            if value is _REFUSED:
                instead = f": {SCHEDULES[name]}" if callable(given) and name in SCHEDULES else ""
                raise SettingError(f"{name} is {shown(given)}, but it has to be {_describe(annotation)}{instead}.")
            object.__setattr__(self, name, value)
        for name, interval in self._ranges.items():
            value = getattr(self, name)
            numbers_in_it = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(isinstance(each, int) and each > LARGEST for each in numbers_in_it):
                raise SettingError(f"{name} is above {LARGEST}, the most that it may be.")
            if not all(_inside(each, interval) for each in numbers_in_it):
                raise SettingError(f"{name} is {value!r}, but it has to lie in {interval}.")


_REFUSED = object()
LARGEST = 2**63 - 1


def _annotations(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {each.name: hints[each.name] for each in dataclasses.fields(cls)}


def _conform(value: Any, annotation: Any) -> Any:
    """The value as the annotation's type (an int where a float is due, a list where a tuple is), or _REFUSED.

    A float that is whole, as 1e5, is an int where an int is due.
    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(annotation):
            conformed = _conform(value, option)
            if conformed is not _REFUSED:
                return conformed
        return _REFUSED
    if origin is Literal:
        return value if isinstance(value, str) and value in typing.get_args(annotation) else _REFUSED
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return _REFUSED
        items = tuple(_conform(item, typing.get_args(annotation)[0]) for item in value)
        return _REFUSED if _REFUSED in items else items
    if origin is not None and issubclass(origin, Mapping):
        is_named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        return dict(value) if is_named else _REFUSED
    if isinstance(value, bool) and annotation is not bool:
        return _REFUSED
    if annotation is int and isinstance(value, numbers.Integral):
        return int(value)
    if annotation in (int, float) and isinstance(value, numbers.Real):
        try:
            number = float(value)
        except OverflowError:
            return _REFUSED
        if annotation is float:
            return number
        return int(number) if number.is_integer() else _REFUSED
    return value if isinstance(value, annotation) else _REFUSED


def _describe(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(str(option) for option in typing.get_args(annotation))
    if origin is tuple:
        return f"a list, each {_describe(typing.get_args(annotation)[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    if annotation in names:
        return names[annotation]
    return "a mapping with text keys" if origin is not None else f"{annotation.__name__}(…)"


def _inside(value: float, interval: str) -> bool:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    return above and below
