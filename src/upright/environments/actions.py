"""The numbering of actions of Gymnasium's spaces, 0 … A−1, and the masks of those that are allowed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from upright.errors import SpaceError

LARGEST_ACTION_TABLE = 4_096
_TOO_MANY = (
    f"above the {LARGEST_ACTION_TABLE:,} of the largest table; merge or fix some of its dimensions with an action "
    "wrapper (--wrapper)"
)


class Actions:
    """The numbering of the actions of one space, 0 … n−1.

    sizes: the numbers of values of its dimensions, which are numbered jointly; () for a Discrete
    n: number of actions; of a MultiDiscrete, a MultiBinary or a Box of integers, the size of its joint table
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.sizes: tuple[int, ...] = ()
        self._start = 0
        if isinstance(space, spaces.Discrete):
            self.n = int(space.n)
            self._start = int(space.start)
        elif isinstance(space, spaces.MultiDiscrete):
            self.sizes = tuple(int(size) for size in np.ravel(space.nvec))
            self._fill_table(space.start)
        elif isinstance(space, spaces.Box) and space.dtype.kind in "biu":
            low, high = np.ravel(space.low).tolist(), np.ravel(space.high).tolist()
            self.sizes = tuple(int(most) - int(least) + 1 for least, most in zip(low, high, strict=True))
            self._fill_table(space.low)
        elif isinstance(space, spaces.MultiBinary):
            bits = math.prod(space.shape)  # of a space out of a file, so many that they could not be listed
            if bits > math.log2(LARGEST_ACTION_TABLE):
                raise SpaceError(f"The action space {space} has 2^{bits:,} joint actions, {_TOO_MANY}.")
            self.sizes = (2,) * bits
            self._fill_table(np.zeros(space.shape, space.dtype))
        elif isinstance(space, spaces.Box):
            raise SpaceError(_continuous(space))
        else:
            several = isinstance(space, (spaces.Tuple, spaces.Dict))
            others = ", and if these are the actions of several agents, so that it plays all but one" if several else ""
            raise SpaceError(
                f"The action space {space} is not supported: the DQN family needs numbered actions; "
                f"wrap the environment so that its actions are Discrete or MultiDiscrete (--wrapper){others}."
            )

    def _fill_table(self, first: np.ndarray) -> None:
        """Number all combinations of the values of each dimension, which begin at `first`."""
        self.n = math.prod(self.sizes)
        if self.n > LARGEST_ACTION_TABLE:
            raise SpaceError(f"The action space {self.space} has {self.n:,} joint actions, {_TOO_MANY}.")
        table = np.stack(np.unravel_index(np.arange(self.n), self.sizes), axis=-1)
        self._table = (table.reshape(self.n, *first.shape) + first).astype(self.space.dtype)

    def decode(self, action: int) -> Any:
        """The environment's action with this number."""
        if self.sizes:
            return np.array(self._table[action])
        return action + self._start

    def decode_batch(self, actions: np.ndarray) -> np.ndarray:
        """`decode` for an array `[B]` of numbers; returns `[B]`, or `[B, *space.shape]` for MultiDiscrete."""
        decoded: np.ndarray = self._table[actions] if self.sizes else actions
        return decoded + self._start if self._start else decoded

    def mask(self, mask: Any, by_dimension: bool = False) -> np.ndarray:
        """The actions that a mask allows, as bool `[n]`: its entries are 0 or 1, or False and True.

        Of several dimensions also a mask for each: Gymnasium's tuple of masks, or one array of all of them, one after
        the other, as sb3-contrib has it; `by_dimension` says which it is where a joint mask has as many entries. Raises
        ValueError, with a text that follows where it was.
        """
        if self.sizes:
            parts = mask if isinstance(mask, (tuple, list)) and len(mask) == len(self.sizes) else None
            count = sum(self.sizes)
            if parts is None and np.size(mask) == count and (by_dimension or count != self.n):
                parts = np.split(np.ravel(mask), np.cumsum(self.sizes)[:-1])
            if parts is not None:
                joint = np.ones((), bool)
                for part, size in zip(parts, self.sizes, strict=True):
                    joint = np.logical_and.outer(joint, _flags(part, size))
                mask = joint
        return _flags(mask, self.n)


def _flags(mask: Any, size: int) -> np.ndarray:
    array = np.asarray(mask)
    if array.size != size or array.dtype.kind not in "buif":
        raise ValueError(f"has {array.size} entries of type {array.dtype}, not {size} zeros and ones")
    flags = array.reshape(size).astype(bool)
    if array.dtype.kind != "b" and not ((array == 0) | (array == 1)).all():
        raise ValueError(f"has other entries than zeros and ones: {np.ravel(array).tolist()}")
    return flags


def suggested_bins(space: spaces.Box) -> int | None:
    """The most bins a dimension, up to 11, whose joint table is not too large; None when even 2 are too many."""
    dimensions = math.prod(space.shape)
    bins = [n for n in range(2, 12) if n**dimensions <= LARGEST_ACTION_TABLE]
    return bins[-1] if bins else None


def _continuous(space: spaces.Box) -> str:
    problem = undiscretizable(space)
    if problem:
        return f"The action space {space} is continuous, and {problem}."
    return (
        f"The action space {space} is continuous, and the DQN family needs numbered actions: "
        f"add --discretize {suggested_bins(space)} (discretize={suggested_bins(space)} in Python)."
    )


def undiscretizable(space: spaces.Box) -> str | None:
    """Why no number of bins makes this action space a table, or None."""
    dimensions = math.prod(space.shape)
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        return "it is unbounded, so it cannot be cut into bins; clip it first with a wrapper such as RescaleAction"
    if suggested_bins(space) is None:
        return (
            f"even 2 bins in each of its {dimensions} dimensions make {2**dimensions:,} joint actions, above the "
            f"{LARGEST_ACTION_TABLE:,} of the largest table; use an algorithm for continuous actions, such as SAC"
        )
    return None
