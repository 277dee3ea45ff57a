"""The native learner: multilayer perceptrons on the CPU, by the C++ of `native/`, without PyTorch.

It keeps the parameters of each network in one vector, in the order of `parameter_shapes`, where each row of a matrix,
and each vector, is padded with zeros to a multiple of 16 numbers. Here they are seen by their names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from upright import _native
from upright.errors import Diverged, UprightError
from upright.learners.contract import moments
from upright.learners.initialisation import initial_parameters
from upright.learners.layout import parameter_shapes
from upright.learners.problem import Problem
from upright.replay import Batch, Columns
from upright.settings.config import KINDS, Categorical, Config, ImplicitQuantile, QLearning, Quantile
from upright.state import check_fit, generator_state, noise_generator, set_generator_state

MULTIPLE = 16
# What C++ calls the moments of PyTorch's names: the first is the gradient's, the second its square's.
MOMENTS = {
    "exp_avg": "first_moment",
    "exp_avg_sq": "second_moment",
    "max_exp_avg_sq": "largest_moment",
    "grad_avg": "first_moment",
    "square_avg": "second_moment",
}


class NativeLearner:
    """Learns with the native engine (see `Learner`), in the calling thread alone.

    instruction_set: avx512, avx2 or portable; None for the best that this machine has. Between two of them the last
    bits may differ.
    """

    engine = "native"

    def __init__(self, config: Config, problem: Problem, seed: int, instruction_set: str | None = None) -> None:
        self.config, self.problem = config, problem
        self._native = self._make(instruction_set)
        self.device = f"cpu, {self._native.instruction_set}"
        shapes = parameter_shapes(config, problem)
        self._online = _views(self._native.online, shapes)
        self._target = _views(self._native.target, shapes)
        self._moments = {name: _views(getattr(self._native, MOMENTS[name]), shapes) for name in moments(config)}
        self._random = noise_generator(seed)
        self._columns: Columns | None = None
        self.load_parameters(initial_parameters(config, problem, seed))

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        explore = explore and self.config.noisy
        if explore:
            self._resample(of_target=False)
        q = np.empty((len(obs), self.problem.num_actions), np.float32)
        self._native.q_values(obs, q, explore)
        return q

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        if batch.columns is not self._columns:
            self._bind(batch.columns)
        if self.config.noisy:
            self._resample(of_target=False)
            self._resample(of_target=True)
        priority = np.empty(len(batch.place), np.float32)
        loss = self.config.loss
        fractions = self._draw_fractions(len(batch.place), loss) if isinstance(loss, ImplicitQuantile) else ()
        if not self._native.update(batch.place, batch.weight, learning_rate, priority, *fractions):
            mean, norm = self._native.last
            raise Diverged("The gradient's norm", norm) if math.isfinite(mean) else Diverged("The loss", mean)
        return priority

    def update_target(self) -> None:
        self._native.update_target(self.config.tau)

    def metrics(self) -> dict[str, float]:
        loss, norm, mean_q, updates = self._native.sums
        if not updates:
            return {}
        self._native.sums = (0.0, 0.0, mean_q, 0)
        return {"train/loss": loss / updates, "train/grad_norm": norm / updates, "train/mean_q": mean_q}

    def parameters(self) -> dict[str, np.ndarray]:
        return {name: view.copy() for name, view in self._online.items()}

    def gradient(self) -> dict[str, np.ndarray]:
        """The last update's gradient by the parameters' names, before it was clipped."""
        views = _views(self._native.gradient, parameter_shapes(self.config, self.problem))
        return {name: view.copy() for name, view in views.items()}

    def load_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        check_fit(parameters, self._online)
        for name, value in parameters.items():
            self._online[name][...] = value
            self._target[name][...] = value

    def state(self) -> dict[str, np.ndarray]:
        loss, norm, mean_q, updates = self._native.sums
        return {
            **{name: view.copy() for name, view in self._stored().items()},
            "optimizer/step": np.array(self._native.steps, np.int64),
            "random": generator_state(self._random),
            "metrics/updates": np.array(updates, np.int64),
            "metrics/loss": np.array(loss),
            "metrics/grad_norm": np.array(norm),
            "metrics/mean_q": np.array(mean_q),
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        check_fit(state, self.state())
        for name, view in self._stored().items():
            view[...] = state[name]
        self._native.steps = int(state["optimizer/step"])
        set_generator_state(self._random, state["random"])
        loss, norm, mean_q = (float(state[f"metrics/{name}"]) for name in ("loss", "grad_norm", "mean_q"))
        self._native.sums = (loss, norm, mean_q, int(state["metrics/updates"]))

    def _stored(self) -> dict[str, np.ndarray]:
        """The arrays that `state` is made of, by its names."""
        groups = {"online": self._online, "target": self._target}
        groups |= {f"optimizer/{moment}": views for moment, views in self._moments.items()}
        return {f"{group}/{name}": view for group, views in groups.items() for name, view in views.items()}

    def _make(self, instruction_set: str | None) -> _native.Learner:
        config, problem = self.config, self.problem
        loss, soft = config.loss, config.munchausen
        outputs = loss.quantiles if isinstance(loss, ImplicitQuantile) else loss.outputs or 1
        try:
            return _native.Learner(
                inputs=math.prod(problem.observation_shape),
                actions=problem.num_actions,
                widths=list(config.net_arch),
                activation=config.activation,
                layer_norm=config.layer_norm,
                dueling=config.dueling,
                noisy=config.noisy,
                loss=next(name for name, kind in KINDS["loss"].items() if isinstance(loss, kind)),
                huber=isinstance(loss, QLearning) and loss.error == "huber",
                double_q=loss.double,
                outputs=outputs,
                targets=loss.target_quantiles if isinstance(loss, ImplicitQuantile) else outputs,
                policy_fractions=loss.policy_quantiles if isinstance(loss, ImplicitQuantile) else 0,
                cosines=loss.cosines if isinstance(loss, ImplicitQuantile) else 0,
                v_min=loss.v_min if isinstance(loss, Categorical) else 0.0,
                v_max=loss.v_max if isinstance(loss, Categorical) else 0.0,
                kappa=loss.kappa if isinstance(loss, (Quantile, ImplicitQuantile)) else 0.0,
                munchausen=None if soft is None else (soft.alpha, soft.temperature, soft.clip),
                optimizer=config.optimizer,
                amsgrad=config.amsgrad,
                epsilon=config.optimizer_eps,
                weight_decay=config.weight_decay,
                max_norm=config.max_grad_norm,
                max_value=config.max_grad_value,
                instruction_set=instruction_set,
            )
        except MemoryError as error:
            raise UprightError("The network needs more memory than this machine has: lower net_arch.") from error

    def _bind(self, columns: Columns) -> None:
        self._native.bind(
            columns.obs,
            columns.next_obs,
            columns.action,
            columns.reward,
            columns.discount,
            columns.mask,
            columns.next_mask,
        )
        self._columns = columns

    def _draw_fractions(self, count: int, loss: ImplicitQuantile) -> tuple[np.ndarray, np.ndarray]:
        """Where the online and the target network are asked for their quantiles."""
        online = self._random.random((count, loss.quantiles), np.float32)
        return online, self._random.random((count, loss.target_quantiles), np.float32)

    def _resample(self, of_target: bool) -> None:
        self._native.set_noise(of_target, self._random.standard_normal(self._native.noise_size, np.float32))


def _views(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Each parameter as a view into the padded vector that holds them all."""
    views: dict[str, Any] = {}
    place = 0
    for name, shape in shapes.items():
        padded = (*shape[:-1], -(-shape[-1] // MULTIPLE) * MULTIPLE)
        size = math.prod(padded)
        views[name] = vector[place : place + size].reshape(padded)[..., : shape[-1]]
        place += size
    assert place == len(vector), "the C++ and parameter_shapes differ on what a network has"
    return views
