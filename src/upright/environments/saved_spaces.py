"""Spaces as plain JSON values, and back: a file may ask for no more than an environment could have."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from upright.errors import SpaceError

# What a saved space may ask for: no environment has that much, and a file that someone else made may say anything.
DEEPEST_SAVED = 32  # spaces within spaces
MOST_SAVED = 10_000  # spaces in all
LARGEST_SAVED = 64 * 2**20  # bytes of all lower bounds


def to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as plain JSON values; `from_dict` reads it back to an equal space."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "shape": list(space.shape),
            "dtype": str(space.dtype),
            "low": _bound(space.low),
            "high": _bound(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {
            "type": "MultiDiscrete",
            "nvec": space.nvec.tolist(),
            "start": space.start.tolist(),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[key, to_dict(inner)] for key, inner in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [to_dict(inner) for inner in space.spaces]}
    raise SpaceError(f"The space {space} cannot be saved.")


def from_dict(values: Any) -> spaces.Space[Any]:
    """The space that `to_dict` wrote. Raises SpaceError for anything else, before it takes memory or time."""
    _check_saved(values)
    try:
        with warnings.catch_warnings(action="ignore"):
            return _made(values)
    except Exception as error:  # whatever Gymnasium and NumPy have against the numbers
        raise SpaceError(f"The saved space cannot be made: {type(error).__name__}: {error}.") from error


def _check_saved(values: Any) -> None:
    """Refuse what is no saved space, or one too deep, of too many parts or too large to be made."""
    waiting, count, size = [(values, 1)], 0, 0
    while waiting:
        each, depth = waiting.pop()
        count += 1
        kind = each.get("type") if isinstance(each, Mapping) else None
        parts = each.get("spaces") if kind in ("Dict", "Tuple") else ()
        if kind not in ("Box", "Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple"):
            raise SpaceError(f"The saved space has the unknown type {kind!r}.")
        if not isinstance(parts, (list, tuple)):
            raise SpaceError(f"The saved {kind} space names no spaces.")
        if kind == "Box":
            size += _saved_size(each)
        if depth > DEEPEST_SAVED or count + len(parts) > MOST_SAVED or size > LARGEST_SAVED:
            raise SpaceError(
                f"The saved space is beyond what is read: {MOST_SAVED:,} spaces, {DEEPEST_SAVED} deep, with "
                f"{LARGEST_SAVED:,} bytes of bounds."
            )
        for part in parts:
            if kind == "Dict" and not (isinstance(part, (list, tuple)) and len(part) == 2):
                raise SpaceError("The saved Dict space names a space without its key.")
            waiting.append((part[1] if kind == "Dict" else part, depth + 1))


def _saved_size(box: Mapping[str, Any]) -> int:
    """Bytes of one bound of a saved Box."""
    shape, dtype = box.get("shape"), box.get("dtype")
    sides = shape if isinstance(shape, list) else [None]
    if not all(isinstance(side, int) and side >= 0 for side in sides):
        raise SpaceError(f"The saved Box has the shape {shape!r}.")
    try:
        known = np.dtype(dtype if isinstance(dtype, str) else None)
    except TypeError as error:
        raise SpaceError(f"The saved Box has the unknown dtype {dtype!r}.") from error
    if known.kind not in "biuf" or not isinstance(dtype, str):
        raise SpaceError(f"The saved Box has the dtype {dtype!r}, which is none of numbers.")
    return math.prod(sides) * known.itemsize


def _made(values: Mapping[str, Any]) -> spaces.Space[Any]:
    match values["type"]:
        case "Box":
            dtype, shape = np.dtype(values["dtype"]), tuple(values["shape"])
            low, high = (_read_bound(values[side], shape, dtype) for side in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "Discrete":
            return spaces.Discrete(values["n"], start=values["start"])
        case "MultiDiscrete":
            sizes, start = np.array(values["nvec"]), np.array(values["start"])
            if sum(map(abs, [*sizes.ravel().tolist(), *start.ravel().tolist()])) > LARGEST_SAVED:
                raise ValueError("it has too many values")
            kind = np.dtype(str(values["dtype"]))
            if kind.kind not in "iu":
                raise ValueError(f"its dtype is {kind}")
            return spaces.MultiDiscrete(sizes, dtype=kind.type, start=start)
        case "MultiBinary":
            return spaces.MultiBinary(values["n"])
        case "Dict":
            return spaces.Dict({key: _made(inner) for key, inner in values["spaces"]})
        case "Tuple":
            return spaces.Tuple([_made(inner) for inner in values["spaces"]])
    raise AssertionError("_check_saved lets no other type through")


def _bound(bound: np.ndarray) -> Any:
    # Text, because JSON has no infinity; one entry, because most bounds are the same everywhere.
    flat = [repr(value) for value in np.ravel(bound).tolist()]
    return flat[0] if len(set(flat)) == 1 else flat


def _read_bound(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    number: Callable[[str], float] = float if dtype.kind == "f" else int
    if isinstance(bound, str):
        return np.full(shape, number({"True": "1", "False": "0"}.get(bound, bound)), dtype)
    return np.array([number(value) for value in bound], dtype).reshape(shape)
