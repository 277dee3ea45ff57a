"""What the extension offers, which `native/module.cpp` defines; absent where there was no compiler."""

from typing import Any

import numpy as np

class Learner:
    """Two networks, the gradient and the optimiser; `bind` gives it the columns of a replay memory to gather from.

    `settings`: what `upright.learners.native.described` gives. Raises ValueError, IndexError or TypeError for what does
    not fit, before anything is changed, RuntimeError while it updates in another thread, and MemoryError for what this
    machine cannot hold.
    """

    def __init__(self, settings: dict[str, Any], instruction_set: str | None = None) -> None: ...

    steps: int
    """Steps of the optimiser so far."""
    updates: int
    """Updates since the last report."""
    measured: dict[str, float]
    """By name, the sum over these updates of what is reported as a mean; of other measures, the last update's."""

    @property
    def online(self) -> np.ndarray: ...
    @property
    def target(self) -> np.ndarray: ...
    @property
    def gradient(self) -> np.ndarray: ...
    @property
    def first_moment(self) -> np.ndarray: ...
    @property
    def second_moment(self) -> np.ndarray: ...
    @property
    def largest_moment(self) -> np.ndarray: ...
    @property
    def instruction_set(self) -> str: ...
    @property
    def noise_size(self) -> int: ...
    @property
    def outputs_asked(self) -> int:
        """Numbers of each action that `outputs` gives."""

    @property
    def last(self) -> dict[str, float]:
        """The measures of the last update, finite or not."""

    def report(self) -> dict[str, float]:
        """The measures of the updates since the last report, which it begins again; empty when there were none."""

    def bind(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        discount: np.ndarray,
        mask: np.ndarray | None,
        next_mask: np.ndarray | None,
    ) -> None: ...
    def update(
        self,
        place: np.ndarray,
        weight: np.ndarray | None,
        learning_rate: float,
        priority: np.ndarray | None,
        fractions: np.ndarray | None = None,
        target_fractions: np.ndarray | None = None,
    ) -> bool:
        """One gradient step, with the GIL released; False, and nothing changed, when it would not be finite."""

    def q_values(self, obs: np.ndarray, q: np.ndarray, noisy: bool) -> None: ...
    def outputs(self, obs: np.ndarray, output: np.ndarray) -> None: ...
    def scale(self, factors: np.ndarray) -> None: ...
    def set_noise(self, of_target: bool, drawn: np.ndarray) -> None: ...
    def update_target(self, share: float) -> None: ...

class SumTree:
    """See `upright.replay.prioritised.SumTree`."""

    def __init__(self, capacity: int) -> None: ...
    @property
    def total(self) -> float: ...
    def set(self, place: np.ndarray | int, value: np.ndarray | float) -> None: ...
    def __getitem__(self, place: np.ndarray) -> np.ndarray: ...
    def find(self, mass: np.ndarray) -> np.ndarray: ...

def obstacle(settings: dict[str, Any]) -> str | None:
    """What of these settings a Learner does not know, as the end of a sentence; None when it knows them all."""

def instruction_sets() -> list[str]:
    """Those that were built and that this machine has, the best one first."""

def fma_peak() -> float:
    """What one core reaches when it does nothing but multiply and add in registers, in GFLOP/s."""
