"""The replay memory: a ring over one contiguous array per field (Mnih 2015, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from upright.errors import UprightError
from upright.machine import available_bytes, in_gib
from upright.state import generator_state, set_generator_state


class Transition(NamedTuple):
    """One step, or n of them folded into one; or many of these, each field with a leading axis.

    obs, next_obs `[*shape]` · action: its number · reward: Σ γᵏ r over the k ≤ n steps between
    discount: γᵏ·(1 − terminated), so that no loss ever sees γ, n or an episode's end
    mask, next_mask `[A]`: the actions allowed at obs and next_obs, or None without masks
    """

    obs: Any
    action: Any
    reward: Any
    discount: Any
    next_obs: Any
    mask: Any = None
    next_mask: Any = None


class Batch(NamedTuple):
    """B transitions: where they lie in the memory, and what each weighs in the loss.

    columns: the memory's own arrays, of which each field has a leading axis for all its transitions. From one batch to
    the next they are the same object, so that a learner may keep what it found out about them.
    place `[B]`: the transitions' rows there · weight `[B]`: importance weights, or None when all are 1
    """

    columns: Transition
    place: np.ndarray
    weight: np.ndarray | None

    @property
    def transition(self) -> Transition:
        """A copy of the transitions as they are in the memory now, each field `[B, ...]`."""
        return Transition(*[None if column is None else column.take(self.place, axis=0) for column in self.columns])


Columns = Mapping[str, tuple[tuple[int, ...], Any]]


def columns_for(observation_shape: tuple[int, ...], observation_dtype: Any, num_actions: int | None) -> Columns:
    """Shape and dtype of each column; num_actions adds the two masks."""
    columns: dict[str, tuple[tuple[int, ...], Any]] = {
        "obs": (observation_shape, observation_dtype),
        "action": ((), np.int64),
        "reward": ((), np.float64),
        "discount": ((), np.float64),
        "next_obs": (observation_shape, observation_dtype),
    }
    if num_actions is not None:
        columns |= {"mask": ((num_actions,), np.bool_), "next_mask": ((num_actions,), np.bool_)}
    return columns


def bytes_needed(capacity: int, columns: Columns) -> int:
    """What a memory of that capacity takes, in bytes."""
    return capacity * sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in columns.values())


class ReplayMemory:
    """The last `capacity` transitions, drawn uniformly with replacement.

        memory = ReplayMemory(10_000)
        memory.push(obs, action, reward, discount, next_obs)
        batch = memory.sample(128)

    Without columns (see `columns_for`), the first push decides the shapes and dtypes. Writing copies, so
    nothing that an environment does to its arrays afterwards reaches the memory.
    """

    def __init__(self, capacity: int, columns: Columns | None = None, seed: int = 0) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}, but a memory holds at least 1 transition")
        self.capacity = capacity
        self.random = np.random.default_rng(seed)
        # An array `[capacity, ...]` a field, once they are allocated; without masks, None for these.
        self.columns = Transition(None, None, None, None, None)
        self.pushed = 0  # so far; the k-th lies at k modulo the capacity
        if columns is not None:
            self._allocate(columns)

    def __len__(self) -> int:
        return min(self.pushed, self.capacity)

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
        """Store one transition over the oldest, and return its place."""
        if self.columns.obs is None:
            given = Transition(obs, action, reward, discount, next_obs, mask, next_mask)._asdict()
            arrays = {name: np.asarray(value) for name, value in given.items() if value is not None}
            kinds = {"action": np.int64, "reward": np.float64, "discount": np.float64}
            self._allocate({name: (a.shape, kinds.get(name, a.dtype)) for name, a in arrays.items()})
        place = self.pushed % self.capacity
        column = self.columns
        column.obs[place] = obs
        column.action[place] = action
        column.reward[place] = reward
        column.discount[place] = discount
        column.next_obs[place] = next_obs
        if column.mask is not None:
            column.mask[place] = mask
            column.next_mask[place] = next_mask
        self.pushed += 1
        return place

    def sample(self, batch_size: int, progress: float = 1.0) -> Batch:
        """Draw a batch. `progress`, the share of training done, only matters to `PrioritisedReplay`."""
        length = len(self)
        if not length:
            raise ValueError("the memory is empty: push a transition before you sample")
        # The quickest way to whole numbers below n, each as likely as the others to within n/2⁵³.
        index = (self.random.random(batch_size) * length).astype(np.int64)
        return Batch(self.columns, index, None)

    def reprioritise(self, batch: Batch, priority: np.ndarray | None) -> None:
        """Nothing: every transition stays equally likely."""

    def shapes(self) -> Columns:
        """Shape and dtype of each column."""
        return {name: (c.shape[1:], c.dtype) for name, c in self.columns._asdict().items() if c is not None}

    def rows(self, first: int, end: int) -> dict[str, np.ndarray]:
        """A copy of each column's part with the transitions that were pushed as number `first` to `end` − 1."""
        index = np.arange(first, end) % self.capacity
        columns = self.columns._asdict().items()
        return {name: column.take(index, axis=0) for name, column in columns if column is not None}

    def restore_rows(self, first: int, rows: Mapping[str, np.ndarray]) -> None:
        """Put what `rows` gave back. Raises ValueError when it does not fit these columns."""
        index = np.arange(first, first + len(next(iter(rows.values())))) % self.capacity
        like = {name: column[:1] for name, column in self.columns._asdict().items() if column is not None}
        if rows.keys() != like.keys():
            raise ValueError(f"it holds the columns {', '.join(rows)}, not {', '.join(like)}")
        for name, array in rows.items():
            if array.dtype != like[name].dtype or array.shape != (len(index), *like[name].shape[1:]):
                raise ValueError(f"its column {name} is {array.dtype} {array.shape}")
            getattr(self.columns, name)[index] = array

    def state(self) -> dict[str, np.ndarray]:
        """All but the rows that the next batches depend on."""
        return {"pushed": np.array(self.pushed), "random": generator_state(self.random)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave, to the same batches, once the rows are restored."""
        pushed = int(state["pushed"])
        if not 0 <= pushed < 2**62:
            raise ValueError(f"{pushed} transitions cannot have been pushed")
        self.pushed = pushed
        set_generator_state(self.random, state["random"])

    def _allocate(self, columns: Columns) -> None:
        arrays = {name: np.zeros((self.capacity, *shape), dtype) for name, (shape, dtype) in columns.items()}
        self.columns = Transition(**arrays)


def check_memory(needed: int) -> None:
    """Refuse, before anything is allocated, a replay memory that this machine cannot hold."""
    available = available_bytes()
    if available is not None and needed > available:
        raise UprightError(
            f"The replay memory needs {in_gib(needed)}, and {in_gib(available)} are available here: "
            "lower buffer_size, or make the observations smaller with a wrapper."
        )
