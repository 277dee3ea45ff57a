"""The native learner: multilayer perceptrons on the CPU, by the C++ of `native/`, without PyTorch.

It keeps the parameters of each network in one vector, in the order of `parameter_shapes`, where each row of a matrix,
and each vector, is padded with zeros to a multiple of 16 numbers. Here they are seen by their names.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from upright import _native
from upright.errors import Diverged, UprightError
from upright.learners.contract import moments, with_every_measure
from upright.learners.initialisation import initial_parameters
from upright.learners.layout import network_layers, parameter_shapes
from upright.learners.problem import Problem
from upright.replay import Batch, Columns
from upright.settings.config import Config
from upright.settings.kinds import Fractions
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

# What the C++ is made from. It refuses a name among them, or a value, that it does not know.
SETTINGS = (
    "loss",
    "munchausen",
    "optimizer",
    "amsgrad",
    "optimizer_eps",
    "weight_decay",
    "max_grad_norm",
    "max_grad_value",
)
LAYER = ("stream", "kind", "inputs", "outputs", "norm", "activation")


def described(config: Config, problem: Problem) -> dict[str, Any]:
    """The settings that the C++ needs, by their own names, with the network's layers and the number of actions."""
    values = config.to_dict()
    layers = [{name: getattr(layer, name) for name in LAYER} for layer in network_layers(config, problem)]
    return {**{name: values[name] for name in SETTINGS}, "layers": layers, "actions": problem.num_actions}


def obstacle(config: Config, problem: Problem) -> str | None:
    """The first thing asked for that the C++ does not know, as the end of a sentence; None when it knows all."""
    return _native.obstacle(described(config, problem))


class NativeLearner:
    """Learns with the native engine (see `Learner`), in the calling thread alone.

    instruction_set: avx512, avx2 or portable, and neon on ARM; None for the best that this machine has. Between two of
    them the last bits may differ.
    """

    engine = "native"

    def __init__(self, config: Config, problem: Problem, seed: int, instruction_set: str | None = None) -> None:
        self.config, self.problem = config, problem
        try:
            self._native = _native.Learner(described(config, problem), instruction_set)
        except MemoryError as error:
            raise UprightError("The network needs more memory than this machine has: lower net_arch.") from error
        if problem.scale is not None:
            self._native.scale(np.array(problem.scale, np.float32))
        self.device = f"cpu, {self._native.instruction_set}"
        shapes = parameter_shapes(config, problem)
        self._online = _views(self._native.online, shapes)
        self._target = _views(self._native.target, shapes)
        self._moments = {name: _views(getattr(self._native, MOMENTS[name]), shapes) for name in moments(config)}
        self._random = noise_generator(seed)
        self._lock = threading.Lock()  # a policy may be asked by another thread than the one that trains it
        self._columns: Columns | None = None
        self.load_parameters(initial_parameters(config, problem, seed))

    def q_values(self, obs: np.ndarray, explore: bool = False) -> np.ndarray:
        explore = explore and self.config.noisy
        q = np.empty((len(obs), self.problem.num_actions), np.float32)
        with self._lock:
            if explore:
                self._resample(of_target=False)
            self._native.q_values(obs, q, explore)
        return q

    def outputs(self, obs: np.ndarray) -> np.ndarray:
        shape = len(obs), self.problem.num_actions, self._native.outputs_asked
        output = np.empty((shape[0], shape[1] * shape[2]), np.float32)
        with self._lock:
            self._native.outputs(obs, output)
        return output.reshape(shape)

    def update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        with self._lock:
            return self._update(batch, learning_rate)

    def _update(self, batch: Batch, learning_rate: float) -> np.ndarray:
        if batch.columns is not self._columns:
            self._bind(batch.columns)
        if self.config.noisy:
            self._resample(of_target=False)
            self._resample(of_target=True)
        priority = np.empty(len(batch.place), np.float32)
        asked = self.config.loss.fractions
        fractions = () if asked is None else self._draw_fractions(len(batch.place), asked)
        if not self._native.update(batch.place, batch.weight, learning_rate, priority, *fractions):
            last = self._native.last
            if math.isfinite(last["loss"]):
                raise Diverged("The gradient's norm", last["grad_norm"])
            raise Diverged("The loss", last["loss"])
        return priority

    def update_target(self) -> None:
        with self._lock:
            self._native.update_target(self.config.tau)

    def metrics(self) -> dict[str, float]:
        return {f"train/{name}": value for name, value in self._native.report().items()}

    def own_network(self) -> None:
        return None

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
        return {
            **{name: view.copy() for name, view in self._stored().items()},
            "optimizer/step": np.array(self._native.steps, np.int64),
            "random": generator_state(self._random),
            "metrics/updates": np.array(self._native.updates, np.int64),
            **{f"metrics/{name}": np.array(value) for name, value in self._native.measured.items()},
        }

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        names = list(self._native.measured)
        state = with_every_measure(state, names)
        check_fit(state, self.state())
        for name, view in self._stored().items():
            view[...] = state[name]
        self._native.steps = int(state["optimizer/step"])
        set_generator_state(self._random, state["random"])
        self._native.updates = int(state["metrics/updates"])
        self._native.measured = {name: float(state[f"metrics/{name}"]) for name in names}

    def _stored(self) -> dict[str, np.ndarray]:
        """The arrays that `state` is made of, by its names."""
        groups = {"online": self._online, "target": self._target}
        groups |= {f"optimizer/{moment}": views for moment, views in self._moments.items()}
        return {f"{group}/{name}": view for group, views in groups.items() for name, view in views.items()}

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

    def _draw_fractions(self, count: int, asked: Fractions) -> tuple[np.ndarray, np.ndarray]:
        """Draw the fractions at which the online and the target network give their quantiles."""
        online = self._random.random((count, asked.online), np.float32)
        return online, self._random.random((count, asked.target), np.float32)

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
    assert place == len(vector), "the C++ and the layout differ on what a network has"
    return views
