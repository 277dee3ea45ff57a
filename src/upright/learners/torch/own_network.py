"""A network of the user's own: how it is made, and the parts of an observation that it is given."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from upright.errors import SettingError
from upright.learners.contract import NetworkSource
from upright.learners.problem import Problem
from upright.messages import first_line


def built(network: NetworkSource, problem: Problem) -> nn.Module:
    """The module, or what a factory of one makes. Raises SettingError for anything else."""
    if isinstance(network, nn.Module):
        return network
    if not callable(network):
        raise SettingError(
            f"network is {network!r}, but it has to be a torch.nn.Module, or a function from a Problem to one; the "
            "settings (net_arch, activation, …) describe upright's own."
        )
    try:
        built = network(problem)
    except Exception as error:
        hint = ""
        if isinstance(network, type) and issubclass(network, nn.Module):
            hint = f" give a module, network={network.__name__}(…), or take the Problem in its constructor;"
        raise SettingError(
            f"network, called with the Problem, raised {type(error).__name__}:{hint} {first_line(error)}."
        ) from error
    if not isinstance(built, nn.Module):
        raise SettingError(f"network gave a {type(built).__name__}, not a torch.nn.Module.")
    return built


def parts(vector: Tensor, structure: Any) -> Any:
    """Take a batch of vectors `[B, D]` apart, in the order of a structure of shapes, into that structure of tensors."""
    tensors = iter(vector.split([math.prod(shape) for shape in _shapes(structure)], dim=1))

    def nested(level: Any) -> Any:
        if isinstance(level, dict):
            return {key: nested(inner) for key, inner in level.items()}
        if isinstance(level, tuple):
            return tuple(nested(inner) for inner in level)
        return next(tensors).reshape(len(vector), *level)

    return nested(structure)


def _shapes(structure: Any) -> list[list[int]]:
    if isinstance(structure, list):
        return [structure]
    inner = structure.values() if isinstance(structure, dict) else structure
    return [shape for part in inner for shape in _shapes(part)]
