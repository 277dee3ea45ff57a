"""Proportional prioritised replay (Schaul 2016)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from upright.errors import Diverged
from upright.replay.ring import Batch, Columns, ReplayMemory
from upright.settings.config import Prioritised

BLOCK = 64


class SumTree:
    """Non-negative values `[capacity]` that can be drawn from in proportion, many at a time.

    A tree of two levels: the values in blocks of 64, and the sum of each block. A batch then takes one search among the
    blocks and one within them, in a few array operations, where a binary tree takes seventeen for 100,000 values. The
    sum of a changed block is taken anew, so no rounding error builds up.
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
        """Set the values at `index [B]`, or one; of a place that stands there twice, the last one counts."""
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


def sum_tree(capacity: int) -> Any:
    """The C++ tree of `native/sum_tree.h`, which does the same sooner, where it was built; else `SumTree`."""
    try:
        from upright._native import SumTree as NativeSumTree
    except ImportError:
        return SumTree(capacity)
    return NativeSumTree(capacity)


class PrioritisedReplay(ReplayMemory):
    """A replay memory that draws transition i with probability P(i) = pᵢ^α / Σ pₖ^α   (Schaul 2016, eq. 1)

    and weighs it by wᵢ = (N·P(i))^(−β) / max w in the loss (section 3.4), the maximum being over the batch. A new
    transition gets the largest priority seen so far, so that each is likely to be drawn soon.
    """

    def __init__(self, capacity: int, settings: Prioritised, columns: Columns | None = None, seed: int = 0) -> None:
        super().__init__(capacity, columns, seed)
        self.settings = settings
        self._tree: SumTree = sum_tree(capacity)
        self._largest = 1.0

    def push(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        discount: Any,
        next_obs: Any,
        mask: Any = None,
        next_mask: Any = None,
    ) -> int:
        place = super().push(obs, action, reward, discount, next_obs, mask, next_mask)
        self._tree.set(place, self._largest**self.settings.alpha)
        return place

    def sample(self, batch_size: int, progress: float = 1.0) -> Batch:
        """Draw a batch, one transition from each of `batch_size` equal shares of the total priority.

        β runs from beta_initial to beta_final with `progress`, the share of training done, in [0, 1].
        """
        if not len(self):
            raise ValueError("the memory is empty: push a transition before you sample")
        total = self._tree.total
        mass = (np.arange(batch_size) + self.random.random(batch_size)) * (total / batch_size)
        index = self._tree.find(mass)
        beta = self.settings.beta_initial + progress * (self.settings.beta_final - self.settings.beta_initial)
        weight = (len(self) * self._tree[index] / total) ** -beta
        return Batch(self.columns, index, weight / weight.max())

    def reprioritise(self, batch: Batch, priority: np.ndarray | None) -> None:
        """Set pᵢ = |priority| + ε for the transitions of the batch. Raises Diverged when one is not finite."""
        priority = np.abs(np.asarray(priority, np.float64)) + self.settings.epsilon
        if not np.isfinite(priority).all():
            raise Diverged("A priority", float(priority[~np.isfinite(priority)][0]))
        self._largest = max(self._largest, float(priority.max()))
        self._tree.set(batch.place, priority**self.settings.alpha)

    def state(self) -> dict[str, np.ndarray]:
        masses = self._tree[np.arange(len(self))]
        return {**super().state(), "masses": masses, "largest": np.array(self._largest)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        super().load_state(state)
        masses = np.asarray(state["masses"], np.float64)
        largest = float(state["largest"])
        with np.errstate(over="ignore"):
            total = float(masses.sum())
        if masses.shape != (len(self),) or not ((masses > 0).all() and math.isfinite(total)):
            raise ValueError("the priorities are not those of the stored transitions")
        if not (largest >= 1 and math.isfinite(largest)):
            raise ValueError(f"the largest priority is {largest}")
        self._tree = sum_tree(self.capacity)
        self._tree.set(np.arange(len(self)), masses)
        self._largest = largest
