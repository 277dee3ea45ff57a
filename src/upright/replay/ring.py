"""The replay memory: a ring of transitions (Mnih 2015, algorithm 1), and what draws rows of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from upright.errors import Misfit, UprightError, shown, wrong
from upright.machine import available_bytes, in_gib
from upright.messages import first_line, logger
from upright.replay.prioritised import ByPriority
from upright.settings.kinds import Prioritised, Replay, Uniform
from upright.state import Form, check_counts, check_form, generator_state, set_generator_state

UNIFORM = Uniform()
LARGEST_BATCH = 2**20


class Transition(NamedTuple):
    """One step, or n of them folded into one.

    obs, next_obs `[*shape]` · action: its number · reward: Σ γᵏ r over the k ≤ n steps between
    discount: γᵏ·(1 − terminated), so that no loss ever sees γ, n or an episode's end
    mask, next_mask `[A]`: the actions allowed at obs and next_obs, or None without masks
    """

    obs: np.ndarray
    action: int
    reward: float
    discount: float
    next_obs: np.ndarray
    mask: np.ndarray | None = None
    next_mask: np.ndarray | None = None


class Columns(NamedTuple):
    """Many transitions: the fields of `Transition`, each an array with a leading axis for them, or None."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    next_obs: np.ndarray
    mask: np.ndarray | None = None
    next_mask: np.ndarray | None = None

    def take(self, place: np.ndarray) -> Columns:
        """Return a copy of the transitions at these rows `[B]`."""
        return Columns(**{name: column.take(place, axis=0) for name, column in self.named().items()})

    def named(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names of their fields."""
        return {name: column for name, column in self._asdict().items() if column is not None}


def transition_forms(
    observation_shape: tuple[int, ...], observation_dtype: np.dtype[Any], num_actions: int | None
) -> dict[str, Form]:
    """Return the shape and dtype of each field of a transition; num_actions adds the two masks."""
    observation, number = Form(observation_shape, observation_dtype), Form((), np.dtype(np.float64))
    forms = {
        "obs": observation,
        "action": Form((), np.dtype(np.int64)),
        "reward": number,
        "discount": number,
        "next_obs": observation,
    }
    if num_actions is not None:
        forms |= dict.fromkeys(("mask", "next_mask"), Form((num_actions,), np.dtype(np.bool_)))
    return forms


def bytes_needed(capacity: int, forms: Mapping[str, Form]) -> int:
    """Return the bytes that `capacity` transitions of these forms take."""
    return capacity * sum(math.prod(form.shape) * form.dtype.itemsize for form in forms.values())


def check_memory(capacity: int, forms: Mapping[str, Form]) -> None:
    """Log what a memory of that capacity takes; raise UprightError, before it is allocated, where that is too much."""
    needed, available = bytes_needed(capacity, forms), available_bytes()
    logger.info(f"The replay memory of {capacity:,} transitions takes {in_gib(needed)}.")
    if available is not None and needed > available:
        raise UprightError(
            f"The replay memory needs {in_gib(needed)}, and {in_gib(available)} are available here: "
            "lower buffer_size, or make the observations smaller with a wrapper."
        )


class Ring:
    """The last `capacity` transitions that were pushed.

    pushed: how many, so far; the k-th is at row k modulo the capacity
    Without forms (see `transition_forms`), the first push decides them. Writing copies, so nothing that an environment
    does to its arrays afterwards reaches the ring.
    """

    def __init__(self, capacity: int, forms: Mapping[str, Form] | None = None) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, (int, np.integer)) or capacity < 1:
            raise Misfit(f"capacity is {shown(capacity)}, but a memory holds at least 1 transition: a whole number.")
        self.capacity = capacity
        self.pushed = 0
        self._columns = None if forms is None else _allocated(capacity, forms)

    def __len__(self) -> int:
        return min(self.pushed, self.capacity)

    @property
    def columns(self) -> Columns:
        """An array `[capacity, ...]` for each field: the same object from the first push on."""
        if self._columns is None:
            raise Misfit("The memory is empty: push a transition before you sample.")
        return self._columns

    @property
    def forms(self) -> dict[str, Form]:
        """The shape and dtype of each field."""
        return {name: Form(column.shape[1:], column.dtype) for name, column in self.columns.named().items()}

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
        """Store one transition over the oldest, and return its row. Raises Misfit for what is none of this memory's."""
        column = self._columns
        if column is None:
            forms = _forms_of({"obs": obs, "next_obs": next_obs, "mask": mask, "next_mask": next_mask})
            column = _allocated(self.capacity, forms)
        place = self.pushed % self.capacity
        try:
            column.obs[place] = obs
            column.action[place] = action
            column.reward[place] = reward
            column.discount[place] = discount
            column.next_obs[place] = next_obs
            if column.mask is not None and column.next_mask is not None:
                column.mask[place] = mask
                column.next_mask[place] = next_mask
        except (TypeError, ValueError, OverflowError) as error:
            self._repair(place)
            raise Misfit(f"The transition does not fit the memory: {first_line(error)}.") from error
        self._columns = column
        self.pushed += 1
        return place

    def _repair(self, place: int) -> None:
        """Let a row of which only a part was written hold the transition that follows it, as if it were forgotten."""
        if self._columns is not None and self.capacity > 1:
            for array in self._columns.named().values():
                array[place] = array[(place + 1) % self.capacity]
        elif self.pushed:
            self.pushed = 0

    def rows(self, first: int, end: int) -> dict[str, np.ndarray]:
        """Return a copy of the transitions that were pushed as number `first` to `end` − 1, an array for each field."""
        return self.columns.take(np.arange(first, end) % self.capacity).named()

    def restore_rows(self, first: int, rows: Mapping[str, np.ndarray]) -> None:
        """Put back what `rows` returned. Raises ValueError when it does not fit this ring."""
        columns = self.columns.named()
        if rows.keys() != columns.keys():
            raise ValueError(f"it holds the columns {', '.join(rows)}, not {', '.join(columns)}")
        count = len(rows["obs"])
        index = np.arange(first, first + count) % self.capacity
        for name, form in self.forms.items():
            check_form(name, rows[name], Form((count, *form.shape), form.dtype))
            columns[name][index] = rows[name]

    def state(self) -> dict[str, np.ndarray]:
        """Return how many transitions were pushed; the rows are saved apart, a few at a time."""
        return {"pushed": np.array(self.pushed)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned, once the rows are restored."""
        check_counts("pushed", state["pushed"])
        self.pushed = int(state["pushed"])


def _forms_of(given: Mapping[str, Any]) -> dict[str, Form]:
    """The forms of a memory whose first transition has these arrays, None for those that it does not have."""
    try:
        arrays = {name: np.asarray(value) for name, value in given.items() if value is not None}
    except (TypeError, ValueError, OverflowError) as error:
        raise Misfit(f"The transition cannot be stored: {first_line(error)}.") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise Misfit(f"The transition cannot be stored: its {name} holds {array.dtype}, not numbers.")
    if not {"obs", "next_obs"} <= arrays.keys() or ("mask" in arrays) != ("next_mask" in arrays):
        raise Misfit("The transition cannot be stored: it has to have obs and next_obs, and both masks or none.")
    forms = transition_forms(arrays["obs"].shape, arrays["obs"].dtype, None)
    return forms | {name: Form(array.shape, array.dtype) for name, array in arrays.items()}


def _allocated(capacity: int, forms: Mapping[str, Form]) -> Columns:
    if not isinstance(forms, Mapping) or not all(isinstance(form, Form) for form in forms.values()):
        raise wrong("forms", forms, "the forms of a transition's fields by name, as transition_forms returns them")
    required = {field for field in Columns._fields if field not in Columns._field_defaults}
    if not required <= forms.keys() <= set(Columns._fields):
        raise wrong("forms", sorted(map(str, forms)), f"forms of {', '.join(Columns._fields)}")
    try:
        return Columns(**{name: np.zeros((capacity, *form.shape), form.dtype) for name, form in forms.items()})
    except MemoryError as error:  # where the system does not say in advance what it has
        needed = in_gib(bytes_needed(capacity, forms))
        raise UprightError(
            f"The replay memory needs {needed}, which this machine refuses: lower buffer_size."
        ) from error


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
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
            raise wrong("seed", seed, "a whole number, 0 or more")
        if not isinstance(replay, (Uniform, Prioritised)):
            raise wrong("replay", replay, "upright.Uniform() or upright.Prioritised(…)")
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

        Raises Misfit, which is a ValueError, when the memory is empty.
        """
        if type(batch_size) is not int or not 1 <= batch_size <= LARGEST_BATCH:
            raise wrong("batch_size", batch_size, f"a whole number from 1 to {LARGEST_BATCH:,}")
        if not isinstance(progress, (float, int)) or not 0 <= progress <= 1:
            raise wrong("progress", progress, "a number in [0, 1]")
        ring = self.ring
        columns = ring.columns
        if not ring.pushed:
            raise Misfit("The memory is empty: push a transition before you sample.")
        return Batch(columns, *self.selector.select(batch_size, len(ring), progress))

    def reprioritise(self, batch: Batch, priority: np.ndarray) -> None:
        """Take the priorities `[B]` that an update gave to the batch. Raises Diverged when one is not finite."""
        if not isinstance(batch, Batch):
            raise wrong("batch", batch, "what sample returned")
        try:
            self.selector.reprioritise(batch.place, priority)
        except (TypeError, ValueError, OverflowError) as error:
            raise Misfit(f"The priorities do not fit the batch: {first_line(error)}.") from error

    def state(self) -> dict[str, np.ndarray]:
        """Return everything but the rows that the next batches depend on."""
        return {**self.ring.state(), **self.selector.state(len(self))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Resume from what `state` returned, with the same batches, once the rows are restored."""
        self.ring.load_state(state)
        self.selector.load_state(state, len(self))
