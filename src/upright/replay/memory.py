"""The replay memory: a ring of transitions, and what draws rows of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from upright.replay.prioritised import ByPriority
from upright.replay.ring import Columns, Ring
from upright.settings.config import Prioritised, Replay, Uniform
from upright.state import Form, generator_state, set_generator_state

UNIFORM = Uniform()


class Batch(NamedTuple):
    """B transitions: their rows in the memory, and what each weighs in the loss.

    columns: the memory's own arrays `[capacity, ...]`. From one batch to the next they are the same object, so that a
    learner may keep what it found out about them.
    place `[B]`: the transitions' rows there · weight `[B]`: importance weights, or None when all are 1
    """

    columns: Columns
    place: np.ndarray
    weight: np.ndarray | None

    @property
    def transition(self) -> Columns:
        """A copy of the transitions as they are in the memory now, each field `[B, ...]`."""
        return self.columns.take(self.place)


class Selector(Protocol):
    """Draws rows of a memory that holds `length` of them; it never sees a transition."""

    def add(self, place: int) -> None:
        """A transition was stored in this row."""

    def select(self, count: int, length: int, progress: float) -> tuple[np.ndarray, np.ndarray | None]:
        """Draw rows `[count]`, and their importance weights `[count]`, or None when all are 1.

        progress: the share of training done, in [0, 1]
        """

    def reprioritise(self, place: np.ndarray, priority: np.ndarray) -> None:
        """Take the new priorities `[B]` of rows `[B]`."""

    def state(self, length: int) -> dict[str, np.ndarray]:
        """Return everything that the next draws depend on."""

    def load_state(self, state: Mapping[str, np.ndarray], length: int) -> None:
        """Resume from what `state` returned. Raises ValueError for what it cannot have returned."""


class Uniformly:
    """Draws every row with the same probability, with replacement."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def add(self, place: int) -> None:
        pass

    def select(self, count: int, length: int, progress: float) -> tuple[np.ndarray, np.ndarray | None]:
        # The fastest way to whole numbers below n, each as likely as the others to within n/2⁵³.
        return (self._random.random(count) * length).astype(np.int64), None

    def reprioritise(self, place: np.ndarray, priority: np.ndarray) -> None:
        pass

    def state(self, length: int) -> dict[str, np.ndarray]:
        return {"random": generator_state(self._random)}

    def load_state(self, state: Mapping[str, np.ndarray], length: int) -> None:
        set_generator_state(self._random, state["random"])


class ReplayMemory:
    """The last `capacity` transitions, drawn with replacement, uniformly or as `replay` says.

        memory = ReplayMemory(10_000)
        memory.push(obs, action, reward, discount, next_obs)
        batch = memory.sample(128)

    ring: the transitions · selector: what draws rows of it
    Without forms (see `transition_forms`), the first push decides the shapes and dtypes.
    """

    def __init__(
        self,
        capacity: int,
        forms: Mapping[str, Form] | None = None,
        seed: int = 0,
        replay: Replay = UNIFORM,
    ) -> None:
        self.ring = Ring(capacity, forms)
        self.selector: Selector = (
            ByPriority(capacity, replay, seed) if isinstance(replay, Prioritised) else Uniformly(seed)
        )

    def __len__(self) -> int:
        return len(self.ring)

    def push(
        self,
        obs: Any,
        action: Any,
        reward: Any,
        discount: Any,
        next_obs: Any,
        mask: Any = None,
        next_mask: Any = None,
    ) -> None:
        """Store one transition over the oldest; see `Transition` for the fields."""
        self.selector.add(self.ring.push(obs, action, reward, discount, next_obs, mask, next_mask))

    def sample(self, batch_size: int, progress: float = 1.0) -> Batch:
        """Draw a batch. progress: the share of training done, in [0, 1], by which importance weights grow.

        Raises ValueError when the memory is empty.
        """
        ring = self.ring
        columns = ring.columns
        if not ring.pushed:
            raise ValueError("the memory is empty: push a transition before you sample")
        return Batch(columns, *self.selector.select(batch_size, len(ring), progress))

    def reprioritise(self, batch: Batch, priority: np.ndarray) -> None:
        """Take the priorities `[B]` that an update gave to the batch. Raises Diverged when one is not finite."""
        self.selector.reprioritise(batch.place, priority)

    def state(self) -> dict[str, np.ndarray]:
        """Return everything but the rows that the next batches depend on."""
        return {**self.ring.state(), **self.selector.state(len(self))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned, with the same batches, once the rows are restored."""
        self.ring.load_state(state)
        self.selector.load_state(state, len(self))
