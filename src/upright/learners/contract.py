"""The contract that every engine's learner fulfils, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from upright.learners.layout import parameter_shapes
from upright.learners.problem import Problem
from upright.replay import Batch
from upright.settings.config import Config
from upright.state import Form

if TYPE_CHECKING:
    from torch import nn

NetworkSource: TypeAlias = "nn.Module | Callable[[Problem], nn.Module]"
"""A network of the user's own: a module, or a factory of one that is called with the Problem."""


class Learner(Protocol):
    """Holds the online and target parameters and the optimiser.

    With the same settings and seed every engine starts upright's own network from the same parameters
    (`upright.learners.initialisation`), and draws the same noise and fractions from the same NumPy generator.
    """

    engine: str
    device: str

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        """Q(s, ·) of the online network: obs `[B, *shape]` → `[B, A]`; `explore` draws noise for noisy layers."""

    def outputs(self, obs: np.ndarray) -> np.ndarray:
        """Return what Q is computed from, without noise: obs `[B, *shape]` → `[B, A, N]`.

        N = 1: Q itself · N atoms: their logits, if the loss has a `support` · N quantiles, at N midpoints τ̂
        """

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        """Descend one gradient step, and return the priorities `[B]` (Schaul 2016, section 3.3)."""

    def update_target(self) -> None:
        """θ⁻ ← τ θ + (1 − τ) θ⁻."""

    def metrics(self) -> dict[str, float]:
        """The measures of the updates since the last call as `train/…`; empty when there were none.

        loss, grad_norm: means over them · mean_q: of the last one, over its batch and the actions allowed at s
        """

    def own_network(self) -> nn.Module | None:
        """The user's network as it is now; None for upright's own."""

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
        metrics/updates: the number of updates that `metrics` will report on
        metrics/…: each measure by name, as the sum of what will be a mean, else as it was in the last update
        """

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from what `state` gave, bit for bit on the same engine. Raises ValueError when it does not fit.

        A measure that it lacks, because it was written before the measure was added, is 0.
        """


def moments(config: Config) -> tuple[str, ...]:
    """Return the names of what the optimiser keeps for each parameter; they are PyTorch's."""
    match config.optimizer:
        case "adam" | "adamw":
            return ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if config.amsgrad else []))
        case "rmsprop":
            return ("square_avg", "grad_avg")
        case "sgd":
            return ()


def parameter_forms(config: Config, problem: Problem) -> dict[str, Form]:
    """Return the forms of the parameters of upright's own network, by name, before anything is allocated."""
    return {name: Form(shape, np.dtype(np.float32)) for name, shape in parameter_shapes(config, problem).items()}


def with_every_measure(state: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """A learner's state with 0 for each of these measures that it lacks."""
    return {**{f"metrics/{name}": np.array(0.0) for name in names}, **state}
