"""Learners: what turns batches into parameters, behind one contract.

An engine is what a learner computes with. `torch` is the reference, for any network on any device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from upright.config import Config
from upright.replay import Batch

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Problem:
    """What a network is built for: the encoded observation's shape, whether it is an image, the number of actions."""

    observation_shape: tuple[int, ...]
    is_image: bool
    num_actions: int


class Learner(Protocol):
    """Holds the online and target parameters and the optimiser."""

    engine: str
    device: str

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        """Q(s, ·) of the online network: obs `[B, *shape]` → `[B, A]`; `explore` draws noise for noisy layers."""

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray | None:
        """Descend one gradient step; the priorities `[B]`, or None when the replay is uniform."""

    def update_target(self) -> None:
        """θ⁻ ← τ θ + (1 − τ) θ⁻."""

    def metrics(self) -> dict[str, float]:
        """`train/…` means over the updates since the last call; empty when there were none."""

    def parameters(self) -> dict[str, np.ndarray]:
        """The online parameters by name."""

    def load_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Set the online and the target parameters."""


def make_learner(config: Config, problem: Problem, seed: int, network: nn.Module | Any | None = None) -> Learner:
    """The learner for these settings; `network` is a module, or a factory of one, to use instead of the settings'."""
    from upright.learners.torch import TorchLearner

    return TorchLearner(config, problem, seed, network)
