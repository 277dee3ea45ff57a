"""Learners: what turns batches into parameters, behind one contract.

An engine is what a learner computes with. `torch` is the reference, for any network on any device; `native` is the
package's own C++, for multilayer perceptrons on the CPU, and agrees with it within float32 rounding.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from upright.config import Config, ImplicitQuantile
from upright.errors import SettingError, UprightError
from upright.initialisation import parameter_shapes
from upright.replay import Batch, in_gib
from upright.replay.ring import available_bytes
from upright.sources import logger

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Problem:
    """What a network is built for: the encoded observation's shape, whether it is an image, the number of actions."""

    observation_shape: tuple[int, ...]
    is_image: bool
    num_actions: int


class Learner(Protocol):
    """Holds the online and target parameters and the optimiser.

    With the same settings and seed every engine starts upright's own network from the same parameters
    (`upright.initialisation`), and draws the same noise and fractions from the same NumPy generator.
    """

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


class Form(NamedTuple):
    """What an array has to be, where there is none yet."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def parameter_forms(config: Config, problem: Problem) -> dict[str, Form]:
    """Of upright's own network, by name: what `check_fit` takes before anything is allocated."""
    return {name: Form(shape, np.dtype(np.float32)) for name, shape in parameter_shapes(config, problem).items()}


def check_fit(given: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray | Form]) -> None:
    """Refuse, with a ValueError of one sentence, arrays whose names, shapes or kinds of numbers are not as expected."""
    for name, like in expected.items():
        if name not in given:
            raise ValueError(f"{name!r} is missing.")
        array = np.asarray(given[name])
        if array.shape != like.shape:
            raise ValueError(f"{name!r} has shape {array.shape}, and {like.shape} is needed.")
        if not np.can_cast(array.dtype, like.dtype, "same_kind"):
            raise ValueError(f"{name!r} holds {array.dtype}, and {like.dtype} is needed.")
    for name in given:
        if name not in expected:
            raise ValueError(f"{name!r} is not known here.")


def obstacle_to_native(config: Config, problem: Problem, has_own_network: bool) -> str | None:
    """Why the native engine cannot do this, as the end of a sentence; None when it can."""
    if importlib.util.find_spec("upright._native") is None:
        return (
            "upright was installed without a C++ compiler (get one by apt install g++, xcode-select --install or "
            "conda install gxx, and install upright again)"
        )
    if has_own_network:
        return "the network is your own"
    if problem.is_image:
        return "the observations are images"
    loss = config.loss
    if isinstance(loss, ImplicitQuantile) and max(loss.quantiles, loss.target_quantiles, loss.policy_quantiles) > 64:
        return "loss has more than 64 quantiles, target_quantiles or policy_quantiles"
    if config.device not in ("auto", "cpu"):
        return f"device is {config.device}"
    return None


def _check_memory(config: Config, problem: Problem) -> None:
    """Refuse, before anything is allocated, a network of upright's own that this machine cannot hold."""
    count = sum(math.prod(form.shape) for form in parameter_forms(config, problem).values())
    # Online, target, gradient and moments in float32; and the first values, drawn in float64.
    needed, available = count * (4 * (3 + len(moments(config))) + 12), available_bytes()
    if available is not None and needed > available:
        raise UprightError(
            f"The network needs {in_gib(needed)}, and {in_gib(available)} are available here: lower net_arch, or make "
            "the observations smaller with a wrapper."
        )


def why_engine(config: Config, problem: Problem, has_own_network: bool) -> str:
    """Why `make_learner` takes the engine that it takes, in a few words."""
    if config.engine != "auto":
        return "as chosen"
    obstacle = obstacle_to_native(config, problem, has_own_network)
    return "it can do all of this, and is the faster" if obstacle is None else f"because {obstacle}"


def make_learner(config: Config, problem: Problem, seed: int, network: nn.Module | Any | None = None) -> Learner:
    """The learner for these settings; `network` is a module, or a factory of one, to use instead of the settings'.

    Says why to the logger "upright" when engine is auto and it takes torch. Raises SettingError when engine is native
    and cannot do it.
    """
    if network is None:
        _check_memory(config, problem)
    if config.engine != "torch":
        obstacle = obstacle_to_native(config, problem, network is not None)
        if obstacle is None:
            from upright.learners.native import NativeLearner

            return NativeLearner(config, problem, seed)
        if config.engine == "native":
            raise SettingError(f"engine is native, which cannot do this: {obstacle}; choose --engine torch or auto.")
        logger.info(f"The engine is torch, because {obstacle}.")
    from upright.learners.torch import TorchLearner

    return TorchLearner(config, problem, seed, network)
