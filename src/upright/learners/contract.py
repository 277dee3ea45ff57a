"""The contract that every engine's learner fulfils, and what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from upright.learners.layout import parameter_shapes
from upright.learners.problem import Problem
from upright.replay import Batch
from upright.settings.config import Config
from upright.state import Form


class Learner(Protocol):
    """Holds the online and target parameters and the optimiser.

    With the same settings and seed every engine starts upright's own network from the same parameters
    (`upright.learners.initialisation`), and draws the same noise and fractions from the same NumPy generator.
    """

    engine: str
    device: str

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        """Q(s, ·) of the online network: obs `[B, *shape]` → `[B, A]`; `explore` draws noise for noisy layers."""

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        """Descend one gradient step, and return the priorities `[B]` (Schaul 2016, section 3.3)."""

    def update_target(self) -> None:
        """θ⁻ ← τ θ + (1 − τ) θ⁻."""

    def metrics(self) -> dict[str, float]:
        """`train/…` means over the updates since the last call; empty when there were none."""

    def parameters(self) -> dict[str, np.ndarray]:
        """The online parameters by name."""

    def load_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Set the online and the target parameters. Raises ValueError when they do not fit."""

    def state(self) -> dict[str, np.ndarray]:
        """All that the next update and the next metrics depend on, under names that every engine gives it.

        online/…, target/…: the parameters by name, and the buffers of a user's own network
        optimizer/<moment>/…: the moments of each parameter, by PyTorch's names for them (`moments`), 0 before the first
        update · optimizer/step: the number of updates
        random: the generator of noise and fractions (`generator_state`)
        metrics/updates, metrics/loss, metrics/grad_norm: count and sums of what `metrics` will be the mean of
        metrics/mean_q: that of the last update
        """

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from what `state` gave, to the same bits on the same engine. Raises ValueError when it does not fit."""


def moments(config: Config) -> tuple[str, ...]:
    """What the optimiser keeps for each parameter, by PyTorch's names."""
    match config.optimizer:
        case "adam" | "adamw":
            return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if config.amsgrad else []))
        case "rmsprop":
            return ("square_avg", "grad_avg")
        case "sgd":
            return ()


def parameter_forms(config: Config, problem: Problem) -> dict[str, Form]:
    """Of upright's own network, by name: what `check_fit` takes before anything is allocated."""
    return {name: Form(shape, np.dtype(np.float32)) for name, shape in parameter_shapes(config, problem).items()}
