"""How upright's own network starts: its parameters' names, shapes and first values, the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from upright.settings.config import Categorical, Config, ImplicitQuantile, Loss, Quantile

if TYPE_CHECKING:
    from upright.learners.problem import Problem

NOISE = 0.5
"""σ₀ of the noisy layers (Fortunato 2018, section 3.2)."""

NATURE_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel's side and stride of each (Mnih 2015, methods, "Model architecture")."""


def outputs_per_action(loss: Loss) -> int | None:
    """Atoms or quantiles per action; None for one scalar, and for implicit quantiles, which come one per fraction."""
    match loss:
        case Categorical(atoms=n) | Quantile(quantiles=n):
            return n
        case ImplicitQuantile():
            return 1
    return None


def input_features(observation_shape: tuple[int, ...], is_image: bool) -> int:
    """What the first fully connected layer takes: a vector's numbers, or an image's features after the convolutions."""
    if not is_image:
        return math.prod(observation_shape)
    _, *sides = observation_shape
    for _, kernel, stride in NATURE_CONVOLUTIONS:
        sides = [(side - kernel) // stride + 1 for side in sides]
    return NATURE_CONVOLUTIONS[-1][0] * math.prod(sides)


def parameter_shapes(config: Config, problem: Problem) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name, in the order of the network's `named_parameters`.

    A weight is `[out, in]`, or `[out, in, side, side]` of a convolution; a noisy layer's σ have its μ's shapes.
    """
    return {name: shape for layer in _layers(config, problem) for name, shape in layer.shapes()}


def initial_parameters(config: Config, problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """The first value of each parameter, float32, by the names of `parameter_shapes`, drawn in their order.

    pytorch: weights and biases uniform in ±1/√n for n inputs, as PyTorch's layers and Fortunato 2018's μ start
    orthogonal: a weight W `[out, n]` with W Wᵀ = 2 I, or Wᵀ W = 2 I where out > n, and biases 0 (Saxe 2014)
    Both: a noisy layer's σ are 0.5/√n (Fortunato 2018, section 3.2), layer norms begin as the identity.
    """
    random = np.random.default_rng(seed)
    parameters: dict[str, np.ndarray] = {}
    for layer in _layers(config, problem):
        shapes = dict(layer.shapes())
        weight, bias = list(shapes)[:2]
        if layer.kind == "norm":
            parameters |= {weight: np.ones(shapes[weight]), bias: np.zeros(shapes[bias])}
            continue
        inputs = math.prod(layer.weight[1:])
        bound = 1 / math.sqrt(inputs)
        if config.initialisation == "orthogonal":
            parameters[weight] = math.sqrt(2) * _orthogonal(random, layer.weight[0], inputs).reshape(layer.weight)
            parameters[bias] = np.zeros(shapes[bias])
        else:
            for name in (weight, bias):
                parameters[name] = random.uniform(-bound, bound, shapes[name])
        for name in list(shapes)[2:]:
            parameters[name] = np.full(shapes[name], NOISE * bound)
    return {name: value.astype(np.float32) for name, value in parameters.items()}


class _Layer(NamedTuple):
    """What has a weight and a bias: a linear layer or convolution, a noisy linear layer, or a layer norm."""

    name: str
    kind: Literal["linear", "noisy", "norm"]
    weight: tuple[int, ...]

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        for suffix in ("", "_sigma") if self.kind == "noisy" else ("",):
            yield f"{self.name}.weight{suffix}", self.weight
            yield f"{self.name}.bias{suffix}", self.weight[:1]


def _layers(config: Config, problem: Problem) -> Iterator[_Layer]:
    """The layers with parameters, numbered as in the network's sequences, where the nonlinearities count too."""
    place = 0
    if problem.is_image:
        before = problem.observation_shape[0]
        for channels, kernel, _ in NATURE_CONVOLUTIONS:
            yield _Layer(f"torso.{place}", "linear", (channels, before, kernel, kernel))
            before = channels
            place += 2
        place += 1  # the features are flattened
    features = input_features(problem.observation_shape, problem.is_image)
    for width in config.net_arch[:-1]:
        yield from _hidden(config, "torso", place, "linear", features, width)
        features = width
        place += 3 if config.layer_norm else 2
    per_action = outputs_per_action(config.loss) or 1
    streams = {"advantage": problem.num_actions * per_action} | ({"value": per_action} if config.dueling else {})
    kind: Literal["linear", "noisy"] = "noisy" if config.noisy else "linear"
    for stream, outputs in streams.items():
        place, inputs = 0, features
        for width in config.net_arch[-1:]:
            yield from _hidden(config, stream, place, kind, features, width)
            inputs = width
            place += 3 if config.layer_norm else 2
        yield _Layer(f"{stream}.{place}", kind, (outputs, inputs))
    if isinstance(config.loss, ImplicitQuantile):
        yield _Layer("embedding", "linear", (features, config.loss.cosines))


def _hidden(
    config: Config, sequence: str, place: int, kind: Literal["linear", "noisy"], features: int, width: int
) -> Iterator[_Layer]:
    yield _Layer(f"{sequence}.{place}", kind, (width, features))
    if config.layer_norm:
        yield _Layer(f"{sequence}.{place + 1}", "norm", (width,))


def _orthogonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix `[rows, columns]` with orthonormal rows, or columns if there are fewer of them."""
    q, r = np.linalg.qr(random.standard_normal((max(rows, columns), min(rows, columns))))
    # With R's diagonal positive the factors are unique, and Q is uniform among such matrices.
    oriented: np.ndarray = q * np.sign(r.diagonal())
    return oriented if rows >= columns else oriented.T
