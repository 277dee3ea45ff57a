"""Torsos (multilayer perceptron, Nature's convolutions) × heads (scalar, dueling, atoms, quantiles), in PyTorch.

Shape letters: B batch · A actions · N atoms or quantiles · F features.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from upright.learners.layout import Layer, Stream, network_layers
from upright.learners.problem import Problem
from upright.settings.config import Config

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}


class NoisyLinear(nn.Module):
    """y = (μʷ + σʷ ⊙ εʷ) x + μᵇ + σᵇ ⊙ εᵇ, with εʷ = f(ε_out) f(ε_in)ᵀ, f(x) = sgn(x)√|x|   (Fortunato 2018, eq. 9–11)

    x `[..., in_features]` → y `[..., out_features]`. μ and σ start at 0, until `initial_parameters` are loaded. In
    evaluation mode the noise is left out; `resample` draws a new one.
    """

    weight_noise: Tensor
    bias_noise: Tensor

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.weight_sigma = nn.Parameter(torch.zeros(out_features, in_features))
        self.bias_sigma = nn.Parameter(torch.zeros(out_features))
        # The noise is drawn again before each use, so no saved policy needs it.
        self.register_buffer("weight_noise", torch.zeros(out_features, in_features), persistent=False)
        self.register_buffer("bias_noise", torch.zeros(out_features), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.linear(x, self.weight, self.bias)
        return functional.linear(
            x,
            torch.addcmul(self.weight, self.weight_sigma, self.weight_noise),
            torch.addcmul(self.bias, self.bias_sigma, self.bias_noise),
        )

    def resample(self, random: np.random.Generator) -> None:
        """Draw new noise: a standard normal number for each input, then one for each output."""
        # By NumPy and in float32 on every device and in every engine, so that all of them see the same noise.
        draw = random.standard_normal(self.in_features + self.out_features, dtype=np.float32)
        noise = torch.from_numpy(np.sign(draw) * np.sqrt(np.abs(draw))).to(self.weight)
        of_input, of_output = noise[: self.in_features], noise[self.in_features :]
        self.weight_noise.copy_(torch.outer(of_output, of_input))
        self.bias_noise.copy_(of_output)


class Network(nn.Module):
    """Observations to what the loss learns: Q(s, ·) `[B, A]`, logits or quantiles `[B, A, N]`.

    `learners/layout.py` lists the layers of torso and head. When dueling, the head combines its two streams:
        Q(s, a) = V(s) + A(s, a) − mean_a' A(s, a')          (Wang 2016, eq. 9; for atoms, Hessel 2018)
    Implicit quantiles multiply the torso's features with an embedding of the fraction τ before the head:
        Z_τ(s, ·) = head(ψ(s) ⊙ relu(W cos(π i τ)_{i<n} + b))          (Dabney 2018b, eq. 4)
    A new network is loaded with the first values of `learners/initialisation.py`.
    """

    half_turns: Tensor

    def __init__(self, config: Config, observation_shape: tuple[int, ...], is_image: bool, num_actions: int) -> None:
        super().__init__()
        layers = network_layers(config, Problem(observation_shape, is_image, num_actions))

        def sequence(stream: Stream) -> nn.Sequential:
            return nn.Sequential(*[module for layer in layers if layer.stream == stream for module in _modules(layer)])

        self.num_actions = num_actions
        self.outputs = config.loss.outputs
        self.has_actions_only = self.outputs is None
        self.torso = sequence("torso")
        self.advantage = sequence("advantage")
        self.value = sequence("value") if config.dueling else None
        self.embedding: nn.Module | None = None
        if (fractions := config.loss.fractions) is not None:
            (self.embedding,) = sequence("embedding")
            self.register_buffer("half_turns", torch.arange(fractions.cosines, dtype=torch.float32), persistent=False)
        self._noisy = [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def forward(self, obs: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Obs `[B, *shape]`, fractions τ `[B, N]` for implicit quantiles → `[B, A]` or `[B, A, N]`."""
        return self.head(self.torso(obs), fractions)

    def head(self, features: Tensor, fractions: Tensor | None = None) -> Tensor:
        """Features `[B, F]` of the torso → `[B, A]` or `[B, A, N]`."""
        if self.embedding is not None:
            assert fractions is not None
            # Whole turns are taken off before π is multiplied: of 64 π τ, float32 would keep five digits.
            cosines = torch.cos(math.pi * torch.remainder(fractions[..., None] * self.half_turns, 2.0))
            features = features[:, None] * functional.relu(self.embedding(cosines))  # [B, N, F]
        output = self._per_action(self.advantage(features), self.num_actions)
        if self.value is not None:
            output = output - output.mean(dim=1, keepdim=True) + self._per_action(self.value(features), 1)
        return output.squeeze(2) if self.has_actions_only else output

    def _per_action(self, flat: Tensor, actions: int) -> Tensor:
        if self.embedding is not None:
            return flat.transpose(1, 2)  # [B, N, A] → [B, A, N]
        return flat.view(len(flat), actions, self.outputs or 1)

    def resample(self, random: np.random.Generator) -> None:
        """Draw new noise for every noisy layer, in the order of their parameters."""
        for module in self._noisy:
            module.resample(random)


def _modules(layer: Layer) -> list[nn.Module]:
    """The layer and what follows it, in the places that the layout counts."""
    if (shape := layer.convolution) is not None:
        modules: list[nn.Module] = [nn.Conv2d(layer.inputs, layer.outputs, shape.side, shape.stride)]
    else:
        linear = NoisyLinear if layer.kind == "noisy" else nn.Linear
        modules = [linear(layer.inputs, layer.outputs)]
    if layer.norm:
        modules.append(nn.LayerNorm(layer.outputs))
    if layer.activation is not None:
        modules.append(ACTIVATIONS[layer.activation]())
    if shape is not None and shape.flattens:
        modules.append(nn.Flatten())
    return modules
