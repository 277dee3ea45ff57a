"""What the extension offers, which `native/module.cpp` defines; absent where there was no compiler."""

from collections.abc import Sequence

import numpy as np

class Learner:
    """Two networks, the gradient and the optimiser; `bind` gives it the columns of a replay memory to gather from.

    Raises ValueError, IndexError or TypeError for what does not fit, before anything is changed, RuntimeError while it
    updates in another thread, and MemoryError for what this machine cannot hold.
    """

    def __init__(
        self,
        *,
        inputs: int,
        actions: int,
        widths: Sequence[int],
        activation: str,
        layer_norm: bool,
        dueling: bool,
        noisy: bool,
        loss: str,
        huber: bool,
        double_q: bool,
        outputs: int,
        targets: int,
        policy_fractions: int,
        cosines: int,
        v_min: float,
        v_max: float,
        kappa: float,
        munchausen: tuple[float, float, float] | None,
        optimizer: str,
        amsgrad: bool,
        epsilon: float,
        weight_decay: float,
        max_norm: float | None,
        max_value: float | None,
        instruction_set: str | None = None,
    ) -> None: ...

    steps: int
    """Steps of the optimiser so far."""
    sums: tuple[float, float, float, int]
    """Sums of loss and gradient norm, the last batch's mean Q, and how many updates they are of."""

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
    def last(self) -> tuple[float, float]:
        """Loss and gradient norm of the last update."""

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

def instruction_sets() -> list[str]:
    """Those that were built and that this machine has, the best one first."""

def fma_peak() -> float:
    """What one core reaches when it does nothing but multiply and add in registers, in GFLOP/s."""
