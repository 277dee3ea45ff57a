"""The first values of upright's own network, the same for every engine."""

from __future__ import annotations

import math

import numpy as np

from upright.learners.layout import network_layers
from upright.learners.problem import Problem
from upright.settings.config import Config

NOISE = 0.5
"""σ₀ of the noisy layers (Fortunato 2018, section 3.2)."""


def initial_parameters(config: Config, problem: Problem, seed: int) -> dict[str, np.ndarray]:
    """The first value of each parameter, float32, by the names of `parameter_shapes`, drawn in their order.

    pytorch: weights and biases uniform in ±1/√n for n inputs, as PyTorch's layers and Fortunato 2018's μ start
    orthogonal: a weight W `[out, n]` with W Wᵀ = 2 I, or Wᵀ W = 2 I where out > n, and biases 0 (Saxe 2014)
    Both: a noisy layer's σ are 0.5/√n (Fortunato 2018, section 3.2), layer norms begin as the identity.
    """
    random = np.random.default_rng(seed)
    parameters: dict[str, np.ndarray] = {}
    for layer in network_layers(config, problem):
        shapes = dict(layer.parameters())
        weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
        inputs = math.prod(layer.weight[1:])
        bound = 1 / math.sqrt(inputs)
        if config.initialisation == "orthogonal":
            parameters[weight] = math.sqrt(2) * _orthogonal(random, layer.outputs, inputs).reshape(layer.weight)
            parameters[bias] = np.zeros(layer.outputs)
        else:
            for name in (weight, bias):
                parameters[name] = random.uniform(-bound, bound, shapes[name])
        if layer.kind == "noisy":
            for name in (f"{weight}_sigma", f"{bias}_sigma"):
                parameters[name] = np.full(shapes[name], NOISE * bound)
        if layer.norm:
            parameters[f"{layer.norm_name}.weight"] = np.ones(layer.outputs)
            parameters[f"{layer.norm_name}.bias"] = np.zeros(layer.outputs)
    return {name: value.astype(np.float32) for name, value in parameters.items()}


def _orthogonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """A matrix `[rows, columns]` with orthonormal rows, or columns if there are fewer of them."""
    q, r = np.linalg.qr(random.standard_normal((max(rows, columns), min(rows, columns))))
    # With R's diagonal positive the factors are unique, and Q is uniform among such matrices.
    oriented: np.ndarray = q * np.sign(r.diagonal())
    return oriented if rows >= columns else oriented.T
