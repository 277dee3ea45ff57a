"""The layers of upright's own network, listed once: first values and every engine follow this list."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from upright.learners.problem import Problem
from upright.settings.config import Config

NATURE_CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
"""Channels, kernel's side and stride of each (Mnih 2015, methods, "Model architecture")."""

Stream = Literal["torso", "advantage", "value", "embedding"]
Kind = Literal["linear", "noisy", "convolution"]


class Convolution(NamedTuple):
    """A convolution's square kernel, its stride, and whether its channels are flattened into one vector of features."""

    side: int
    stride: int
    flattens: bool


class Layer(NamedTuple):
    """A layer with a weight and a bias, and what follows it.

    stream: the sequence that it belongs to: the torso, a stream of the head, or the embedding of fractions τ
    kind: fully connected, without or with noise on its weights, or a convolution
    inputs, outputs: numbers of features, or of a convolution's channels
    norm: True if a layer norm follows · activation: the nonlinearity that follows, or None
    place: its index in the stream, in which norms, nonlinearities and flattening count too
    """

    stream: Stream
    kind: Kind
    inputs: int
    outputs: int
    norm: bool = False
    activation: str | None = None
    convolution: Convolution | None = None
    place: int = 0

    @property
    def name(self) -> str:
        """The prefix of its parameters' names."""
        return self.stream if self.stream == "embedding" else f"{self.stream}.{self.place}"

    @property
    def norm_name(self) -> str:
        """The prefix of its layer norm's parameters' names."""
        return f"{self.stream}.{self.place + 1}"

    @property
    def weight(self) -> tuple[int, ...]:
        """The shape of its weight: `[out, in]`, or `[out, in, side, side]`."""
        kernel = () if self.convolution is None else 2 * (self.convolution.side,)
        return (self.outputs, self.inputs, *kernel)

    @property
    def places(self) -> int:
        """The number of places that it takes in the stream, with what follows it."""
        flattens = self.convolution is not None and self.convolution.flattens
        return 1 + self.norm + (self.activation is not None) + flattens

    def parameters(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes: its weight and bias, those of a noisy layer's σ, those of the norm."""
        for suffix in ("", "_sigma") if self.kind == "noisy" else ("",):
            yield f"{self.name}.weight{suffix}", self.weight
            yield f"{self.name}.bias{suffix}", (self.outputs,)
        if self.norm:
            yield f"{self.norm_name}.weight", (self.outputs,)
            yield f"{self.norm_name}.bias", (self.outputs,)


def network_layers(config: Config, problem: Problem) -> tuple[Layer, ...]:
    """The network's layers, in the order of its parameters.

    The torso is the convolutions, if the observation is an image, and all hidden layers but the last. The head is
    the last hidden layer and the output, once for the advantages and once more for the value when dueling. On Atari
    the papers' noisy layers are those after the convolutions, which are the head here. Implicit quantiles embed a
    fraction in as many features as the torso has.
    """
    features = input_features(problem)
    *widths, head_width = config.net_arch or (None,)
    torso = list(_convolutions(problem)) if problem.is_image else []
    for width in widths:
        torso.append(Layer("torso", "linear", features, width, config.layer_norm, config.activation))
        features = width
    layers = [*_placed(torso)]
    outputs = config.loss.outputs or 1
    streams: dict[Stream, int] = {"advantage": problem.num_actions * outputs}
    if config.dueling:
        streams["value"] = outputs
    kind: Kind = "noisy" if config.noisy else "linear"
    for stream, count in streams.items():
        head, inputs = [], features
        if head_width is not None:
            head.append(Layer(stream, kind, features, head_width, config.layer_norm, config.activation))
            inputs = head_width
        layers += _placed([*head, Layer(stream, kind, inputs, count)])
    if (fractions := config.loss.fractions) is not None:
        layers.append(Layer("embedding", "linear", fractions.cosines, features))
    return tuple(layers)


def parameter_shapes(config: Config, problem: Problem) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter by its name, in the order of the network's `named_parameters`."""
    return {name: shape for layer in network_layers(config, problem) for name, shape in layer.parameters()}


def input_features(problem: Problem) -> int:
    """The inputs of the first fully connected layer: a vector's numbers, or an image's features."""
    if not problem.is_image:
        return math.prod(problem.observation_shape)
    _, *sides = problem.observation_shape
    for _, kernel, stride in NATURE_CONVOLUTIONS:
        sides = [(side - kernel) // stride + 1 for side in sides]
    return NATURE_CONVOLUTIONS[-1][0] * math.prod(sides)


def _convolutions(problem: Problem) -> Iterator[Layer]:
    inputs = problem.observation_shape[0]
    for number, (channels, side, stride) in enumerate(NATURE_CONVOLUTIONS, start=1):
        shape = Convolution(side, stride, flattens=number == len(NATURE_CONVOLUTIONS))
        yield Layer("torso", "convolution", inputs, channels, activation="relu", convolution=shape)
        inputs = channels


def _placed(layers: Iterable[Layer]) -> Iterator[Layer]:
    """The layers of one stream, with their places in it."""
    place = 0
    for layer in layers:
        yield layer._replace(place=place)
        place += layer.places
