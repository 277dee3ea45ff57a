"""State: what every part of a run that changes fulfils, and the checks of arrays that come out of a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

_HALF = 2**64


class Part(Protocol):
    """A part of a run that training advances: the learner, the replay memory, the running episodes, …"""

    def state(self) -> dict[str, np.ndarray]:
        """Return everything that the part resumes from, by name."""

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned. Raises ValueError, or KeyError, for what it cannot have returned."""


def noise_generator(seed: int) -> np.random.Generator:
    """Return the generator of a learner's noise and fractions: a stream of its own, not the initial parameters'."""
    stream = int(np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1)[0])
    return np.random.default_rng(stream)


def generator_state(random: np.random.Generator) -> np.ndarray:
    """The state of a PCG64 generator, uint64 `[6]`.

    In turn the high and low halves of its state, those of its increment, whether it keeps half of a drawn number, and
    that half.
    """
    state = random.bit_generator.state
    inner = state["state"]
    words = [*divmod(inner["state"], _HALF), *divmod(inner["inc"], _HALF), state["has_uint32"], state["uinteger"]]
    return np.array(words, np.uint64)


def set_generator_state(random: np.random.Generator, state: np.ndarray) -> None:
    """Restore a PCG64 generator from what `generator_state` returned. Raises ValueError for anything else."""
    if state.shape != (6,) or state.dtype != np.uint64:
        raise ValueError(f"the state of a generator is {state.dtype} {state.shape}")
    high, low, increment_high, increment_low, has_half, half = (int(word) for word in state)
    # With an even increment the generator may give one number for ever, and who waits for another would wait for ever.
    if increment_low % 2 == 0 or has_half > 1 or half >= 2**32:
        raise ValueError("the state of a generator is none that a generator can be in")
    random.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": high * _HALF + low, "inc": increment_high * _HALF + increment_low},
        "has_uint32": has_half,
        "uinteger": half,
    }


class Form(NamedTuple):
    """The shape and dtype of an array that may not exist yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def check_fit(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray | Form]) -> None:
    """Refuse, with a ValueError of one sentence, arrays whose names, shapes or kinds of numbers are not as expected."""
    for name, like in expected.items():
        if name not in given:
            raise ValueError(f"{name!r} is missing")
        array = np.asarray(given[name])
        if array.shape != like.shape:
            raise ValueError(f"{name!r} has shape {array.shape}, and {like.shape} is needed")
        if not np.can_cast(array.dtype, like.dtype, "same_kind"):
            raise ValueError(f"{name!r} holds {array.dtype}, and {like.dtype} is needed")
    for name in given:
        if name not in expected:
            raise ValueError(f"{name!r} is not known here")


def check_counts(name: str, array: np.ndarray, shape: tuple[int, ...] = (), below: int = 2**62) -> None:
    """Raise ValueError unless an array out of a file has that shape and holds whole numbers in [0, below)."""
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"its {name} is {array.dtype} {array.shape}, and has to hold counts {shape}")
    if ((array < 0) | (array >= below)).any():
        raise ValueError(f"not all of its {name} are in [0, {below})")


def check_form(name: str, array: np.ndarray, form: Form) -> None:
    """Raise ValueError unless an array out of a file has that shape and dtype."""
    if array.shape != form.shape or array.dtype != form.dtype:
        raise ValueError(f"its {name} is {array.dtype} {array.shape}, and has to be {form.dtype} {form.shape}")


def join(parts: Mapping[str, Part]) -> dict[str, np.ndarray]:
    """Return the arrays of all parts under one name each: part/name."""
    return {f"{part}/{name}": array for part, owner in parts.items() for name, array in owner.state().items()}


def split(state: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Return what `join` returned as the arrays of each part by their own names."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        part, _, own = name.partition("/")
        parts.setdefault(part, {})[own] = array
    return parts
