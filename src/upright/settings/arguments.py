"""Arguments for an environment's constructor, and their form in a file, which keeps them exactly.

JSON has neither tuples nor keys that are not text, nor numbers that are not finite. They are written as a mapping with
one key that says so: {"$tuple": [64, 64]}, {"$dict": [[0, 1.0], [1, 0.5]]}, {"$float": "inf"}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from upright.errors import SettingError, shown

TUPLE, DICT, FLOAT = "$tuple", "$dict", "$float"


def checked(value: Any, name: str = "env_kwargs") -> Any:
    """A copy of arguments that a file can hold: numbers, text, None, lists, tuples and dicts of these.

    Raises SettingError, with the argument's name, for anything else, for which a function has to make the environment.
    """
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        if not value.isascii() and value.encode(errors="replace").decode() != value:
            raise SettingError(f"{name} is {value!r}, which holds half of a surrogate pair, and no file can hold that.")
        return value
    if type(value) in (list, tuple):
        return type(value)(checked(item, f"{name}[{i}]") for i, item in enumerate(value))
    if isinstance(value, Mapping):
        return {checked(key, f"a key of {name}"): checked(item, f"{name}[{key!r}]") for key, item in value.items()}
    kind = type(value)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    raise SettingError(
        f"{name} is a {module}{kind.__qualname__}, which config.json and a saved policy cannot hold: give a function "
        "that makes the environment instead, such as lambda: MyEnv(…), with this argument in it."
    )


def encoded(value: Any) -> Any:
    """Checked arguments as plain JSON values; `decoded` reads them back to equal ones."""
    if isinstance(value, tuple):
        return {TUPLE: [encoded(item) for item in value]}
    if isinstance(value, list):
        return [encoded(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value) and not (len(value) == 1 and next(iter(value)) in _DECODERS):
            return {key: encoded(item) for key, item in value.items()}
        return {DICT: [[encoded(key), encoded(item)] for key, item in value.items()]}
    return value


def decoded(value: Any) -> Any:
    """Arguments from a file. Raises SettingError for what `encoded` cannot have written."""
    if isinstance(value, (list, tuple)):
        return type(value)(decoded(item) for item in value)
    if isinstance(value, Mapping):
        if len(value) == 1 and (kind := next(iter(value))) in _DECODERS:
            try:
                return _DECODERS[kind](value[kind])
            except (TypeError, ValueError, OverflowError) as error:
                raise SettingError(f"env_kwargs hold {shown(value)}, which is no {kind.strip('$')}.") from error
        return {key: decoded(item) for key, item in value.items()}
    return value


_DECODERS: Mapping[Any, Any] = {
    TUPLE: lambda items: tuple(decoded(item) for item in items),
    DICT: lambda pairs: {decoded(key): decoded(item) for key, item in pairs},
    FLOAT: float,
}
