"""Rows drawn by their priority: proportional prioritised replay (Schaul 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from upright.errors import Diverged
from upright.settings.kinds import Prioritised
from upright.state import generator_state, set_generator_state

BLOCK = 64


class SumTree:
    """Non-negative values `[capacity]` that can be drawn from in proportion, many at a time.

    A tree of two levels: the values in blocks of 64, and the sum of each block. A batch then takes one search among the
    blocks and one within them, in a few array operations, where a binary tree takes seventeen for 100,000 values. The
    sum of a changed block is computed again, so no rounding error builds up.
    """

    def __init__(self, capacity: int) -> None:
        self._values = np.zeros((math.ceil(capacity / BLOCK), BLOCK))
        self._sums = np.zeros(len(self._values))

    @property
    def total(self) -> float:
        """The sum of all values."""
        return float(self._sums.cumsum()[-1])

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        values: np.ndarray = self._values.reshape(-1)[index]
        return values

    def set(self, index: np.ndarray | int, value: np.ndarray | float) -> None:
        """Set the values at `index [B]`, or one; if a place occurs twice, the last value counts."""
        self._values.reshape(-1)[index] = value
        block = index // BLOCK
        self._sums[block] = self._values[block].sum(axis=-1)

    def find(self, mass: np.ndarray) -> np.ndarray:
        """The places `[B]` at which the running sum of the values passes each of `mass [B]`, from [0, total)."""
        running = self._sums.cumsum()
        # Rounding can leave a mass at the very end: of all, it belongs to the last block that is not 0, and of a block,
        # to the last value there that is not.
        last = running.searchsorted(running[-1])
        block = np.minimum(running.searchsorted(mass, side="right"), last)
        mass = mass - np.where(block > 0, running[block - 1], 0.0)
        values = self._values[block]
        place = (values.cumsum(axis=1) <= mass[:, None]).sum(axis=1)
        past = place == BLOCK
        if past.any():
            place[past] = BLOCK - 1 - (values[past] > 0)[:, ::-1].argmax(axis=1)
        found: np.ndarray = block * BLOCK + place
        return found


class Tree(Protocol):
    """The interface of `SumTree` and of the C++ tree in `native/sum_tree.h`."""

    @property
    def total(self) -> float: ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray: ...

    def set(self, index: np.ndarray | int, value: np.ndarray | float, /) -> None: ...

    def find(self, mass: np.ndarray, /) -> np.ndarray: ...


def sum_tree(capacity: int) -> Tree:
    """Return the C++ tree of `native/sum_tree.h`, which does the same faster, where it was built; else `SumTree`."""
    try:
        from upright._native import SumTree as NativeSumTree
    except ImportError:
        return SumTree(capacity)
    return NativeSumTree(capacity)


class ByPriority:
    """Draws row i with probability P(i) = pᵢ^α / Σ pₖ^α   (Schaul 2016, eq. 1)

    and weighs it by wᵢ = (N·P(i))^(−β) / max w in the loss (section 3.4), the maximum being over the batch. A new row
    gets the largest priority seen so far, so that each is likely to be drawn soon.
    """

    def __init__(self, capacity: int, settings: Prioritised, seed: int) -> None:
        self.capacity, self.settings = capacity, settings
        self._random = np.random.default_rng(seed)
        self._tree = sum_tree(capacity)
        self._largest = 1.0

    def add(self, place: int) -> None:
        self._tree.set(place, self._largest**self.settings.alpha)

    def select(self, count: int, length: int, progress: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw one row from each of `count` equal shares of the total priority.

        β runs from beta_initial to beta_final with `progress`.
        """
        total = self._tree.total
        mass = (np.arange(count) + self._random.random(count)) * (total / count)
        place = self._tree.find(mass)
        beta = self.settings.beta_initial + progress * (self.settings.beta_final - self.settings.beta_initial)
        weight = (length * self._tree[place] / total) ** -beta
        return place, weight / weight.max()

    def reprioritise(self, place: np.ndarray, priority: np.ndarray) -> None:
        """Set pᵢ = |priority| + ε. Raises Diverged when one is not finite."""
        priority = np.abs(np.asarray(priority, np.float64)) + self.settings.epsilon
        if priority.shape != place.shape:
            raise ValueError(f"there are {priority.size} of them for {place.size} transitions")
        if not np.isfinite(priority).all():
            raise Diverged("A priority", float(priority[~np.isfinite(priority)][0]))
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(place, priority**self.settings.alpha)

    def priorities(self, length: int) -> np.ndarray:
        """Return pᵢ^α of the first rows `[length]`."""
        return self._tree[np.arange(length)]

    def state(self, length: int) -> dict[str, np.ndarray]:
        return {
            "random": generator_state(self._random),
            "masses": self.priorities(length),
            "largest": np.array(self._largest),
        }

    def load_state(self, state: Mapping[str, np.ndarray], length: int) -> None:
        set_generator_state(self._random, state["random"])
        masses = np.asarray(state["masses"], np.float64)
        largest = float(state["largest"])
        with np.errstate(over="ignore"):
            total = float(masses.sum())
        if masses.shape != (length,) or not ((masses > 0).all() and math.isfinite(total)):
            raise ValueError("the priorities are not those of the stored transitions")
        if not (largest >= 1 and math.isfinite(largest)):
            raise ValueError(f"the largest priority is {largest}")
        self._tree = sum_tree(self.capacity)
        self._tree.set(np.arange(length), masses)
        self._largest = largest
